"""Means over a layer's finite sample of channels, and how those of one layer go together.

To first order in 1/n every second moment of a network moves from one draw of the weights to the next as a linear
combination of such means: of each step's own channels, and of those of the steps before it. Channels of different
sources are independent; those of one residual stream are the same channels at every depth, and their covariance is
the cross term between a stream and its branches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from leadline.gaussian import hermite_coefficients
from leadline.gaussian.one import distinct
from leadline.rules.banded import dense
from leadline.rules.expr import Apply, Expr, NoRule, gaussian
from leadline.rules.fourth import flat, fourth_moment, second_moment
from leadline.rules.moments import Moments

__all__ = ["Parts", "Sample", "accumulate", "bent", "covariance", "sample"]

ORDER = 24  # of the Hermite series of a covariance between two means; what is beyond counts in a mean's own variance
_DISTINCT = 4096  # variances at which Hermite coefficients are taken
_MOST = 2**31  # products of one covariance over pairs of points


@dataclass(frozen=True, eq=False)
class Sample:
    """The mean over n channels of e^power, less its expectation, at each point.

    ``expr``: e, a function of the channel's sources. ``width``: n.
    """

    expr: Expr
    power: int
    width: int
    moments: Moments = field(repr=False)

    @property
    def argument(self) -> Expr:
        """The Gaussian variable that it is a function of; a product has none."""
        return self.expr.inner if isinstance(self.expr, Apply) else self.expr

    @cached_property
    def own(self) -> Tensor:
        """Variance of one channel's e^power at each point (P,)."""
        K = self.moments.diagonal(self.expr)
        if self.power == 1:
            return K - self.moments.mean(self.expr).square()
        return fourth_moment(self.expr, self.moments) - second_moment(self.expr, self.moments).square()

    @cached_property
    def coefficients(self) -> Tensor | None:
        """Hermite coefficients of degrees 1 to ORDER at each point (P, ORDER); None for a product."""
        x = self.argument
        if not gaussian(x):
            return None
        K = self.moments.diagonal(x)
        if x is self.expr:
            out = K.new_zeros(K.numel(), ORDER)
            out[:, self.power - 1] = K.clamp_min(0).sqrt() if self.power == 1 else 2**0.5 * K
            return out
        act, power = self.expr.activation, self.power  # type: ignore[attr-defined]
        few, back = distinct(K)
        if few.numel() > _DISTINCT:
            raise NoRule("too many different variances")
        return hermite_coefficients(lambda z: act(z) ** power, few, ORDER, act.kinks)[back.reshape(-1), 1:]

    def values(self) -> Tensor:
        """Draws of one channel's e^power, shape (draws, P)."""
        return self.moments.draws(self.expr) ** self.power


Parts = dict[Sample, Tensor]
"""Mean over channels -> response of a second moment to it: (P,) where only the same point responds, else (P, P')."""


def sample(expr: Expr, power: int, width: int, moments: Moments) -> Sample:
    """The mean over channels of e^power; the same one each time it is asked for."""
    key = f"sample:{power}:{width}"
    if key not in expr.memo:
        expr.memo[key] = Sample(expr, power, width, moments)
    return expr.memo[key]  # type: ignore[return-value]


def accumulate(total: Parts, parts: Mapping[Sample, Tensor], factor: float | Tensor = 1.0) -> None:
    """Add a multiple (a number, or a vector over points) of responses to others, in place."""
    for key, response in parts.items():
        if isinstance(factor, Tensor) and response.dim() == 2:
            added = response * factor[:, None]
        else:
            added = response * factor
        known = total.get(key)
        if known is not None and known.dim() != added.dim():
            known, added = (torch.diag(v) if v.dim() == 1 else v for v in (known, added))
        total[key] = added if known is None else known + added


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
    count: dict[object, int] = {}
    for key in every:
        for name in key.expr.sources:
            count[name] = count.get(name, 0) + 1
    joint = [s for s in every if any(count[name] > 1 for name in s.expr.sources)]
    total: Tensor | None = None
    if any(r.dim() == 2 for r in (*one.values(), *two.values())):
        joint = every
    else:
        for s in every:
            if s not in joint and s in one and s in two:
                part = one[s] * two[s] * s.own / s.width
                total = part if total is None else total + part
    if joint:
        matrix = any(r.dim() == 2 for s in joint for r in (one.get(s), two.get(s)) if r is not None)
        more = _across(one, two) if matrix else _together(joint, one, two)
        total = more if total is None or more is None else total + more
    if total is None:
        like = next(iter((*one.values(), *two.values())))
        return like.new_zeros(like.shape[0])
    return total


