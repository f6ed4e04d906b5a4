"""What a full skip (gamma = 1) does: the kernel grows, and how fast the branch's share of the gradient falls with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from leadline.theory.criticality.block import Block

__all__ = ["Growth", "full_skip"]

_FAR = (1e8, 1e10)
_NEAR_POWER = 0.02


@dataclass(frozen=True)
class Growth:
    r"""Asymptotics at gamma = 1: m(K) -> moment and p(K) -> slope K^{-power}.

    ``power`` 0: K and gradients grow exponentially, by a factor 1 + C_W slope a layer. ``power`` 1: K grows as
    (C_b + C_W moment) l and the squared gradient as a power of depth, C_W slope/(C_b + C_W moment). In between (1/2
    for activations that saturate): K grows linearly and the gradient as a stretched exponential.
    """

    moment: float
    slope: float
    power: float


def full_skip(block: Block) -> Growth:
    """Asymptotics of a block's branch at large kernels.

    Args:
        block: the layer; only its branch matters.

    Returns:
        Powers and coefficients, read at K = 1e8 and 1e10 where no exact form is known.

    Raises:
        ValueError: the branch grows faster than its input, so that there are no powers.
    """
    K = torch.tensor(_FAR, dtype=torch.float64)
    m, p = block.moment(K), block.slope_moment(K)
    if not bool(torch.isfinite(m + p).all()) or float(m[1] / m[0]) > 1.1 * _FAR[1] / _FAR[0]:
        raise ValueError(f"{block.activation.name} grows faster than its input: no power law at a skip of strength 1.")
    if float(p[0]) == 0:
        return Growth(float(m[1]), 0.0, 1.0)
    power = -math.log(float(p[1] / p[0])) / math.log(_FAR[1] / _FAR[0])
    nearest = round(2 * power) / 2
    power = nearest if abs(power - nearest) < _NEAR_POWER else power
    return Growth(float(m[1]), float(p[1]) * _FAR[1] ** power, power)
