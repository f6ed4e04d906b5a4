"""The standard normal density and its upper tail, accurate relative to their own size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["density", "upper_tail"]


def density(x: Tensor) -> Tensor:
    """exp(-x^2/2)/sqrt(2 pi), elementwise."""
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def upper_tail(x: Tensor) -> Tensor:
    """P(X > x) for a standard normal X, elementwise.

    By erfc: torch's ``ndtr`` is 1/2 + erf/2, which has no digits left beyond 8 standard deviations.

    Args:
        x: any shape.
    Returns:
        Probabilities, shape, dtype and device of x.

    >>> round(upper_tail(torch.tensor(9.0, dtype=torch.float64)).item() * 1e19, 6)
    1.128588
    """
    return torch.special.erfc(x / math.sqrt(2)) / 2
