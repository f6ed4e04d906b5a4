"""Full-batch training runs on copies of a module's weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from leadline.measure.curvature import Objective
from leadline.tune.rate_rules import UpdateRule
from leadline.tune.rate_stream import Stream

__all__ = ["Optimizer", "make_optimizer", "run_losses", "train_steps"]

Factory = Callable[[Iterable[Tensor], float], torch.optim.Optimizer]
Optimizer = UpdateRule | Factory


def make_optimizer(optimizer: Optimizer, weights: Iterable[Tensor], rate: float) -> torch.optim.Optimizer:
    """The torch optimizer of a rule.

    Args:
        optimizer: a rule, or a function of (weights, rate) that returns an optimizer.
        weights: leaves to train.
        rate: learning rate.

    Returns:
        The optimizer.
    """
    if not isinstance(optimizer, UpdateRule):
        return optimizer(weights, rate)
    o, name = optimizer, optimizer.name.lower()
    if o.adaptive:
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        return kind(weights, lr=rate, betas=(o.beta, o.beta2), eps=o.eps, weight_decay=o.decay)
    momentum = 0.0 if name == "sgd" else o.beta
    return torch.optim.SGD(weights, lr=rate, momentum=momentum, nesterov=name == "nesterov", weight_decay=o.decay)


def train_steps(
    objective: Objective,
    optimizer: Optimizer,
    rate: float,
    steps: int,
    *,
    warmup: int = 0,
    stop: Callable[[list[float]], bool] | None = None,
) -> tuple[list[float], dict[str, Tensor], torch.optim.Optimizer]:
    """Train a copy of an objective's weights on its one batch, or on the batches of a stream in turn.

    Args:
        objective: the loss.
        optimizer: a rule or a function.
        rate: learning rate, after warm-up.
        steps: updates.
        warmup: steps over which the rate rises in a line; 0: none.
        stop: ends the run early where it returns True for the losses so far.

    Returns:
        Losses before each update and after the last, ended early where one is not finite; the weights; the optimizer.
    """
    leaves = objective.leaves()
    stepper = make_optimizer(optimizer, list(leaves.values()), rate)
    full = [group["lr"] for group in stepper.param_groups]
    losses: list[float] = []
    for step in range(steps + 1):
        here = objective.at_step(step) if isinstance(objective, Stream) else objective
        value = here.value(leaves)
        losses.append(float(value.detach()))
        if step == steps or not math.isfinite(losses[-1]) or (stop is not None and stop(losses)):
            break
        share = min(1.0, (step + 1) / (warmup + 1))
        for group, lr in zip(stepper.param_groups, full, strict=True):
            group["lr"] = lr * share
        stepper.zero_grad(set_to_none=True)
        value.backward()
        stepper.step()
    return losses, {n: w.detach() for n, w in leaves.items()}, stepper


def run_losses(
    objective: Objective, optimizer: Optimizer, rate: float, steps: int, *, warmup: int = 0,
    stop: Callable[[list[float]], bool] | None = None,
) -> list[float]:  # fmt: skip
    """The losses of :func:`train_steps` alone."""
    return train_steps(objective, optimizer, rate, steps, warmup=warmup, stop=stop)[0]
