"""Fixed point of a repeated dense layer, and how many layers a change survives near it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from leadline.activations import Activation

__all__ = ["FixedPoint", "fixed_point"]

_FAR = 1e8  # a kernel that has grown by this much has no fixed point


@dataclass(frozen=True)
class FixedPoint:
    """Where the kernel of a repeated layer comes to rest.

    ``K``: the fixed point (inf where the kernel grows without end). ``chi_parallel``, ``chi_perp``: susceptibilities there.
    """

    K: float
    chi_parallel: float
    chi_perp: float

    @property
    def depth_scale(self) -> float:
        """Layers after which the distance of two close inputs has changed by e: 1 / |ln chi_perp|."""
        if not 0 < self.chi_perp < math.inf:
            return 0.0
        rate = abs(math.log(self.chi_perp))
        return math.inf if rate == 0 else 1 / rate


def fixed_point(
    activation: Activation, C_W: float, C_b: float, K: float, *, steps: int = 200, rtol: float = 1e-9
) -> FixedPoint:
    r"""Fixed point that the flow K' = C_b + C_W <f^2>_K reaches from K, by iteration with Aitken's extrapolation.

    .. math:: K^* = C_b + C_W g(K^*), \quad \chi_\parallel = C_W g'(K^*), \quad \chi_\perp = C_W \langle f'^2 \rangle_{K^*}

    Args:
        activation: the nonlinearity before the layer.
        C_W: fan-in times the weight variance.
        C_b: bias variance.
        K: kernel to start from, units of the preactivation squared.
        steps: most iterations; an approach slower than that (a power law, at criticality) is left where it is.
        rtol: relative change at which the flow counts as at rest.

    Returns:
        The fixed point with its susceptibilities; K is inf where the flow grows without end.

    Source: Roberts, Yaida and Hanin (2022), chapter 5; Poole et al. (2016).
    """
    start = max(K, 1e-300)

    def flow(k: float) -> float:
        return C_b + C_W * float(activation.second_moment(torch.tensor(k, dtype=torch.float64)))

    for _ in range(steps):
        one = flow(K)
        if not math.isfinite(one) or one > _FAR * max(start, 1.0):
            return _at(activation, C_W, math.inf, K)
        if abs(one - K) <= rtol * max(K, 1e-30):
            K = one
            break
        two = flow(one)
        bend = two - 2 * one + K
        guess = K - (one - K) ** 2 / bend if bend != 0 else two
        # extrapolate only a flow that closes in: one that moves away has no fixed point ahead
        K = guess if 0 <= guess < _FAR * max(start, 1.0) and abs(two - one) < abs(one - K) else two
    return _at(activation, C_W, K, K)


def _at(activation: Activation, C_W: float, K: float, where: float) -> FixedPoint:
    point = torch.tensor(where, dtype=torch.float64)
    slope = C_W * float(activation.second_moment_slope(point))
    return FixedPoint(K, slope, C_W * float(activation.derivative_moment(point)))
