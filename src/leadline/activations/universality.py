"""The numbers of an activation alone that decide its universality class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.activations.base import Activation
from leadline.gaussian.arguments import checked

__all__ = ["OriginNumbers", "curvature_roots", "origin_numbers"]

_POINTS_A_DECADE = 8


@dataclass(frozen=True)
class OriginNumbers:
    """What an activation is near z = 0; pairs are (from the right, from the left).

    Attributes:
        value: sigma(0).
        slope: sigma'(0).
        curvature: sigma''(0).
        smooth: whether the derivatives up to the fifth agree from both sides.
        A2: mean of the two squared slopes; a kernel of vanishing size is critical at C_W = 1/A2.
        A4: mean of the fourth powers of the slopes.
        cusp: c of K' = K - c K^{3/2}; None where sigma(0) is not 0 or both slopes vanish.
        a1: first coefficient of K' = K + a1 K^2 + a2 K^3; None where cusp is None or sigma is not smooth at 0.
        a2: second coefficient of it.
        b1: first coefficient of chi_perp = 1 + b1 K.
    """

    value: tuple[float, float]
    slope: tuple[float, float]
    curvature: tuple[float, float]
    smooth: bool
    A2: float
    A4: float
    cusp: float | None
    a1: float | None
    a2: float | None
    b1: float | None


def origin_numbers(act: Activation) -> OriginNumbers:
    r"""Coefficients of the kernel recursion at vanishing kernel, C_W = 1/A2 and C_b = 0.

    .. math:: a_1 = \tfrac{s_3}{s_1} + \tfrac34\big(\tfrac{s_2}{s_1}\big)^2,\quad
              b_1 = \tfrac{s_3}{s_1} + \big(\tfrac{s_2}{s_1}\big)^2,\quad
              a_2 = \tfrac14\tfrac{s_5}{s_1} + \tfrac58\tfrac{s_2 s_4}{s_1^2} + \tfrac5{12}\big(\tfrac{s_3}{s_1}\big)^2,
              \quad c = -\sqrt{\tfrac2\pi}\,\frac{s_1^+s_2^+ - s_1^-s_2^-}{A_2}

    with :math:`s_p = \sigma^{(p)}(0)` and :math:`A_2 = (s_1^{+2} + s_1^{-2})/2`.

    Args:
        act: the activation.
    Returns:
        OriginNumbers.
    Source: Roberts, Yaida & Hanin, The Principles of Deep Learning Theory (2022), section 5.3, for smooth
        functions; the cusp follows from the same expansion on each side of 0.

    >>> from leadline.activations import activation
    >>> n = origin_numbers(activation("tanh"))
    >>> round(n.a1, 9), round(n.b1, 9), round(n.a2, 9)
    (-2.0, -2.0, 5.666666667)
    """
    right, left = (t.tolist() for t in act.taylor(5))
    scale = max(*(abs(v) for v in right), *(abs(v) for v in left), 1e-300)
    smooth = 0.0 not in act.kinks and all(abs(r - v) <= 1e-6 * scale for r, v in zip(right, left, strict=True))
    A2, A4 = ((right[1] ** p + left[1] ** p) / 2 for p in (2, 4))
    through_zero = max(abs(right[0]), abs(left[0])) <= 1e-12 * scale and A2 > 0
    cusp = a1 = a2 = b1 = None
    if through_zero:
        bend = 0.0 if smooth else left[1] * left[2] - right[1] * right[2]
        cusp = math.sqrt(2 / math.pi) * bend / A2
    if through_zero and smooth:
        s2, s3, s4, s5 = ((r + v) / (right[1] + left[1]) for r, v in zip(right[2:], left[2:], strict=True))
        a1, b1 = s3 + 0.75 * s2 * s2, s3 + s2 * s2
        a2 = s5 / 4 + 5 / 8 * s2 * s4 + 5 / 12 * s3 * s3
    return OriginNumbers(
        (right[0], left[0]), (right[1], left[1]), (right[2], left[2]), smooth, A2, A4, cusp, a1, a2, b1
    )


@checked()
@torch.no_grad()
def curvature_roots(act: Activation, low: float = 1e-4, high: float = 1e4) -> list[tuple[float, float]]:
    """Brackets of the variances at which <sigma sigma''> changes sign: where chi_parallel equals chi_perp.

    A sign counts where the moment exceeds its own error estimate; a double root between two points of the
    grid (8 a decade) is not seen.

    Args:
        act: a continuous activation.
        low: smallest variance, units of z squared.
        high: largest variance.
    Returns:
        Pairs (K below, K above), ascending; empty where the sign never changes.
    Raises:
        ValueError: the activation jumps, so that the moment is infinite, or not 0 < low < high.

    >>> from leadline.activations import activation
    >>> [(round(a, 1), round(b, 1)) for a, b in curvature_roots(activation("gelu"))]
    [(3.2, 4.2)]
    """
    if not 0 < low < high:
        raise ValueError(f"got variances from {low:g} to {high:g}: give 0 < low < high.")
    count = round(_POINTS_A_DECADE * math.log10(high / low)) + 1
    K = torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float64)
    out = act.estimate("value_curvature", K)
    sure: Tensor = out.value.abs() > 2 * out.error
    points, signs = K[sure].tolist(), torch.sign(out.value[sure]).tolist()
    pairs = zip(points[:-1], points[1:], signs[:-1], signs[1:], strict=True)
    return [(a, b) for a, b, before, after in pairs if before != after]
