"""Fourth moments of a channel: of sums of Gaussian sources, of nonlinearities and products of them.

A first layer of few uniform weights is not quite Gaussian. Its fourth cumulant is known exactly, and goes into the
moments of what follows to first order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.gaussian import hermite_coefficients
from leadline.gaussian.one import distinct
from leadline.rules.expr import Apply, Expr, Lin, Product, Source, gaussian
from leadline.rules.moments import Moments

__all__ = ["excess", "flat", "fourth_cumulant", "fourth_moment", "second_moment", "tilt"]


def flat(expr: Expr) -> dict[object, tuple[Tensor, Tensor]] | None:
    """A Gaussian as a sum of its sources at the same points: key -> (coefficient, second moment), each (P,)."""
    if "flat" not in expr.memo:
        found: dict[object, tuple[Tensor, Tensor]] = {}
        expr.memo["flat"] = found if gaussian(expr) and _flatten(expr, 1.0, found) else None
    return expr.memo["flat"]  # type: ignore[return-value]


def _flatten(expr: Expr, c: float | Tensor, found: dict[object, tuple[Tensor, Tensor]]) -> bool:
    if isinstance(expr, Source):
        K = expr.second.diagonal()
        before = found[expr.key][0] if expr.key in found else torch.zeros_like(K)
        found[expr.key] = (before + c, K)
        return True
    return isinstance(expr, Lin) and all(_flatten(e, c * d, found) for d, e in expr.terms)


def fourth_cumulant(expr: Expr) -> Tensor | None:
    """Fourth cumulant of a sum of sources, of which a first layer's are not quite Gaussian (P,); None for zero."""
    sources = flat(expr)
    fourth = _fourths(expr)
    if sources is None or not fourth:
        return None
    return torch.stack([sources[name][0] ** 4 * k for name, k in fourth.items()]).sum(0)


def _fourths(expr: Expr) -> dict[object, Tensor]:
    if isinstance(expr, Source):
        return {expr.key: expr.memo["fourth"]} if "fourth" in expr.memo else {}  # type: ignore[dict-item]
    out: dict[object, Tensor] = {}
    for _, e in expr.terms if isinstance(expr, Lin) else ():
        out |= _fourths(e)
    return out


def fourth_moment(expr: Expr, moments: Moments) -> Tensor:
    """<e^4> at each point (P,)."""
    if gaussian(expr):
        kappa = fourth_cumulant(expr)
        fourth = 3 * moments.diagonal(expr).square()
        return fourth if kappa is None else fourth + kappa
    if isinstance(expr, Source) and expr.drop is not None:
        return torch.full_like(moments.diagonal(expr), (1 - expr.drop) ** -3)
    if isinstance(expr, Apply) and expr.order == 0 and gaussian(expr.inner):
        act = expr.activation
        gaussian_part = act.fourth_moment(moments.diagonal(expr.inner))
        return gaussian_part + tilt(lambda z: act(z) ** 4, expr.inner, moments, act.kinks)
    if isinstance(expr, Product) and expr.left.sources.isdisjoint(expr.right.sources):
        return fourth_moment(expr.left, moments) * fourth_moment(expr.right, moments)
    return moments.draws(expr).pow(4).mean(0)


def excess(x: Expr, moments: Moments) -> Tensor | None:
    r"""Weight of the fourth Hermite polynomial in the law of a nearly Gaussian x.

    .. math:: E f(x) = \langle f \rangle + \frac{\kappa_4}{\sqrt{24} K^2} \langle f h_4 \rangle

    Returns:
        Shape (P,); None where x is Gaussian.
    """
    kappa = fourth_cumulant(x)
    return None if kappa is None else kappa / (24**0.5 * moments.diagonal(x).square().clamp_min(1e-300))


def second_moment(expr: Expr, moments: Moments) -> Tensor:
    """<e^2> at each point (P,), with what the fourth cumulant of a first layer adds to it."""
    K = moments.diagonal(expr)
    if isinstance(expr, Apply) and expr.order == 0 and gaussian(expr.inner):
        act = expr.activation
        return K + tilt(lambda z: act(z) ** 2, expr.inner, moments, act.kinks)
    return K


def tilt(f: Callable[[Tensor], Tensor], x: Expr, moments: Moments, kinks: Sequence[float]) -> Tensor | float:
    """What the fourth cumulant of a first layer adds to the mean of a function of it, to first order (P,)."""
    weight = excess(x, moments)
    if weight is None:
        return 0.0
    few, back = distinct(moments.diagonal(x))
    return weight * hermite_coefficients(f, few, 4, kinks)[back.reshape(-1), 4]
