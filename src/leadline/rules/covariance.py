"""Covariance over networks of two quantities that respond to means over channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from leadline.rules.banded import dense
from leadline.rules.expr import NoRule
from leadline.rules.influence import ORDER, Sample
from leadline.rules.stream import gram

__all__ = ["covariance"]

_MOST = 2**31  # products of one covariance over pairs of points


def covariance(one: Mapping[Sample, Tensor], two: Mapping[Sample, Tensor]) -> Tensor | None:
    """Covariance at each point of two quantities with the given responses.

    Args:
        one: responses of the first, to each mean over channels.
        two: of the second.

    Returns:
        Shape (P,); None where neither responds to anything.

    Raises:
        NoRule: two means over one layer's channels are over different numbers of them.
    """
    every = list(dict.fromkeys([*one, *two]))
    if not every:
        return None
    like = next(iter((*one.values(), *two.values())))
    total = like.new_zeros(like.shape[0])
    for group in _dependent(every):
        left, right = ({s: parts[s] for s in group if s in parts} for parts in (one, two))
        if len({s.width for s in group}) > 1:
            raise NoRule("values of one layer's channels that are not over the same number of channels")
        if not left or not right:
            continue
        if any(r.dim() == 2 for r in (*left.values(), *right.values())):
            total = total + _across(left, right)
        elif len(group) == 1:
            s = group[0]
            total = total + left[s] * right[s] * s.own / s.width
        else:
            zero = torch.zeros_like(total)
            x, y = (torch.stack([parts.get(s, zero) for s in group]) for parts in (left, right))
            total = total + torch.einsum("jp,jkp,kp->p", x, gram(group) / group[0].width, y)
    return total


def _dependent(every: list[Sample]) -> list[list[Sample]]:
    """Groups of means that have sources in common, directly or through others."""
    place: dict[object, int] = {}
    groups: dict[int, list[Sample]] = {}
    for number, s in enumerate(every):
        met = {place[name] for name in s.expr.sources if name in place}
        groups[number] = [t for old in sorted(met) for t in groups.pop(old)] + [s]
        for t in groups[number] if met else [s]:
            place.update(dict.fromkeys(t.expr.sources, number))
    return list(groups.values())


def _across(one: Mapping[Sample, Tensor], two: Mapping[Sample, Tensor]) -> Tensor:
    """The same where a point responds to the means of other points."""
    like = next(iter(one.values()))
    total = like.new_zeros(like.shape[0])
    for s, left in one.items():
        for t, right in two.items():
            if s.expr.sources.isdisjoint(t.expr.sources):
                continue
            C = _between_points(s, t) / s.width
            A, B = (torch.diag(r) if r.dim() == 1 else r for r in (left, right))
            part = ((A @ C) * B).sum(1)
            total = total + part
    return total


def _between_points(one: Sample, two: Sample) -> Tensor:
    """Covariance of two means between all pairs of points, shape (P, P')."""
    key = f"covariance:{one.power}:{two.power}:{id(two.expr)}"
    known = one.expr.memo.get(key)
    if not isinstance(known, tuple) or known[0] is not two:
        known = one.expr.memo[key] = (two, _pairs(one, two))
    return known[1]


def _pairs(one: Sample, two: Sample) -> Tensor:
    c, d = one.coefficients, two.coefficients
    if c is None or d is None:
        u, v = one.values(), two.values()
        return (u.T @ v) / u.shape[0] - torch.outer(u.mean(0), v.mean(0))
    if c.shape[0] * d.shape[0] * ORDER > _MOST:
        raise NoRule("too many pairs of sites")
    x, y = one.argument, two.argument
    m = one.moments
    sizes = [m.diagonal(e).clamp_min(1e-300).sqrt() for e in (x, y)]
    rho = (dense(m.covariance(x, y)) / sizes[0][:, None] / sizes[1][None, :]).clamp(-1, 1)
    total = torch.zeros_like(rho)
    for k in range(ORDER - 1, -1, -1):
        total = (total + c[:, k, None] * d[None, :, k]) * rho
    if one is two:
        total.diagonal().copy_(one.own)
    return total
