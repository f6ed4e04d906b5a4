"""Second moments between two expressions, which may be over different points."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.rules.banded import dense
from leadline.rules.expr import Apply, Cat, Expr, Gather, Lin, Mix, NoRule, gaussian
from leadline.rules.moments import Moments
from leadline.rules.sampling import take

__all__ = ["cross"]


def cross(moments: Moments, one: Expr, two: Expr) -> Tensor:
    """<e_p f_q> of two channel-wise functions of the same sources.

    Args:
        moments: takes the expectations; what no closed form knows is drawn.
        one: e.
        two: f.

    Returns:
        Shape (P_e, P_f).
    """
    key = f"cross:{id(two)}"
    known = one.memo.get(key)
    if not isinstance(known, tuple) or known[0] is not two:
        known = one.memo[key] = (two, _cross(moments, one, two))
    return known[1]


def _cross(m: Moments, one: Expr, two: Expr) -> Tensor:
    if one is two:
        return dense(m.second(one))
    if one.sources.isdisjoint(two.sources):
        return torch.outer(m.mean(one), m.mean(two))
    if gaussian(one) and gaussian(two):
        return dense(m.covariance(one, two))
    for a, b, flip in ((one, two, False), (two, one, True)):
        part = _split(m, a, b)
        if part is not None:
            return part.T if flip else part
    if isinstance(one, Apply) and isinstance(two, Apply):
        found = _two_nonlinearities(m, one, two)
        if found is not None:
            return found
    count = min(m.count(one.size), m.count(two.size))
    left, right = m.draws(one, count), m.draws(two, count)
    return left.T @ right / count


def _split(m: Moments, a: Expr, b: Expr) -> Tensor | None:
    """What is linear in a, or linear in a Gaussian a with a function of one (Stein's lemma)."""
    if isinstance(a, Lin):
        total = m.mean(b).new_zeros(a.size, b.size)
        for c, e in a.terms:
            part = cross(m, e, b)
            total = total + (c[:, None] * part if isinstance(c, Tensor) else c * part)
        return total if a.offset is None else total + torch.outer(a.offset.expand(a.size), m.mean(b))
    if isinstance(a, Gather):
        return take(cross(m, a.inner, b), a.index, 0)
    if isinstance(a, Mix):
        if not isinstance(a.matrix, Tensor):
            raise NoRule("one weight in several steps over large images")
        return a.matrix @ cross(m, a.inner, b)
    if isinstance(a, Cat) and isinstance(b, Cat) and [s for s, _ in a.parts] == [s for s, _ in b.parts]:
        return torch.stack([s * cross(m, e, f) for (s, e), (_, f) in zip(a.parts, b.parts, strict=True)]).sum(0)
    if gaussian(a) and isinstance(b, Apply) and b.order == 0 and gaussian(b.inner):
        return dense(m.covariance(a, b.inner)) * b.activation.derivative_mean(m.diagonal(b.inner))
    return None


def _two_nonlinearities(m: Moments, one: Apply, two: Apply) -> Tensor | None:
    """<f(x_p) f(y_q)> of two Gaussians; None where the nonlinearities or their orders differ."""
    if one.order != two.order or not (gaussian(one.inner) and gaussian(two.inner)):
        return None
    if not same(one.activation, two.activation):
        return None
    C = dense(m.covariance(one.inner, two.inner))
    a, b = m.diagonal(one.inner)[:, None].expand_as(C), m.diagonal(two.inner)[None, :].expand_as(C)
    limit = (a * b).clamp_min(0).sqrt()
    C = torch.minimum(torch.maximum(C, -limit), limit)
    dual = one.activation.dual if one.order == 0 else one.activation.dual_derivative
    return dual(a.reshape(-1), C.reshape(-1), b.reshape(-1), m.rtol).reshape(C.shape)


def same(one: Activation, two: Activation) -> bool:
    """Whether two nonlinearities are one function, as the same lines of code traced twice are."""
    if one is two:
        return True
    z = torch.linspace(-6, 6, 241, dtype=torch.float64)
    return one.kinks == two.kinks and bool(torch.equal(one(z), two(z)))