def _together(joint: list[Sample], one: Mapping[Sample, Tensor], two: Mapping[Sample, Tensor]) -> Tensor:
    """The same among means that have sources in common, point by point."""
    G = _gram(joint)
    zero = torch.zeros_like(G[0, 0])
    a, b = (torch.stack([parts.get(s, zero) for s in joint]) for parts in (one, two))
    return torch.einsum("jp,jkp,kp->p", a, G, b)


def _gram(joint: list[Sample]) -> Tensor:
    """Covariance of means at equal points, shape (J, J, P)."""
    if len({s.width for s in joint}) > 1:
        raise NoRule("values of one layer's channels that are not over the same number of channels")
    series = [s for s in joint if s.coefficients is not None and flat(s.argument) is not None]
    keys = sorted({k for s in series for k in flat(s.argument)}, key=repr)  # type: ignore[union-attr]
    P = joint[0].own.numel()
    G = joint[0].own.new_zeros(len(joint), len(joint), P)
    if series:
        x = G.new_zeros(len(series), len(keys), P)
        for i, s in enumerate(series):
            for name, (c, K) in flat(s.argument).items():  # type: ignore[union-attr]
                x[i, keys.index(name)] = c * K.clamp_min(0).sqrt()
        x = x / x.square().sum(1, keepdim=True).sqrt().clamp_min(1e-150)
        rho = torch.einsum("jsp,ksp->jkp", x, x)
        c = torch.stack([s.coefficients for s in series])  # type: ignore[misc]
        total = torch.zeros_like(rho)
        for k in range(ORDER - 1, -1, -1):  # the lowest degree is one
            total = (total + c[:, None, :, k] * c[None, :, :, k]) * rho
        at = torch.tensor([joint.index(s) for s in series])
        G[at[:, None], at[None, :]] = total
    for j, s in enumerate(joint):
        for k, t in enumerate(joint[:j]):
            if (s in series and t in series) or s.expr.sources.isdisjoint(t.expr.sources):
                continue
            u, v = s.values(), t.values()
            G[j, k] = G[k, j] = (u * v).mean(0) - u.mean(0) * v.mean(0)
        G[j, j] = s.own
    return G / joint[0].width


def bent(expr: Expr, parts: Mapping[Sample, Tensor]) -> Tensor | None:
    r"""What <f(x)^2> gains since a channel's own earlier values take part in the scale of its later ones.

    .. math:: \frac{1}{2n} \sum_j r_j\, \mathrm{Cov}\big((f^2)''(x),\, e_j^2\big)

    Args:
        expr: f(x) with a Gaussian x.
        parts: responses r_j of the variance of x, to the means of e_j^2 over n channels.

    Returns:
        Shape (P,), or None for zero.
    """
    joint = [
        s for s, r in parts.items()
        if r.dim() == 1 and s.coefficients is not None and not s.expr.sources.isdisjoint(expr.sources)
    ]  # fmt: skip
    mine = flat(expr.inner)  # type: ignore[attr-defined]
    if not joint or mine is None:
        return None
    own = sample(expr, 2, joint[0].width, joint[0].moments)
    K = own.moments.diagonal(own.argument).clamp_min(1e-300)
    degree = torch.arange(1, ORDER - 1, dtype=K.dtype, device=K.device)
    curved = own.coefficients[:, 2:] * ((degree + 1) * (degree + 2)).sqrt() / K[:, None]  # type: ignore[index]
    total = torch.zeros_like(K)
    for s in joint:
        theirs = flat(s.argument)
        if theirs is None:
            return None
        meets = torch.stack([mine[k][0] * c * G for k, (c, G) in theirs.items() if k in mine]).sum(0)
        rho = (meets / (K * s.moments.diagonal(s.argument).clamp_min(1e-300)).sqrt()).clamp(-1, 1)
        powers = rho[:, None] ** degree
        total = total + parts[s] * (curved * s.coefficients[:, : ORDER - 2] * powers).sum(1) / (2 * s.width)  # type: ignore[index]
    return total


def _across(one: Mapping[Sample, Tensor], two: Mapping[Sample, Tensor]) -> Tensor | None:
    """The same where a point responds to the means of other points."""
    total: Tensor | None = None
    for s, left in one.items():
        for t, right in two.items():
            if s.expr.sources.isdisjoint(t.expr.sources):
                continue
            if s.width != t.width:
                raise NoRule("values of one layer's channels that are not over the same number of channels")
            C = _between_points(s, t) / s.width
            A, B = (torch.diag(r) if r.dim() == 1 else r for r in (left, right))
            part = ((A @ C) * B).sum(1)
            total = part if total is None else total + part
    return total


def _between_points(one: Sample, two: Sample) -> Tensor:
    """Covariance of two means between all pairs of points, shape (P, P')."""
    key = f"covariance:{two.power}:{id(two.expr)}"
    if key not in one.expr.memo:
        one.expr.memo[key] = _pairs(one, two)
    return one.expr.memo[key]  # type: ignore[return-value]


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
