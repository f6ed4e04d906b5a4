"""Criticality at a vanishing kernel: whether K* = 0 attracts, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from leadline.activations import Activation
from leadline.activations.universality import OriginNumbers, origin_numbers
from leadline.theory.criticality.classes import Exponents, UniversalityClass

__all__ = ["Origin", "origin"]

_SMALL = 1e-7  # coefficients of order 1 that are below this are rounding
_FELT = 1e-9  # relative change of the kernel a layer that a marginal approach is judged by
_KERNELS = torch.logspace(-6, 6, 193, dtype=torch.float64)


@dataclass(frozen=True)
class Origin:
    r"""K* = 0 at C_W = (1 - gamma^2)/A2 and C_b = 0, for gamma = 0.

    .. math:: K' = K - cK^{3/2} + a_1 K^2 + a_2 K^3, \qquad \chi_\perp = 1 - c\sqrt K + b_1 K

    Attributes:
        kind: scale-invariant, smooth, cusp or marginal.
        attracts: whether small kernels fall; None where they stay (scale-invariant).
        exponents: None where K* = 0 does not attract.
        A2, A4: means of the squared and of the fourth powers of the two slopes at 0.
        plus, minus: the slopes at 0.
        c, a1, b1, a2: coefficients; None where the class has no such term.
        scale: K* = 0 is felt below kernels of this size: the squared distance of the nearest kink (marginal).
    """

    kind: UniversalityClass
    attracts: bool | None
    exponents: Exponents | None
    A2: float
    A4: float
    plus: float
    minus: float
    c: float | None = None
    a1: float | None = None
    b1: float | None = None
    a2: float | None = None
    scale: float | None = None


def origin(act: Activation) -> Origin | None:
    r"""What becomes of small kernels at C_W = 1/A2, C_b = 0.

    Args:
        act: a continuous activation.

    Returns:
        None where there is no K* = 0 with a finite C_W: s(0) is not 0, or both slopes there vanish.

    Source: Roberts, Yaida and Hanin (2022), section 5.3; the cusp and the marginal case from the same expansion
        on each side of 0.
    """
    numbers = origin_numbers(act)
    small = max(_SMALL, 100 * act.precision)
    if numbers.cusp is None or not small**2 < numbers.A2:
        return None
    at = partial(Origin, A2=numbers.A2, A4=numbers.A4, plus=numbers.slope[0], minus=numbers.slope[1])
    if act.slopes is not None:
        return at(UniversalityClass.scale_invariant, None, Exponents(0.0, 0.0, 0.0))
    if abs(numbers.cusp) > small:
        falls = numbers.cusp > 0
        return at(UniversalityClass.cusp, falls, Exponents(2.0, 2.0, 3.0) if falls else None, c=numbers.cusp)
    a1, b1, a2, b2 = _terms(act, numbers, small)
    at_smooth = partial(at, UniversalityClass.smooth, a1=a1, b1=b1, a2=a2)
    if abs(a1) > small:
        return at_smooth(a1 < 0, Exponents(1.0, b1 / a1, 2.0) if a1 < 0 else None)
    if abs(b1) > small:  # then b1 > 0: differences grow faster than any power of depth
        return at_smooth(False, None)
    if abs(a2) > small:
        return at_smooth(a2 < 0, Exponents(0.5, b2 / (2 * a2), 1.5) if a2 < 0 else None)
    return _marginal(act, numbers.A2, at)


def _terms(act: Activation, numbers: OriginNumbers, small: float) -> tuple[float, float, float, float]:
    """a1, b1, a2 and b2, of which the last (chi_perp = 1 + b1 K + b2 K^2) only counts where a1 and b1 vanish."""
    a1, b1, a2 = numbers.a1, numbers.b1, numbers.a2
    if a1 is None or b1 is None or a2 is None or abs(a1) <= small:
        return _kinked_terms(act, numbers.A2)
    return a1, b1, a2, 0.0


def _kinked_terms(act: Activation, A2: float) -> tuple[float, float, float, float]:
    """a1, b1, a2 and b2 (chi_perp = 1 + b1 K + b2 K^2) as means over both sides, which may have different slopes."""
    a1 = b1 = a2 = b2 = 0.0
    for s in act.taylor(5):
        _, s1, s2, s3, s4, s5 = s.tolist()
        a1 += (s1 * s3 + 0.75 * s2 * s2) / 2
        b1 += (s1 * s3 + s2 * s2) / 2
        a2 += (s1 * s5 / 4 + 5 / 8 * s2 * s4 + 5 / 12 * s3 * s3) / 2
        b2 += (s1 * s5 / 4 + s2 * s4 + 0.75 * s3 * s3) / 2
    return a1 / A2, b1 / A2, a2 / A2, b2 / A2


def _marginal(act: Activation, A2: float, at: Callable[..., Origin]) -> Origin:
    """An activation that no derivative at 0 tells from a linear one: ask its kernels which way they drift."""
    drift = act.second_moment(_KERNELS) / (A2 * _KERNELS) - 1
    felt = (drift.abs() > max(_FELT, 100 * act.precision)).nonzero().reshape(-1)
    if not len(felt):
        return at(UniversalityClass.scale_invariant, None, Exponents(0.0, 0.0, 0.0))
    falls = float(drift[felt[0]]) < 0
    away = [k * k for k in act.kinks if k != 0]
    powers = Exponents(0.0, 0.0, 1.0) if falls else None
    return at(UniversalityClass.marginal, falls, powers, scale=min(away) if away else None)
