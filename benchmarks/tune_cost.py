"""What tuning costs on GPT-2 small (2 x 128 tokens), in units of one forward and backward pass of the same batch.

python benchmarks/tune_cost.py                  initialization and parametrization (limit 20), curvature (limit 60 more)
python benchmarks/tune_cost.py --layers 2       a smaller network, to try the script

Seconds are those of the processor on one thread, so that others on the machine do not count, and passes are timed around
each part. The export of the graph is among what is counted. Of the learning rate this is the part that needs no training run: the largest curvature, with its residual.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from check_cost import forward_backward
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from leadline.tune import learning_rate, tune

LIMIT_WEIGHTS, LIMIT_RATE = 20.0, 60.0
PASSES = 3


class Phases:
    """Seconds by what a progress callback says is being done."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._what, self._since = "start", time.process_time()

    def __call__(self, what: str, done: int, total: int) -> None:
        self.close(what)

    def close(self, what: str = "") -> None:
        """Book the time since the last call."""
        now = time.process_time()
        self.spent[self._what] = self.spent.get(self._what, 0.0) + now - self._since
        self._what, self._since = what, now


class Unit:
    """Seconds of one pass, timed anew around each part."""

    def __init__(self, model: nn.Module, batch: Tensor) -> None:
        self.model, self.batch = model, batch
        self.passes: list[float] = []
        forward_backward(model, batch)  # the first pass allocates

    def around(self, run: Callable[[], object]) -> tuple[float, float, object]:
        """Seconds of a part, seconds of a pass beside it, and what the part returned."""
        beside = self._some()
        start = time.process_time()
        found = run()
        spent = time.process_time() - start
        beside += self._some()
        return spent, statistics.median(beside), found

    def _some(self) -> list[float]:
        times = []
        for _ in range(PASSES):
            start = time.process_time()
            forward_backward(self.model, self.batch)
            times.append(time.process_time() - start)
        self.model.zero_grad(set_to_none=True)
        return times


def main() -> int:
    """Print a row a part; the exit status is 1 where one costs more than its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--only", nargs="+", choices=["weights", "parametrization", "rate"], default=None)
    parser.add_argument("--phases", action="store_true", help="also print where each part's time goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.GPT2Config(use_cache=False, n_layer=options.layers, n_embd=options.width)
    model, ids = transformers.GPT2LMHeadModel(config).eval(), torch.randint(0, config.vocab_size, (2, 128))
    targets = ids.roll(-1, 1)
    phases = Phases()

    def weights(parametrization: str | None) -> object:
        return tune(model, ids, optimizer="adamw", parametrization=parametrization, progress=phases)

    def rate() -> object:
        return learning_rate(
            model, ids, "cross_entropy", targets, optimizer="sgd", trial=False, noise=False, progress=phases
        )

    parts: dict[str, tuple[str, Callable[[], object], float]] = {
        "weights": ("initialization", lambda: weights(None), LIMIT_WEIGHTS),
        "parametrization": ("initialization and parametrization", lambda: weights("mup"), LIMIT_WEIGHTS),
        "rate": ("learning rate from curvature", rate, LIMIT_RATE),
    }
    unit = Unit(model, ids)
    table = Table("part", "seconds", "forward + backward", "ratio", "limit", "what came of it")
    failed = False
    for name in options.only or ["parametrization", "rate"]:
        title, run, limit = parts[name]
        phases.spent.clear()
        phases.close("start")
        phases.spent.clear()
        spent, one, found = unit.around(run)
        phases.close()
        failed |= spent > limit * one
        said = str(found).splitlines()[0] if name != "rate" else described(found)
        table.add_row(title, f"{spent:.1f}", f"{one:.2f}", f"{spent / one:.1f}", f"{limit:.0f}", said)
        if options.phases:
            for what, seconds in sorted(phases.spent.items(), key=lambda pair: -pair[1])[:14]:
                table.add_row(f"  {what or 'rest'}", f"{seconds:.1f}", "", f"{seconds / one:.1f}", "", "")
    Console(width=150).print(table)
    return int(failed)


def described(found: object) -> str:
    """Curvature, residual and products of a learning rate."""
    stable = found.stability  # type: ignore[attr-defined]
    c = stable.curvature
    return (
        f"rate {stable.rate:.3g}: curvature {c.value:.3g}, residual {c.residual / c.value:.1%}, {c.products} products"
    )


if __name__ == "__main__":
    sys.exit(main())
