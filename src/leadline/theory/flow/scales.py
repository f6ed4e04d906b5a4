"""How many layers a signal and a correlation survive, on both sides of criticality."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from leadline.activations import activation
from leadline.gaussian.arguments import checked
from leadline.theory.criticality import depth_scale, fixed_point

__all__ = ["DepthScales", "depth_scales"]


@dataclass(frozen=True)
class DepthScales:
    r"""Fixed point of two inputs under one layer repeated, and the rates at which they approach it.

    .. math:: K - K^* \sim e^{-l/\xi_K}, \qquad \rho - \rho^* \sim e^{-l/\xi_c}

    Args:
        K: fixed point of the kernel (inf where it grows without end).
        chi_parallel: factor a layer of a change in size at the fixed point.
        chi_perp: factor a layer of a small distance.
        rho: fixed point of the correlation: 1 in the ordered phase, less in the chaotic one.
        rate: factor a layer of the distance of a correlation from it.
    """

    K: float
    chi_parallel: float
    chi_perp: float
    rho: float
    rate: float

    @property
    def phase(self) -> str:
        """One of "ordered", "chaotic", "critical" (chi_perp = 1 to 1e-6), and "exploding"."""
        if math.isinf(self.K):
            return "exploding"
        if abs(self.chi_perp - 1) <= 1e-6:
            return "critical"
        return "ordered" if self.chi_perp < 1 else "chaotic"

    @property
    def xi_K(self) -> float:
        """Layers after which a change in size has fallen by e."""
        return depth_scale(self.chi_parallel)

    @property
    def xi_c(self) -> float:
        """Layers after which a correlation has come e times closer to its fixed point."""
        return depth_scale(self.rate)


@checked()
def depth_scales(obj: Any, C_W: float, C_b: float = 0.0, K: float = 1.0) -> DepthScales:
    r"""Fixed points of kernel and correlation, and depth scales of both.

    .. math:: \rho^* K^* = C_b + C_W\langle\sigma_a\sigma_b\rangle_{\rho^*}, \qquad
        \text{rate} = C_W\langle\sigma'_a\sigma'_b\rangle_{\rho^*}

    Args:
        obj: anything that :func:`leadline.activations.activation` takes.
        C_W: fan-in times the weight variance.
        C_b: bias variance, units of z squared.
        K: kernel to start from.

    Returns:
        Fixed points, susceptibilities and scales.

    Raises:
        ValueError: a variance is negative or not finite, or the kernel to start from is not a number.

    Source: Poole et al. (2016); Schoenholz et al. (2017).

    >>> found = depth_scales("tanh", C_W=2.5, C_b=0.05)
    >>> found.phase, round(found.rho, 4)
    ('chaotic', 0.4468)
    """
    from scipy.optimize import brentq  # slow to import

    act = activation(obj)
    point = fixed_point(act, C_W, C_b, K)
    if not (0 < point.K < math.inf) or point.chi_perp <= 1 + 1e-9:
        return DepthScales(point.K, point.chi_parallel, point.chi_perp, 1.0, point.chi_perp)
    k = torch.tensor(point.K, dtype=torch.float64)

    def excess(rho: float) -> float:
        return (C_b + C_W * float(act.dual(k, rho * k, k))) / point.K - rho

    # the map lies above the diagonal at -1 … rho* and below it between rho* and 1
    below = next((1 - 2.0**-j for j in range(1, 30) if excess(1 - 2.0**-j) < 0), None)
    low = next((v for v in (0.0, -0.5, -0.9, -0.999999) if excess(v) >= 0), -1.0)
    if below is None:
        return DepthScales(point.K, point.chi_parallel, point.chi_perp, 1.0, point.chi_perp)
    rho = low if excess(low) == 0 else float(brentq(excess, low, below, xtol=1e-13))
    rate = C_W * float(act.dual_derivative(k, rho * k, k))
    return DepthScales(point.K, point.chi_parallel, point.chi_perp, rho, rate)
