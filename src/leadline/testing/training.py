"""Whether a network trains: Adam, 200 steps, four learning rates, half the initial loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from leadline.testing.tasks import Task

__all__ = ["RATES", "STEPS", "Trained", "train"]

RATES = (1e-3, 3e-3, 1e-4, 1e-2)  # in the order in which they are tried
STEPS = 200
_WINDOW = 10  # a single batch's loss is noisy: the mean of the last ten counts


@dataclass(frozen=True)
class Trained:
    """What came of training: the initial loss, the lowest mean over ten steps at the best rate, and that rate."""

    initial: float
    best: float
    rate: float
    steps: int

    @property
    def ok(self) -> bool:
        """Whether the loss fell to half its initial value."""
        return math.isfinite(self.initial) and self.best <= 0.5 * self.initial


def train(
    model: nn.Module, task: Task, *, rates: Sequence[float] = RATES, steps: int = STEPS, seed: int = 0
) -> Trained:
    """Train copies of a model with Adam, one a rate, until one falls to half its initial loss.

    Args:
        model: left as it is.
        task: gives a fresh batch a step.
        rates: learning rates.
        steps: at most, of each copy.
        seed: of the batches.

    Returns:
        The first rate that succeeds, else the one that came lowest.
    """
    initial = _initial(model, task, seed)
    best = Trained(initial, math.inf, rates[0], steps)
    for rate in rates:
        found = _one(copy.deepcopy(model).train(), task, rate, steps, seed, initial)
        if found.best < best.best or not math.isfinite(best.best):
            best = found
        if best.ok:
            return best
    return best


def _initial(model: nn.Module, task: Task, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    twin = copy.deepcopy(model).train()
    with torch.no_grad():
        losses = [float(task.loss(_call(twin, x), y)) for x, y in (task.draw(generator) for _ in range(_WINDOW))]
    return sum(losses) / len(losses)


def _one(model: nn.Module, task: Task, rate: float, steps: int, seed: int, initial: float) -> Trained:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    recent: list[float] = []
    lowest = math.inf
    for step in range(1, steps + 1):
        x, y = task.draw(generator)
        loss = task.loss(_call(model, x), y)
        recent = [*recent, float(loss.detach())][-_WINDOW:]
        if not math.isfinite(recent[-1]):
            break
        if len(recent) == _WINDOW:
            lowest = min(lowest, sum(recent) / _WINDOW)
            if lowest <= 0.5 * initial:
                return Trained(initial, lowest, rate, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Trained(initial, lowest, rate, steps)


def _call(model: nn.Module, x: object) -> object:
    return model(**x) if isinstance(x, dict) else model(x)
