"""The most useful point of an activation that has no critical one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.theory.criticality.fixed_point import depth_scale

__all__ = ["NearestPoint", "nearest_point"]

_LOW, _HIGH = 1e-3, 100.0  # kernels that inputs of ordinary size can have
_POINTS = 401
_ROUNDS = 3
_FLAT = 1e-9


@dataclass(frozen=True)
class NearestPoint:
    r"""The fixed point at which gradients and differences of inputs live longest, neither susceptibility above 1.

    .. math:: C_W = \min\{1/\langle s'^2\rangle_K,\ 1/|g'(K)|,\ K/g(K)\},\qquad C_b = K - C_W g(K) \ge 0

    Of these, one a kernel K, the one with the largest chi_perp; of several with chi_perp = 1 (the edge of chaos) the one
    with |chi_parallel| nearest to 1.

    Attributes:
        C_W, C_b, K: the tuning and its fixed point.
        chi_parallel, chi_perp: susceptibilities there; neither is above 1.
        bounded: False where K is the largest that was looked at (100): larger kernels support more depth.
    """

    C_W: float
    C_b: float
    K: float
    chi_parallel: float
    chi_perp: float
    bounded: bool

    @property
    def depth_scale(self) -> float:
        """Layers in which gradients and differences of inputs fall by e, 1/|ln chi_perp|; inf on the edge of chaos."""
        return math.inf if abs(self.chi_perp - 1) < _FLAT else depth_scale(self.chi_perp)

    @property
    def memory(self) -> float:
        """Layers in which the kernel forgets the size of its input by e, 1/|ln |chi_parallel||."""
        return depth_scale(abs(self.chi_parallel))


@torch.no_grad()
def nearest_point(act: Activation) -> NearestPoint | None:
    """Nearest useful point with a kernel between 0.001 and 100.

    Args:
        act: a continuous activation without a critical point.

    Returns:
        The point; None where the activation has no slope at any of these kernels.
    """
    low, high = math.log(_LOW), math.log(_HIGH)
    best = None
    for _ in range(_ROUNDS):
        x = torch.linspace(low, high, _POINTS, dtype=torch.float64)
        C_W, C_b, parallel, perp = _tuning(act, x.exp())
        usable = torch.isfinite(C_W + C_b) & (perp > 0)
        if not bool(usable.any()):
            return best
        # chi_perp decides, and chi_parallel where chi_perp is 1
        edge = perp > 1 - _FLAT
        score = torch.where(usable, torch.where(edge, 1 + parallel.abs(), perp), -1.0)
        i = int(torch.where(score >= score.max() - _FLAT, x.abs(), math.inf).argmin())
        K = float(x[i].exp())
        at = [float(v[i]) for v in (C_W, C_b, parallel, perp)]
        best = NearestPoint(at[0], max(at[1], 0.0), K, at[2], at[3], bounded=K < _HIGH * (1 - _FLAT))
        low, high = float(x[max(i - 1, 0)]), float(x[min(i + 1, _POINTS - 1)])
    return best


def _tuning(act: Activation, K: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(C_W, C_b, chi_parallel, chi_perp) of the point at each kernel."""
    slope, square, g = act.second_moment_slope(K), act.derivative_moment(K), act.second_moment(K)
    C_W = torch.minimum(1 / torch.maximum(slope.abs(), square), K / g)
    return C_W, K - C_W * g, C_W * slope, C_W * square
