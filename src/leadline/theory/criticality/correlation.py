"""Off criticality: where the correlation of two inputs comes to rest, and over how many layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import brentq

from leadline.theory.criticality.block import Block
from leadline.theory.criticality.fixed_point import depth_scale, fixed_point

__all__ = ["CorrelationPoint", "correlation_point"]

_NEAR_ONE = 1e-9  # a correlation nearer to 1 than this is 1


@dataclass(frozen=True)
class CorrelationPoint:
    """Fixed point of the kernel and of the correlation of two inputs.

    Attributes:
        K: fixed point of the kernel, units of the preactivation squared.
        chi_parallel, chi_perp: susceptibilities there.
        rho: fixed point of the correlation; 1 unless chi_perp > 1.
        rate: factor by which rho - rho* shrinks a layer.
    """

    K: float
    chi_parallel: float
    chi_perp: float
    rho: float
    rate: float

    @property
    def kernel_depth(self) -> float:
        """Layers in which K - K* falls by e, 1/|ln |chi_parallel||."""
        return depth_scale(abs(self.chi_parallel))

    @property
    def correlation_depth(self) -> float:
        """Layers in which rho - rho* falls by e, 1/|ln rate|."""
        return depth_scale(abs(self.rate))


def correlation_point(obj: Any, C_W: float, C_b: float, K: float = 1.0, *, residual: float = 0.0) -> CorrelationPoint:
    r"""Fixed points of a deep network's kernel and correlation, and the depth scales on which they are reached.

    .. math:: \rho^* K^* = C_b + C_W \langle s_a s_b\rangle_{\rho^*} + \gamma^2\rho^* K^*,\qquad
              \lambda = C_W\langle s'_a s'_b\rangle_{\rho^*} + \gamma^2

    Args:
        obj: module, function, name, callable or Activation.
        C_W: fan-in times the weight variance.
        C_b: bias variance.
        K: kernel of both inputs at the start, units of the preactivation squared.
        residual: strength gamma of a skip around each layer.

    Returns:
        The fixed points: rho* = 1 in the ordered phase (rate chi_perp), rho* < 1 in the chaotic one.

    Raises:
        ValueError: the kernel vanishes or grows without end, so that there is no correlation to speak of.

    Source: Poole et al. (2016); Schoenholz et al. (2017).

    >>> p = correlation_point("tanh", 2.5, 0.05)
    >>> round(p.rho, 5), round(p.rate, 5)
    (0.4468, 0.91872)
    """
    block = Block.of(obj, residual=residual)
    act, skip = block.activation, residual**2
    found = fixed_point(act, C_W, C_b, K, residual=residual)
    if not 0 < found.K < math.inf:
        end = "vanishes" if found.K == 0 else "grows without end"
        raise ValueError(
            f"the kernel of {act.name} {end} at C_W = {C_W:g}, C_b = {C_b:g}: take a point with a fixed point K* > 0."
        )
    k = torch.tensor(found.K, dtype=torch.float64)

    def change(rho: float) -> float:
        return C_b + C_W * float(act.dual(k, rho * k, k)) - (1 - skip) * rho * found.K

    rho = 1.0
    if found.chi_perp > 1 + _NEAR_ONE:
        rho = (
            0.0
            if change(0.0) <= _NEAR_ONE * found.K
            else float(brentq(change, 0.0, 1 - _first_gap(change), xtol=1e-14))
        )
    rate = found.chi_perp if rho == 1.0 else C_W * float(act.dual_derivative(k, rho * k, k)) + skip
    return CorrelationPoint(found.K, found.chi_parallel, found.chi_perp, rho, rate)


def _first_gap(change: Any) -> float:
    """A distance from rho = 1, a fixed point that repels, at which the correlation falls."""
    gap = 0.5
    while change(1 - gap) >= 0 and gap > _NEAR_ONE:
        gap /= 2
    return gap
