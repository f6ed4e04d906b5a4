"""Powers of depth: fitted to a flow, and what the universality class expects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Power", "fit_power"]

_FEWEST = 6  # layers in the second half that a slope is fitted to
_STILL = 1e-12  # relative change over the fit that rounding alone may make
_BEND = 0.05  # change of slope between the two halves of the fit from which there is no power law


@dataclass(frozen=True)
class Power:
    """Depth dependence l^p of one quantity.

    Args:
        quantity: its name, such as "V/K^2".
        fitted: slope of ln quantity against ln l over the second half of the layers; None where there is none.
        theory: what the universality class expects as l grows; None where it says nothing.
        settled: whether both halves of the fit have one slope, as a power law has.
    """

    quantity: str
    fitted: float | None
    theory: float | None
    settled: bool


def fit_power(quantity: str, values: Tensor, theory: float | None) -> Power:
    """Fit a power of depth to the second half of a flow.

    Args:
        quantity: name of what is fitted.
        values: one a layer, layers from 1.
        theory: expected power, or None.

    Returns:
        The power; not fitted where the values change sign, vanish or leave the range of floats.
    """
    depth = len(values)
    start = depth // 2
    tail = values[start:].abs()
    same_sign = bool((values[start:] > 0).all() or (values[start:] < 0).all())
    if len(tail) < _FEWEST or not same_sign or not bool(torch.isfinite(tail).all()):
        return Power(quantity, None, theory, False)
    if float(tail.max() - tail.min()) <= _STILL * float(tail.max()):
        return Power(quantity, 0.0, theory, True)
    x = [math.log(i) for i in range(start + 1, depth + 1)]
    y = tail.log().tolist()
    middle = len(x) // 2
    early, late = _slope(x[: middle + 1], y[: middle + 1]), _slope(x[middle:], y[middle:])
    return Power(quantity, _slope(x, y), theory, abs(early - late) < _BEND)


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    a, b = sum(x) / len(x), sum(y) / len(y)
    return sum((u - a) * (v - b) for u, v in zip(x, y, strict=True)) / sum((u - a) ** 2 for u in x)
