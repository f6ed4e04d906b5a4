"""What the monitor costs a training loop, against the very same loop without it.

python benchmarks/monitor_cost.py               a CNN and a small GPT-2, 5 % asked for
python benchmarks/monitor_cost.py --seconds 60  longer: more of the budget goes into readings after the first

Seconds are those of the processor on one thread, so that others on the machine do not count. The two loops start from the
same weights and random states, and must end at the same loss to the last bit.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from leadline.tune import Monitor

Batches = Callable[[int], tuple[Tensor, Tensor]]


def cnn() -> tuple[nn.Module, Batches]:
    """Three convolutions of 32 channels with batch norm on digits, batches of 128."""
    found = load_digits()
    x, y = torch.tensor(found.images[:, None] / 16 - 0.3).float(), torch.tensor(found.target)
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Conv2d(32 if i else 1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]

    def batch(step: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(x), (128,), generator=torch.Generator().manual_seed(step))
        return x[chosen], y[chosen]

    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.1), nn.Linear(32 * 64, 10)), batch


def gpt2() -> tuple[nn.Module, Batches]:
    """GPT-2 with 4 blocks of width 128, batches of 8 x 64 tokens that count up."""
    config = transformers.GPT2Config(n_layer=4, n_embd=128, n_head=4, vocab_size=256, use_cache=False)
    model = transformers.GPT2LMHeadModel(config)

    class Logits(nn.Module):
        """The logits alone."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: Tensor) -> Tensor:
            """Logits with the classes on axis 1."""
            return self.inner(ids).logits.transpose(1, 2)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        start = torch.randint(256, (8, 1), generator=torch.Generator().manual_seed(step))
        ids = (start + torch.arange(65)) % 256
        return ids[:, :-1], ids[:, 1:]

    return Logits(), batch


def train(
    model: nn.Module, batches: Batches, steps: int, monitored: float | None
) -> tuple[float, float, Monitor | None]:
    """Seconds of a loop, its last loss, and its monitor."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    start = time.process_time()
    monitor = None
    if monitored is not None:
        x, y = batches(0)
        monitor = Monitor(
            model, optimizer, batch=x, targets=y, loss="cross_entropy", budget=monitored, clock=time.process_time
        )
    loss = torch.zeros(())
    for step in range(steps):
        x, y = batches(step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step()
    return time.process_time() - start, float(loss.detach()), monitor


def main() -> int:
    """Print a row a network; the exit status is 1 where a loop costs more than the budget says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the loop without a monitor")
    parser.add_argument("--budget", type=float, default=0.05)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(
        "network", "steps", "readings", "a reading, in steps", "share it says", "share of the plain loop", "same end"
    )
    failed = False
    for build in (cnn, gpt2):
        torch.manual_seed(0)
        model, batches = build()
        once = train(copy.deepcopy(model), batches, 20, None)[0] / 20
        steps = max(50, round(options.seconds / once))
        plain, end, _ = train(copy.deepcopy(model), batches, steps, None)
        watched, other, monitor = train(copy.deepcopy(model), batches, steps, options.budget)
        if monitor is None:
            return 1
        said, real = monitor.share, watched / plain - 1
        dear = monitor.readings[-1].seconds / (plain / steps)
        failed |= said > options.budget or end != other
        table.add_row(
            build.__name__,
            str(steps),
            str(len(monitor.readings)),
            f"{dear:.0f}",
            f"{said:.1%}",
            f"{real:.1%}",
            str(end == other),
        )
    Console(width=120).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
