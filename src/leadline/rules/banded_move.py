"""Expressions at other sites of large images: a move changes places with pointwise functions, a mean of sites does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.rules.banded import Banded, band
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_sites import SiteMap, Spread
from leadline.rules.expr import (
    Apply,
    Cat,
    Expr,
    Lin,
    NoRule,
    Product,
    Source,
    apply,
    cat,
    gaussian,
    lin,
    mix,
    product,
    source,
)
from leadline.rules.moments import Moments
from leadline.rules.state import Cotangent, fresh

__all__ = ["interpolation_maps", "move_map", "moved", "moved_back"]

_CLASSES = 8  # neighbouring sites that an interpolation is asked about apart

Map = SiteMap | Spread


def moved(expr: Expr, sites: Map, moments: Moments) -> Expr:
    """An expression at the points of a map.

    Args:
        expr: a function of sources over the old points.
        sites: the map.
        moments: takes expectations.

    Returns:
        A Gaussian expression stays one. What only moves keeps its dependence on the sources; a mean of sites that is not
        Gaussian becomes a fresh source with its second moment.
    """
    key = f"moved {id(sites)}"
    if key not in expr.memo:
        expr.memo[key] = (_moved(expr, sites, moments), sites)  # the map is kept, so that its id stays its own
    return expr.memo[key][0]  # type: ignore[index]


def moved_back(cotangent: Cotangent, sites: SiteMap, moments: Moments) -> Cotangent:
    """The derivative before a map over sites.

    Args:
        cotangent: the derivative behind it.
        sites: the map.
        moments: takes expectations.

    Returns:
        One fresh wave; where a maximum comes behind the map, it keeps what the winners' slope is.
    """
    if len(cotangent.waves) == 1 and cotangent.waves[0].factor is None and cotangent.waves[0].winners is not None:
        (wave,) = cotangent.waves
        D = sites.adjoint(wave.squared)
        won = sites.adjoint(wave.squared * wave.winners).values
        safe = D.values.abs() > 1e-30
        ratio = torch.where(safe, won / torch.where(safe, D.values, torch.ones_like(won)), torch.zeros_like(won))
        return fresh(D, winners=Banded(ratio, D.grid))
    return fresh(sites.adjoint(band(cotangent.total(moments), sites.grid)))


def _moved(expr: Expr, sites: Map, moments: Moments) -> Expr:
    if gaussian(expr):
        return mix(expr, sites)
    if isinstance(sites, Spread) or sites.single:
        if isinstance(expr, Lin):
            terms = [(sites.vector(c) if isinstance(c, Tensor) else c, moved(e, sites, moments)) for c, e in expr.terms]
            return lin(terms, None if expr.offset is None else sites.vector(expr.offset))
        if isinstance(expr, Apply) and (isinstance(sites, Spread) or not sites.padded or _vanishes(expr)):
            return apply(expr.activation, moved(expr.inner, sites, moments), expr.order)
        if isinstance(expr, Product):
            return product(moved(expr.left, sites, moments), moved(expr.right, sites, moments))
        if isinstance(expr, Source):
            second, mean = sites.kernel(expr.second), None if expr.mean is None else sites.vector(expr.mean)
            return source(second, mean=mean, gaussian=expr.gaussian, drop=expr.drop, key=(expr.key, id(sites)))
    if isinstance(expr, Cat):
        return cat([(share, moved(e, sites, moments)) for share, e in expr.parts])
    mean = sites.vector(moments.mean(expr))
    out = source(sites.kernel(moments.second(expr)), mean=mean if bool(mean.any()) else None, gaussian=False)
    out.memo["error"] = moments.error(expr)
    return out


def _vanishes(expr: Apply) -> bool:
    f = expr.activation if expr.order == 0 else expr.activation.derivative
    return float(f(torch.zeros(1))) == 0.0


def move_map(index: Tensor, inner: Grid, out: Grid) -> SiteMap:
    """A map that takes each new point from one old point.

    Args:
        index: old point of each new point, -1 for none, shape (new points,).
        inner: pairs of the old image.
        out: pairs of the new one.

    Returns:
        The map over sites.

    Raises:
        NoRule: samples are not treated alike.
    """
    if index.numel() != out.points or inner.samples != out.samples:
        raise NoRule("some samples of large images")
    by_sample = index.reshape(out.samples, -1)
    first = torch.arange(out.samples)[:, None] * inner.sites
    sites = torch.where(by_sample >= 0, by_sample - first, -1)
    if not bool((sites == sites[:1]).all()) or int(sites.max()) >= inner.sites:
        raise NoRule("a move of large images that is not the same for all samples")
    return SiteMap(inner, out, sites[0][:, None], torch.ones(out.sites, 1))


def interpolation_maps(run: Callable[[Tensor], Tensor], inner: Grid, out: Grid) -> list[SiteMap]:
    """The maps of an interpolation, which goes one dimension after another.

    Args:
        run: the operator on images (images, 1, *sizes).
        inner: pairs of the old image.
        out: pairs of the new one.

    Returns:
        The maps over sites, in turn.
    """
    maps: list[SiteMap] = []
    for d in range(len(inner.sizes)):
        if inner.sizes[d] == out.sizes[d] and inner.level[d] == out.level[d]:
            continue
        before = maps[-1].grid if maps else inner
        done = d + 1
        after = inner.plan.grid((*out.level[:done], *inner.level[done:]), (*out.sizes[:done], *inner.sizes[done:]))
        index, weight = _along(run, d, inner.sizes, out.sizes)
        rest = torch.stack(torch.meshgrid(*[torch.arange(n) for n in after.sizes], indexing="ij"), -1).flatten(0, -2)
        stride = [math.prod(before.sizes[e + 1 :]) for e in range(len(before.sizes))]
        others = sum(rest[:, e] * stride[e] for e in range(len(stride)) if e != d)
        taps = index[rest[:, d]] * stride[d] + torch.as_tensor(others).reshape(-1, 1)
        w = weight[rest[:, d]]
        maps.append(SiteMap(before, after, torch.where(w != 0, taps, -1), w))
    return maps


def _along(run: Callable[[Tensor], Tensor], d: int, sizes: Sequence[int], out: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Old sites and weights of each new site in one dimension: asked of every eighth site at once, told apart by their mean."""
    n = sizes[d]
    place = torch.arange(n)
    rows = torch.cat([(place % _CLASSES == torch.arange(_CLASSES)[:, None]).double(), place[None].double()])
    view = [rows.shape[0], 1, *[1] * len(sizes)]
    view[d + 2] = n
    answer = run(rows.reshape(view).expand(rows.shape[0], 1, *sizes))
    for e in reversed(range(len(sizes))):
        if e != d:
            answer = answer.select(e + 2, out[e] // 2)
    weight, mean = answer[:_CLASSES, 0].T, answer[_CLASSES, 0]  # (new, classes), (new,)
    weight = torch.where(weight.abs() < 1e-9, torch.zeros_like(weight), weight)
    near = (mean[:, None] - torch.arange(_CLASSES)) / _CLASSES
    index = (near.round() * _CLASSES + torch.arange(_CLASSES)).long().clamp(0, n - 1)
    taps = int((weight != 0).sum(1).max())
    order = weight.abs().argsort(1, descending=True)[:, : max(taps, 1)]
    return index.gather(1, order), weight.gather(1, order)
