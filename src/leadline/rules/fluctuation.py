r"""Seed-to-seed fluctuation of second moments, to first order in 1/n, from a channel as a function of its sources.

A source s is Gaussian given the layers before, with a covariance G_s that varies from draw to draw; channels are
otherwise independent. So the mean of e^2 over n channels moves by

.. math:: \delta M = \sum_s \frac{\partial \langle e^2 \rangle}{\partial G_s}\, \delta G_s
    + \frac1n \sum_i \big(e_i^2 - \langle e^2 \rangle\big),

and a norm adds the fluctuation of its own statistic. What is kept beyond the first order is that a scale which
has spread already samples its channels at that scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.rules.context import Context
from leadline.rules.covariance import covariance
from leadline.rules.expr import Apply, Expr, Lin, NoRule, Product, Source, gaussian
from leadline.rules.fourth import flat, tilt
from leadline.rules.influence import Parts, Sample, accumulate, sample
from leadline.rules.moments import Moments
from leadline.rules.random_scale import averaged_over_scale, lognormal_pair, slope_in_mean
from leadline.rules.state import Noise
from leadline.rules.stream import bent

__all__ = ["Normalised", "averaged", "known", "mixed", "passed_on", "sampled"]


@dataclass(frozen=True, eq=False)
class Normalised:
    """What a norm divided: its input, one over the standard deviation (P,), whether the mean was taken off, its channels."""

    inner: Expr
    inverse: Tensor
    centred: bool
    width: int


@dataclass
class _Change:
    """First-order change of a Gaussian's law: of its variance and of its mean, and the mean of the former."""

    variance: Parts = field(default_factory=dict)
    mean: Parts = field(default_factory=dict)
    shift: Tensor | None = None
    normed: bool = False

    def scale(self, K: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the law's variance at each point (P,)."""
        return Noise(self.variance, sampled=False, shift=self.shift).scale(K)


def known(expr: Expr, noise: Noise | None, ctx: Context) -> Noise | None:
    """Remember the fluctuation of a fresh source's covariance."""
    if noise is not None and isinstance(expr, Source):
        ctx.noises[expr.key] = noise
    return noise


def sampled(expr: Expr, width: int, ctx: Context) -> Noise | None:
    """Fluctuation of the mean of e^2 over a layer's own channels.

    Args:
        expr: e.
        width: number of channels.
        ctx: of the pass; it knows the fluctuation of the sources.

    Returns:
        The fluctuation, or None where it is not known (a source's is not, or the expression is of another kind).
    """
    if "norm" in expr.memo:
        return Noise({}, sampled=True, pinned=True)
    try:
        noise = _sampled(expr, width, ctx)
        if noise is not None:
            noise.variance()  # which may refuse
        return noise
    except NoRule:
        return None


def _sampled(expr: Expr, width: int, ctx: Context) -> Noise | None:
    m = ctx.moments
    own = sample(expr, 2, width, m)
    if gaussian(expr):
        law = _law(expr, ctx)
        if law is None:
            return None
        mean, variance = law.scale(m.diagonal(expr))
        inflated = mean.square() + (0 if law.normed else variance)
        parts = dict(law.variance)
        accumulate(parts, {own: (inflated / m.diagonal(expr).square().clamp_min(1e-300)).sqrt()})
        return Noise(parts, sampled=True, shift=law.shift)
    if isinstance(expr, Apply) and expr.order == 0 and gaussian(expr.inner):
        law = _law(expr.inner, ctx)
        return None if law is None else _applied(expr, law, own, m)
    if isinstance(expr, Product) and expr.left.sources.isdisjoint(expr.right.sources):
        return _product(expr, own, ctx)
    return None


def _applied(expr: Apply, law: _Change, own: Sample, m: Moments) -> Noise:
    act, x = expr.activation, expr.inner
    K = m.diagonal(x)
    parts: Parts = {}
    accumulate(parts, law.mean, slope_in_mean(act, K) if law.mean else 1.0)
    if law.normed:
        accumulate(parts, law.variance, act.second_moment_slope(K))
        accumulate(parts, {own: torch.ones_like(K)})
        return Noise(parts, sampled=True)
    mean, variance = law.scale(K)
    slope = act.second_moment_slope(mean)
    if act.scale_invariant:  # <f^2> and <f^4> go with G and G^2: exact whatever the law of G
        gain, shift = slope, None if law.shift is None else slope * law.shift
        inflation = (1 + variance / mean.square().clamp_min(1e-300)) * (mean / K.clamp_min(1e-150)).square()
    else:
        gain, shift, inflation = averaged_over_scale(act, K, mean, variance)
    for more in (tilt(lambda z: act(z) ** 2, x, m, act.kinks), bent(expr, law.variance)):
        if isinstance(more, Tensor):
            shift = more if shift is None else shift + more
    accumulate(parts, law.variance, gain)
    accumulate(parts, {own: inflation.sqrt()})
    return Noise(parts, sampled=True, shift=shift)


@dataclass(frozen=True)
class _Factor:
    """One factor of a product: moments of it as a function of its Gaussian's variance, and how that moves."""

    act: Activation | None
    law: _Change
    K: Tensor
    kurtosis: float = 3.0

    def second(self, G: Tensor) -> Tensor:
        return G if self.act is None else self.act.second_moment(G)

    def fourth(self, G: Tensor) -> Tensor:
        return self.kurtosis * G.square() if self.act is None else self.act.fourth_moment(G)

    def slope(self, G: Tensor) -> Tensor:
        return torch.ones_like(G) if self.act is None else self.act.second_moment_slope(G)

    def scale(self, certain: bool) -> tuple[Tensor, Tensor]:
        mean, variance = self.law.scale(self.K)
        return mean, torch.zeros_like(variance) if certain else variance


def _factor(expr: Expr, ctx: Context) -> _Factor | None:
    m = ctx.moments
    if isinstance(expr, Source) and expr.drop is not None:
        return _Factor(None, _Change(), m.diagonal(expr), 1 / (1 - expr.drop))
    act = expr.activation if isinstance(expr, Apply) and expr.order == 0 else None
    x = expr.inner if isinstance(expr, Apply) else expr
    if not gaussian(x) or (act is None and x is not expr):
        return None
    law = _law(x, ctx)
    return None if law is None else _Factor(act, law, m.diagonal(x))


def _product(expr: Product, own: Sample, ctx: Context) -> Noise | None:
    """A gate: both factors move with their own scale, and these move together where they read one layer."""
    one, two = _factor(expr.left, ctx), _factor(expr.right, ctx)
    if one is None or two is None:
        return None
    certain = one.law.normed or two.law.normed
    first, second = one.scale(certain), two.scale(certain)
    shared = covariance(one.law.variance, two.law.variance)
    shared = torch.zeros_like(first[1]) if shared is None or certain else shared
    G, H, weight = lognormal_pair(first, second, shared)
    size, fourth = one.second(G) * two.second(H), one.fourth(G) * two.fourth(H)
    M = (weight * size).sum(0)
    parts: Parts = {}
    accumulate(parts, one.law.variance, one.slope(first[0]) * two.second(second[0]))
    accumulate(parts, two.law.variance, two.slope(second[0]) * one.second(first[0]))
    linear = covariance(parts, parts)
    if linear is not None and not certain:
        # as much as the two scales really move it, of which the slopes are the first order
        moved = (weight * (size - M).square()).sum(0)
        random = linear > 1e-12 * M.square()
        ratio = torch.where(random, moved / torch.where(random, linear, torch.ones_like(linear)), torch.ones_like(M))
        parts = {key: _times(response, ratio.sqrt()) for key, response in parts.items()}
    for factor, other, at in ((one, two, second[0]), (two, one, first[0])):
        if factor.law.mean and factor.act is not None:
            accumulate(parts, factor.law.mean, slope_in_mean(factor.act, factor.K) * other.second(at))
    spread = (weight * (fourth - size.square())).sum(0)
    accumulate(parts, {own: (spread.clamp_min(0) / own.own.clamp_min(1e-300)).sqrt()})
    return Noise(parts, sampled=True, shift=M - ctx.moments.diagonal(expr))


def _times(response: Tensor, factor: Tensor) -> Tensor:
    return response * (factor if response.dim() == 1 else factor[:, None])


def _law(x: Expr, ctx: Context) -> _Change | None:
    """First-order change of a Gaussian's law; None where a source's is not known."""
    if "law change" not in x.memo:
        x.memo["law change"] = _change(x, ctx)
    return x.memo["law change"]  # type: ignore[return-value]


def _change(x: Expr, ctx: Context) -> _Change | None:
    sources, norms = flat(x), _norms(x, 1.0)
    if sources is None:
        return None
    out = _Change(normed=bool(norms))
    if not norms and isinstance(x, Lin) and _apart(x):
        for c, e in x.terms:
            inner = _law(e, ctx)
            if inner is None:
                return None
            square = torch.as_tensor(c).square()
            accumulate(out.variance, inner.variance, square if square.dim() else float(square))
            if inner.shift is not None:
                out.shift = square * inner.shift if out.shift is None else out.shift + square * inner.shift
        return out
    free = _free(x)
    for key, (c, _) in sources.items():
        noise = _noise_of(key, ctx)
        if noise is None:
            return None
        accumulate(out.variance, noise.parts, c.square())
        if noise.shift is not None and key in free:
            out.shift = c.square() * noise.shift if out.shift is None else out.shift + c.square() * noise.shift
    for e, share, norm in norms:
        inner, y = _law(norm.inner, ctx), norm.inner
        if inner is None:
            return None
        inside = flat(e)
        meets = torch.stack([sources[k][0] * d * K for k, (d, K) in (inside or {}).items()]).sum(0)
        statistic = dict(inner.variance)
        accumulate(statistic, {sample(y, 2, norm.width, ctx.moments): torch.ones_like(norm.inverse)})
        accumulate(out.variance, statistic, -share * meets * norm.inverse.square())
        if norm.centred:
            average = dict(inner.mean)
            accumulate(average, {sample(y, 1, norm.width, ctx.moments): torch.ones_like(norm.inverse)})
            accumulate(out.mean, average, -share * norm.inverse)
    return out


def _apart(x: Lin) -> bool:
    """Whether no two terms of a sum have a source in common."""
    return sum(len(e.sources) for _, e in x.terms) == len(x.sources)


def _free(x: Expr) -> set[object]:
    """Sources that come in behind every norm."""
    if "norm" in x.memo:
        return set()
    if isinstance(x, Source):
        return {x.key}
    return set().union(*(_free(e) for _, e in x.terms)) if isinstance(x, Lin) else set()


def _norms(x: Expr, c: float | Tensor) -> list[tuple[Expr, float | Tensor, Normalised]]:
    """The normalised parts of a sum, each with its coefficient."""
    found: list[tuple[Expr, float | Tensor, Normalised]] = []
    if "norm" in x.memo:
        found.append((x, c, x.memo["norm"]))  # type: ignore[arg-type]
    if isinstance(x, Lin):
        for d, e in x.terms:
            found += _norms(e, c * d)
    return found


def _noise_of(key: object, ctx: Context) -> Noise | None:
    while key not in ctx.noises and isinstance(key, tuple) and len(key) == 2:
        key = key[0]  # other channels of one layer
    return ctx.noises.get(key)


def passed_on(noise: Noise | None, factor: float) -> Noise | None:
    """Fluctuation of a fresh layer's covariance, from that of the second moment of its input over all its channels."""
    if noise is None:
        return None
    shift = None if noise.shift is None else factor * noise.shift
    return Noise({k: factor * r for k, r in noise.parts.items()}, sampled=False, shift=shift)


def averaged(noise: Noise | None, groups: Tensor) -> Noise | None:
    """The same for a mean over groups of points, indices (P', size)."""
    if noise is None:
        return None
    matrix = torch.zeros(groups.shape[0], int(groups.max()) + 1, dtype=torch.float64, device=groups.device)
    return mixed(noise, matrix.scatter_add_(1, groups, torch.full(groups.shape, 1 / groups.shape[1]).to(matrix)))


def mixed(noise: Noise | None, matrix: Tensor) -> Noise | None:
    """The same where second moments at some points are added up, matrix (P', P)."""
    if noise is None:
        return None
    parts = {k: matrix.to(r) * r if r.dim() == 1 else matrix.to(r) @ r for k, r in noise.parts.items()}
    shift = None if noise.shift is None else matrix.to(noise.shift) @ noise.shift
    return Noise(parts, sampled=True, shift=shift)
