"""What a universality class means for a deep network, in words with the numbers of the activation at hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from leadline.theory.criticality.classes import UniversalityClass

if TYPE_CHECKING:
    from leadline.theory.criticality.point import CriticalPoint

__all__ = ["meaning"]

_LINEAR = 1e-9


def meaning(p: CriticalPoint) -> str:
    """One or two sentences on what happens to kernels, gradients and differences between inputs with depth.

    Args:
        p: a critical point, or the statement that there is none.

    Returns:
        The sentences.
    """
    kind = p.universality_class
    if kind is UniversalityClass.none:
        return _none(p)
    if kind is UniversalityClass.scale_invariant:
        return _scale_invariant(p)
    if kind is UniversalityClass.half_stable:
        return _half_stable(p)
    if kind is UniversalityClass.marginal:
        return _marginal(p)
    return _falling(p)


def _scale_invariant(p: CriticalPoint) -> str:
    angle = ""
    if p.slopes is not None and abs(p.slopes[0] - p.slopes[1]) > _LINEAR * abs(p.slopes[0] + p.slopes[1]):
        angle = ", while inputs that stand at a finite angle align, as 1/l^2"
    return (
        f"Kernels and gradients keep their size at any depth{angle}; what limits depth is width: the scale of one network "
        f"spreads as {p.nu:.3g} depth/width."
    )


def _falling(p: CriticalPoint) -> str:
    e = p.exponents
    if e is None or p.nu is None:
        raise ValueError(
            f"a class that attracts has exponents, got none for {p.activation}; build it by critical_point."
        )
    if p.c is not None:
        kernel = f"{4 / p.c**2:.3g}/l^2"
    elif e.p_0 == 1 and p.a1 is not None:
        kernel = f"{-1 / p.a1:.3g}/l"
    else:
        kernel = f"l^-{e.p_0:g}"
    fate = "fall" if e.p_perp > 0 else "grow"
    return (
        f"The kernel falls as {kernel} and gradients {fate} as l^{-e.p_perp:.3g}: powers of depth, no "
        f"exponentials, so deep networks train; the scale of one network spreads as {p.nu:.3g} depth/width."
    )


def _marginal(p: CriticalPoint) -> str:
    size = "" if p.kink is None else f", as {p.kink**2 / 2:.3g}/ln l"
    return (
        f"Near 0 the activation is as good as linear, so small kernels hardly move: K falls slower than any power of "
        f"depth{size}, gradients with it, and the network behaves as a scale-invariant one in between."
    )


def _half_stable(p: CriticalPoint) -> str:
    if p.K is None or p.chi_prime is None:
        raise ValueError(
            f"a half-stable point has K* and chi', got none for {p.activation}; build it by critical_point."
        )
    good, bad = ("above", "below") if p.chi_prime < 0 else ("below", "above")
    away = "grows without end"
    if p.neighbour is not None:
        away = f"ends at K = {p.neighbour.K:.4g}, where the depth scale is {p.neighbour.depth_scale:.3g} layers"
    return (
        f"Inputs whose kernel is K* = {p.K:.4g} keep it, and their gradients, at any depth; a kernel from {good} comes back, "
        f"as K* {'+' if p.chi_prime < 0 else '-'} {2 / abs(p.chi_prime):.3g}/l, one from {bad} leaves and {away}. "
        "Rescale the inputs so that the first kernel is K*."
    )


def _none(p: CriticalPoint) -> str:
    if p.nearest is None:
        return "No C_W and C_b make both susceptibilities 1."
    near, K = p.nearest, p.nearest.K
    if math.isinf(near.depth_scale):
        rest = (
            f"on the edge of chaos at K = {K:.3g} gradients keep their size at any depth, and the kernel forgets the "
            f"size of its input within {near.memory:.2g} layers"
        )
    else:
        rest = f"at best, at K = {K:.3g}, gradients and differences between inputs fall by e in {near.depth_scale:.3g} layers"
        if not near.bounded:
            rest += " (more at larger kernels)"
    return f"No C_W and C_b make both susceptibilities 1; {rest}."
