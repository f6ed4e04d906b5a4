"""Max pooling of a kernel that is carried at offsets: windows by draws, pairs of windows by a regression over a sample."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.rules.banded import Banded
from leadline.rules.banded_conv import Window, convolve, window_scatter, window_sum
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_offsets import Offset
from leadline.rules.banded_pool import Back, average, carried, shifted, tap_pairs
from leadline.rules.banded_windows import Windows
from leadline.rules.expr import Apply, Expr

__all__ = ["Pooled", "maximum", "maximum_back"]

_PAIRS = 1536


@dataclass(frozen=True)
class Pooled:
    """Maxima over windows.

    ``second``, ``mean``: of the maxima. ``wins``: probability of each tap (points, taps). ``slope``: second moment of the
    slope at the winners, over that at any site, where an activation comes before. ``won``, ``sloped``: how the winners of
    two windows, and the products of their slopes, fall on pairs of taps, for each offset in one sample and in two
    (offsets, 2, taps, taps). ``error``, ``pair_error``: relative standard errors of the variances and of the correlations.
    """

    second: Banded
    mean: Tensor
    wins: Tensor
    slope: Banded | None
    won: Tensor
    sloped: Tensor
    error: float
    pair_error: float


def maximum(expr: Expr, window: Window, out: Grid, second: Callable[[Expr], Banded], seed: int) -> Pooled:
    """<max over one window, max over another>: every window by itself by draws, pairs of windows by a regression.

    A sample of pairs of windows is drawn; the correlation of their maxima is fitted by that of their sites, and by the
    correlation inside the windows.

    Returns:
        Second moment, mean and errors of the maxima.
    """
    slope = (
        Apply(expr.size, expr.sources, expr.activation, expr.inner, 1)
        if isinstance(expr, Apply) and expr.order == 0
        else None
    )
    windows = Windows(expr, slope, window, out, second, seed)
    own = windows.each()
    P = out.points
    M = second(expr)
    features = _features(M, window, out)
    generator = torch.Generator().manual_seed(seed)
    chosen = (
        torch.unique(torch.randint(P, out.pairs, (_PAIRS,), generator=generator)) if out.pairs > P else torch.arange(0)
    )
    drawn = windows.pairs(chosen)
    p, q, _ = out.index
    fitted, residual = _fit(features, chosen, drawn.maxima)
    scale = (own.second[p[P:]] * own.second[q[P:]]).sqrt()
    values = torch.cat([own.second, scale * fitted[P:]])
    correction = None
    if slope is not None:
        slopes, _ = _fit(features, chosen, drawn.slopes)
        at_winners = torch.cat([own.slope, (own.slope[p[P:]] * own.slope[q[P:]]).sqrt() * slopes[P:]])
        correction = Banded(at_winners, out)
    tables = (drawn.won.to(own.second), drawn.sloped.to(own.second))
    return Pooled(Banded(values, out), own.mean, own.wins, correction, *tables, own.error, residual)


def maximum_back(D: Banded, pooled: Pooled, window: Window, into: Grid, *, sloped: bool = False) -> Banded:
    """The derivative of each maximum goes to the site that wins; what falls on a lag that is not carried goes to those around it.

    Two windows' winners fall on a pair of taps as often as they did in draws of windows at that offset.

    Args:
        D: derivative at the maxima.
        pooled: from :func:`maximum`.
        window: the taps.
        into: pairs of the input.
        sloped: multiply by the slope of the activation at the winners.

    Returns:
        The derivative at the sites.
    """
    slope = pooled.slope if sloped and pooled.slope is not None else Banded(torch.ones_like(D.values), D.grid)
    back = Back(D * slope, window, into)
    shares = pooled.wins.T.reshape(window.count, D.grid.samples, *D.grid.sizes)
    first, second = map(list, zip(*D.grid.sample_pairs[0], strict=True))
    for tap, place in enumerate(itertools.product(*window.taps)):
        single = Window(tuple((t,) for t in place), window.stride)
        share = (shares[tap, first] * shares[tap, second]).sqrt()
        back.add(0, back.zero, window_scatter(back.planes(0) * share, single, into.sizes))
    table = pooled.sloped if sloped and pooled.slope is not None else pooled.won
    steps = list(tap_pairs(window))
    by_step = _by_step(table, window, [delta for delta, _ in steps])
    ones = D.values.new_ones(1, *into.sizes)
    sites = window_sum(ones, window, D.grid.sizes).clamp_min(1.0)
    for k in range(len(D.grid.offsets)):
        pairs = torch.tensor(D.grid.sample_pairs[k])
        apart = (pairs[:, 0] != pairs[:, 1]).long()
        given = back.planes(k) * apart.view(-1, *[1] * len(into.sizes)) if k == 0 else back.planes(k)
        if not bool(given.any()):
            continue
        parts = [
            (back.lag(k, delta), part, (by_step[k, apart, n] / part.count).view(-1, *[1] * len(into.sizes)))
            for n, (delta, part) in enumerate(steps)
        ]
        inside = [window_sum(shifted(ones, lag), part, D.grid.sizes) for lag, part, _ in parts]
        given = given / sum(n * w for n, (_, _, w) in zip(inside, parts, strict=True)).clamp_min(1e-12)  # type: ignore[union-attr]
        left, lost = torch.zeros_like(given), []
        for n, (lag, part, w) in zip(inside, parts, strict=True):
            if carried(into, lag):
                back.add(k, lag, window_scatter(given * w, part, into.sizes), different=k == 0)
            else:
                left += n * w
                lost.append((lag, part.count))
        back.spread(k, lost, window_scatter(given * (left / sites), window, into.sizes))
    return back.result()


def _by_step(table: Tensor, window: Window, steps: list[Offset]) -> Tensor:
    """Sum over the pairs of taps that are a step apart, shape (offsets, 2, steps)."""
    places = list(itertools.product(*window.taps))
    number = {step: n for n, step in enumerate(steps)}
    which = [number[tuple(y - x for x, y in zip(one, two, strict=True))] for one in places for two in places]
    out = table.new_zeros(*table.shape[:2], len(steps))
    return out.index_add(2, torch.tensor(which), table.flatten(2))


def _features(M: Banded, window: Window, out: Grid) -> Tensor:
    """Correlation of two windows' sites at equal taps, at all taps, and inside the windows, shape (pairs, 3)."""
    same = convolve(M, window, out)
    size = same.diagonal().clamp_min(1e-30)
    p, q, _ = out.index
    across = same.values / (size[p] * size[q]).sqrt()
    every = average(M, window, out).values * window.count
    inside = every[: out.points] / size
    return torch.stack([across, every / (size[p] * size[q]).sqrt(), (inside[p] + inside[q]) / 2], 1)


def _fit(features: Tensor, chosen: Tensor, drawn: Tensor) -> tuple[Tensor, float]:
    """Fit 1 - correlation of the maxima by polynomials that are zero for one and the same window; the fit at all pairs."""

    def table(f: Tensor) -> Tensor:
        c, every, w = f.unbind(1)
        other, one = w - every, torch.ones_like(c)
        return torch.cat([
            (1 - c)[:, None] * torch.stack([one, c, w, c * c, c * w, w * w, every], 1),
            other[:, None] * torch.stack([one, c, w, other], 1),
        ], 1)  # fmt: skip

    if chosen.numel() == 0:
        return torch.ones_like(features[:, 0]), 0.0
    A = table(features[chosen].double())
    ridge = 1e-9 * torch.eye(A.shape[1], dtype=A.dtype) * A.square().sum().clamp_min(1e-12)
    x = torch.linalg.solve(A.T @ A + ridge, A.T @ (1 - drawn.double()))
    fitted = 1 - table(features) @ x.to(features)
    residual = float((fitted[chosen] - drawn).square().mean().sqrt())
    return fitted.clamp(-1, 1).to(features), residual
