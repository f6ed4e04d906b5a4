"""Find the critical point of any activation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from leadline.activations import Activation, activation
from leadline.gaussian.arguments import checked
from leadline.theory.criticality.block import Block
from leadline.theory.criticality.classes import Exponents, UniversalityClass
from leadline.theory.criticality.half_stable import Tuning, half_stable_points, neighbour
from leadline.theory.criticality.nearest import nearest_point
from leadline.theory.criticality.origin import Origin, origin
from leadline.theory.criticality.point import CriticalPoint
from leadline.theory.criticality.spread import spread_with_skip, third_moment

__all__ = ["critical_point"]

_NO_KERNEL = 1e-12


@checked(nan=("residual",))
def critical_point(obj: Any, *, residual: float = 0.0) -> CriticalPoint:
    r"""Critical initialization of an activation: the (C_W, C_b, K*) at which nothing grows or falls exponentially.

    .. math:: \langle s s''\rangle_{K^*} = 0,\qquad C_W = \frac{1-\gamma^2}{\langle s'^2\rangle_{K^*}},\qquad
              C_b = (1-\gamma^2) K^* - C_W\, g(K^*) \ge 0

    Solutions are K* = 0 where it attracts small kernels, else isolated K* > 0 (of several the one with the least
    drift), every K* for s linear on both sides of 0. An unstable K* = 0 is never returned.

    Args:
        obj: module, function, name, callable or Activation.
        residual: strength gamma of a skip around each layer, h' = W s(h) + b + gamma h.

    Returns:
        The critical point; where there is none, the nearest useful point and the depth that it supports.

    Raises:
        ValueError: the residual strength is negative or not finite, or obj is not pointwise.
        TypeError: obj is no activation.

    Source: Roberts, Yaida and Hanin (2022), chapter 5; Doshi, He and Gromov (2023) for the skip.

    >>> p = critical_point("gelu")
    >>> str(p.universality_class), round(p.C_W, 6), round(p.C_b, 6), round(p.K, 6)
    ('half-stable', 1.983058, 0.172922, 3.561553)
    >>> critical_point("sigmoid").exists
    False
    """
    act = Block.of(obj, residual=residual).activation
    if residual >= 1:
        return _nothing(act.name, residual, (
            f"the skip alone, of strength {residual:g}, keeps every susceptibility at 1 or above: take a strength below 1, "
            "a norm in the branch, or C_W that falls as 1/depth",
        ))  # fmt: skip
    if act.jumps:
        return _nothing(act.name, residual, (
            f"{act.name} jumps at {', '.join(f'{j:g}' for j in act.jumps)}, so that <s'^2> and chi_perp are infinite for "
            "any C_W > 0: nearby inputs are torn apart in one layer",
        ))  # fmt: skip
    start = origin(act)
    if start is not None and start.attracts is not False:
        return _at_origin(act, start, residual)
    points, line = half_stable_points(act)
    notes: tuple[str, ...] = ()
    if start is not None:
        notes = (
            f"K* = 0 at C_W = {(1 - residual**2) / start.A2:.6g}, C_b = 0 has both susceptibilities 1 too but repels: "
            "kernels grow away from it",
        )
    if points:
        return _half_stable(act, points, line, residual, notes)
    return _without(act, residual, notes)


def _at_origin(act: Activation, o: Origin, residual: float) -> CriticalPoint:
    keep = 1 - residual**2
    free = o.kind is UniversalityClass.scale_invariant
    skew = math.sqrt(2 / math.pi) * (o.plus**2 - o.minus**2) / o.A2
    nu_0 = spread_with_skip(3 * o.A4 / o.A2**2 - 1, skew, residual)
    a1, b1, a2, c = (None if v is None else v * keep for v in (o.a1, o.b1, o.a2, o.c))
    return CriticalPoint(
        act.name, o.kind, keep / o.A2, 0.0, None if free else 0.0, residual, o.exponents, nu_0 if free else nu_0 / 3,
        (o.plus, o.minus), a1, b1, a2, c, error=max(1e-14, 10 * act.precision),
        kink=None if o.scale is None else math.sqrt(o.scale),
    )  # fmt: skip


def _half_stable(
    act: Activation, points: list[Tuning], line: bool, residual: float, notes: tuple[str, ...]
) -> CriticalPoint:
    p, keep = points[0], 1 - residual**2
    K = torch.tensor(p.K, dtype=torch.float64)
    third = float(third_moment(act, K))
    nu = spread_with_skip(p.nu, p.C_W * third / p.K**1.5, residual)
    if line:
        notes = (*notes, "every K* > 0 is such a point, each with its own C_W and C_b; K* = 1 stands for them")
    return CriticalPoint(
        act.name, UniversalityClass.half_stable, keep * p.C_W, keep * p.C_b, p.K, residual,
        Exponents(0.0, 0.0, 0.0), nu, chi_prime=keep * p.chi_prime, h=keep * p.h, error=p.error,
        neighbour=neighbour(act, p, residual), others=tuple((keep * q.C_W, keep * q.C_b, q.K) for q in points[1:]),
        notes=notes,
    )  # fmt: skip


def _without(act: Activation, residual: float, notes: tuple[str, ...]) -> CriticalPoint:
    at_zero = float(act.fn(torch.zeros(1, dtype=torch.float64)))
    if abs(at_zero) > _NO_KERNEL:
        moved = critical_point(shifted(act, at_zero), residual=residual)
        if moved.exists:
            where = "any K*" if moved.K is None else f"K* = {moved.K:.6g}"
            notes = (
                *notes, f"with {at_zero:g} subtracted it has a critical point, class {moved.universality_class}: "
                f"C_W = {moved.C_W:.6g}, C_b = {moved.C_b:.6g}, {where}",
            )  # fmt: skip
    near = nearest_point(act)
    if near is not None and residual > 0:
        keep, skip = 1 - residual**2, residual**2
        near = dataclasses.replace(
            near, C_W=keep * near.C_W, C_b=keep * near.C_b, chi_parallel=keep * near.chi_parallel + skip,
            chi_perp=keep * near.chi_perp + skip,
        )  # fmt: skip
    return CriticalPoint(act.name, UniversalityClass.none, residual=residual, nearest=near, notes=notes)


def shifted(act: Activation, value: float) -> Activation:
    """The activation less a constant."""
    return activation(Activation(
        lambda z: act.fn(z) - value, name=f"{act.name} - {value:g}", kinks=act.kinks, jumps=act.jumps,
        derivative=act.derivative, precision=act.precision,
    ))  # fmt: skip


def _nothing(name: str, residual: float, notes: tuple[str, ...]) -> CriticalPoint:
    return CriticalPoint(name, UniversalityClass.none, residual=residual, notes=notes)
