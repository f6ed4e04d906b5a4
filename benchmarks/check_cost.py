"""What a prediction costs, in units of one forward and backward pass of the same batch.

python benchmarks/check_cost.py                     GPT-2 small (2 x 128 tokens) and ResNet-50 (2 x 224 pixels)
python benchmarks/check_cost.py --model convnext    ConvNeXt tiny (2 x 224 pixels)

The limit is 10. The export of the graph (`trace`) is printed beside it: it is paid once a model, not once a prediction.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from leadline.program import trace
from leadline.theory import predict, predicted_memory

LIMIT, REPEATS = 10.0, 3
Build = Callable[[], tuple[nn.Module, Tensor]]


def gpt2() -> tuple[nn.Module, Tensor]:
    """GPT-2 small: 12 blocks of width 768."""
    config = transformers.GPT2Config(use_cache=False)
    return transformers.GPT2LMHeadModel(config).eval(), torch.randint(0, config.vocab_size, (2, 128))


def resnet() -> tuple[nn.Module, Tensor]:
    """ResNet-50, normalised by its stored statistics."""
    return transformers.ResNetForImageClassification(transformers.ResNetConfig()).eval(), torch.randn(2, 3, 224, 224)


def resnet_train() -> tuple[nn.Module, Tensor]:
    """ResNet-50, normalised by the batch."""
    return transformers.ResNetForImageClassification(transformers.ResNetConfig()).train(), torch.randn(2, 3, 224, 224)


def convnext() -> tuple[nn.Module, Tensor]:
    """ConvNeXt tiny."""
    return transformers.ConvNextForImageClassification(transformers.ConvNextConfig()).eval(), torch.randn(
        2, 3, 224, 224
    )


def vit() -> tuple[nn.Module, Tensor]:
    """ViT base, patches of 16 pixels."""
    return transformers.ViTForImageClassification(transformers.ViTConfig()).eval(), torch.randn(2, 3, 224, 224)


MODELS: dict[str, Build] = {
    "gpt2": gpt2,
    "resnet": resnet,
    "resnet-train": resnet_train,
    "convnext": convnext,
    "vit": vit,
}


def forward_backward(model: nn.Module, batch: Tensor) -> None:
    """One pass each way, as a training step makes it."""
    model.zero_grad(set_to_none=True)
    model(batch)[0].float().mean().backward()


def seconds(run: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Memory:
    """Largest resident memory while it is on, beside what was resident before; bytes."""

    def __init__(self) -> None:
        self.before = self.most = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def taken(self) -> int:
        """What came on top."""
        return self.most - self.before

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.most = max(self.most, self._now())

    @staticmethod
    def _now() -> int:
        try:
            with open("/proc/self/statm") as table:
                return int(table.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # not Linux: the largest so far, which an earlier step may have reached
            size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return size if sys.platform == "darwin" else size * 1024


def cost(name: str) -> dict[str, float]:
    """Figures of one model: seconds (medians) and bytes."""
    torch.manual_seed(0)
    model, batch = MODELS[name]()
    start = time.perf_counter()
    program = trace(model, batch)
    traced = time.perf_counter() - start
    foreseen = predicted_memory(program)
    gc.collect()
    with Memory() as memory:
        predict(program)
    forward_backward(model, batch)  # the first pass allocates
    spent, passes = [], []
    for _ in range(REPEATS):  # in turn, so that a busy machine slows both alike
        passes.append(seconds(lambda: forward_backward(model, batch)))
        spent.append(seconds(lambda: predict(program)))
        passes.append(seconds(lambda: forward_backward(model, batch)))
    return {
        "pass": statistics.median(passes),
        "predict": statistics.median(spent),
        "trace": traced,
        "foreseen": foreseen,
        "taken": memory.taken,
    }


def main() -> int:
    """Print a row a model; the exit status is 1 where a prediction costs more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=sorted(MODELS), default=["gpt2", "resnet"])
    parser.add_argument("--json", action="store_true", help="figures of the first model alone, as JSON")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(cost(options.model[0])))
        return 0
    heads = (
        "model",
        "forward + backward, s",
        "predict, s",
        "ratio (limit 10)",
        "trace, s",
        "memory foreseen, MiB",
        "memory taken, MiB",
    )
    table = Table(*heads)
    failed = False
    for name in options.model:  # each in its own process: memory that one gave back would hide what the next takes
        run = subprocess.run(
            [sys.executable, __file__, "--model", name, "--json"], capture_output=True, text=True, check=True
        )
        row = json.loads(run.stdout.splitlines()[-1])
        ratio = row["predict"] / row["pass"]
        failed |= ratio > LIMIT
        cells = [row["pass"], row["predict"], ratio, row["trace"], row["foreseen"] / 2**20, row["taken"] / 2**20]
        table.add_row(name, *(f"{value:.{digits}f}" for value, digits in zip(cells, (2, 2, 1, 1, 0, 0), strict=True)))
    Console(width=140).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
