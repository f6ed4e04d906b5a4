"""The universality classes of criticality and what each means for a deep network."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Exponents", "UniversalityClass"]


class UniversalityClass(enum.StrEnum):
    """How the kernel and perturbations of a critical network behave with depth.

    ``scale_invariant``: every kernel is a fixed point. ``smooth``, ``cusp``, ``marginal``: K* = 0 is approached,
    as K' = K + a_1 K^2, as K' = K - c K^{3/2}, or slower than any power. ``half_stable``: an isolated K* > 0 that is
    approached from one side. ``none``: no (C_W, C_b) makes both susceptibilities 1.
    """

    scale_invariant = "scale-invariant"
    smooth = "K* = 0 smooth"
    cusp = "K* = 0 cusp"
    marginal = "K* = 0 marginal"
    half_stable = "half-stable"
    none = "none"


@dataclass(frozen=True)
class Exponents:
    r"""Powers of depth at criticality, K' = K - c K^{1+q} and chi_perp = 1 - d K^q.

    .. math:: K \sim l^{-p_0},\quad \delta K_\perp \sim l^{-p_\perp},\quad \delta K_\parallel \sim l^{-p_\parallel};
              \qquad p_0 = 1/q,\quad p_\perp = d/(cq),\quad p_\parallel = 1 + 1/q

    A marginal class has p_0 = p_perp = 0 and p_parallel = 1 up to logarithms; the averaged partial Jacobian falls
    as l^{-p_perp}.
    """

    p_0: float
    p_perp: float
    p_parallel: float
