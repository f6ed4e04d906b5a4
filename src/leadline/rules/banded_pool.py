"""Pooling of a kernel that is carried at offsets: averages by sums over lags, maxima by draws of windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.rules.banded import Banded
from leadline.rules.banded_conv import Window, convolve, window_scatter, window_sum
from leadline.rules.banded_draws import Evaluator, leaves_of, normals, unique
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_offsets import Offset
from leadline.rules.expr import Apply, Expr, Source

__all__ = ["Pooled", "average", "average_back", "maximum", "maximum_back"]

_DRAWS, _PAIRS, _CHUNK = 512, 1536, 2**20


def lag_planes(K: Banded, lag: Offset, pairs: list[tuple[int, int]], planes: Tensor | None = None) -> Tensor | None:
    """K((a, s), (b, s + lag)) as images, zero where s + lag is outside; None where the lag is not carried."""
    slots = {o: k for k, o in enumerate(K.grid.offsets)}
    mirrored = tuple(-x for x in lag)
    flip = lag not in slots
    if flip and mirrored not in slots:
        return None
    k = slots[mirrored if flip else lag]
    place = {pair: n for n, pair in enumerate(K.grid.sample_pairs[k], K.grid.starts[k])}
    planes = K.grid.planes(K.values) if planes is None else planes
    if not flip:
        return planes[[place[pair] if pair in place else place[pair[::-1]] for pair in pairs]]
    stored = planes[[place[pair[::-1]] if pair[::-1] in place else place[pair] for pair in pairs]]
    return shifted(stored, lag)


def shifted(planes: Tensor, lag: Offset) -> Tensor:
    """Value at s + lag, zero outside."""
    out = torch.zeros_like(planes)
    here = tuple(slice(max(0, -x), n - max(0, x)) for x, n in zip(lag, planes.shape[1:], strict=True))
    there = tuple(slice(max(0, x), n - max(0, -x)) for x, n in zip(lag, planes.shape[1:], strict=True))
    out[(slice(None), *here)] = planes[(slice(None), *there)]
    return out


def between_lags(K: Banded) -> float:
    """How much of a pair's deviation from the mean correlation at its lag is that of the lags next to it.

    Read from pairs of different samples: 0 for images of noise, near 1 for smooth ones.
    """
    grid = K.grid
    pairs = [(a, b) for a in range(grid.samples) for b in range(grid.samples) if a != b]
    near = [o for o in grid.offsets[1:] if max(map(abs, o)) == 1]
    if not pairs or not near:
        return 0.0
    planes = grid.planes(K.values)
    here = lag_planes(K, grid.offsets[0], pairs, planes)
    found = []
    for o in near:
        there = lag_planes(K, o, pairs, planes)
        inside = lag_planes(Banded(torch.ones_like(K.values), grid), o, pairs)
        one, two = ((x - (x * inside).sum() / inside.sum()) * inside for x in (here, there))  # type: ignore[operator]
        found.append(float((one * two).sum() / (one.square().sum() * two.square().sum()).sqrt().clamp_min(1e-30)))
    return max(0.0, sum(found) / len(found))


def between_taps(K: Banded, lag: Offset, pairs: list[tuple[int, int]], planes: Tensor, share: float) -> Tensor | None:
    """Stand-in for the lags around a carried one: its mean correlation, and a share of the local deviation from it."""
    central = lag_planes(K, lag, pairs, planes)
    if central is None:
        return None
    own = K.diagonal().reshape(K.grid.samples, *K.grid.sizes)
    first, second = zip(*pairs, strict=True)
    scale = (own[list(first)] * shifted(own[list(second)], lag)).clamp_min(0).sqrt()
    mean = central.sum() / scale.sum().clamp_min(1e-30)
    return scale * mean * (1 - share) + central * share


def _steps(window: Window) -> Iterator[tuple[Offset, Window]]:
    """Differences of two taps, and the taps that have one."""
    for places in itertools.product(*[range(-len(t) + 1, len(t)) for t in window.taps]):
        kept, delta = [], []
        for taps, n in zip(window.taps, places, strict=True):
            kept.append(tuple(taps[i] for i in range(len(taps)) if 0 <= i + n < len(taps)))
            delta.append(taps[n + kept_start(n)] - taps[kept_start(n)])
        yield tuple(delta), Window(tuple(kept), window.stride)


def kept_start(n: int) -> int:
    """First tap that has a partner n taps on."""
    return max(0, -n)


def average(K: Banded, window: Window, out: Grid) -> Banded:
    """Mean over both windows of K; a lag that is not carried takes the lag between equal taps."""
    values = K.values.new_zeros(out.starts[-1], *out.sizes)
    all_planes = K.grid.planes(K.values)
    share = between_lags(K)
    for k, o in enumerate(out.offsets):
        base = tuple(x * s for x, s in zip(o, window.stride, strict=True))
        rows = slice(out.starts[k], out.starts[k + 1])
        central = between_taps(K, base, out.sample_pairs[k], all_planes, share)
        for delta, part in _steps(window):
            planes = lag_planes(K, tuple(x + d for x, d in zip(base, delta, strict=True)), out.sample_pairs[k], all_planes)
            planes = central if planes is None else planes
            if planes is not None:
                values[rows] += window_sum(planes, part, out.sizes)
    return Banded(out.from_planes(values / window.count**2), out, comb=K.comb)


def average_back(D: Banded, window: Window, into: Grid) -> Banded:
    """The transpose of :func:`average`; what falls on a lag that is not carried goes to equal taps, so that sums are kept."""
    back = _Back(D, window, into)
    for k, o in enumerate(D.grid.offsets):
        for delta, part in _steps(window):
            lag = back.lag(k, delta)
            if k == 0 and lag < back.zero:
                # of a pair in one sample, this is the mirror image
                back.add(k, lag, window_scatter(back.planes(k), part, into.sizes) / window.count**2, different=True)
            elif not back.add(k, lag, window_scatter(back.planes(k), part, into.sizes) / window.count**2):
                share = part.count / window.count**2 / window.count
                back.add(k, back.lag(k, back.zero), window_scatter(back.planes(k), window, into.sizes) * share)
    return back.result()


class _Back:
    """Collects derivatives at lags of the input of a pool.

    A carried pair of the output stands for others; so what it gives is scaled by the number of pairs that it stands for
    over the number that the input's pair stands for.
    """

    def __init__(self, D: Banded, window: Window, into: Grid) -> None:
        self.D, self.window, self.into = D, window, into
        self.zero = (0,) * len(into.sizes)
        self.slots = {o: k for k, o in enumerate(into.offsets)}
        self.values = D.values.new_zeros(into.starts[-1], *into.sizes)
        self.all = D.grid.planes(D.values)
        self.weights_out, self.weights_in = D.grid.weights(True).tolist(), into.weights(True).tolist()

    def planes(self, k: int) -> Tensor:
        """Derivative at one offset, a plane a pair of samples."""
        return self.all[self.D.grid.starts[k] : self.D.grid.starts[k + 1]]

    def lag(self, k: int, delta: Offset) -> Offset:
        """Offset of the input for an offset of the output and a difference of taps."""
        return tuple(x * s + d for x, s, d in zip(self.D.grid.offsets[k], self.window.stride, delta, strict=True))

    def carries(self, lag: Offset) -> bool:
        """Whether a lag is carried, one way or the other."""
        return lag in self.slots or tuple(-x for x in lag) in self.slots

    def add(self, k: int, lag: Offset, planes: Tensor, *, different: bool = False) -> bool:
        """Add planes to a lag; False where it is not carried. ``different``: only pairs of different samples."""
        flip = lag not in self.slots
        mirrored = tuple(-x for x in lag)
        if flip and mirrored not in self.slots:
            return False
        slot = self.slots[mirrored if flip else lag]
        if slot > 0 and self.weights_in[slot] == 0:
            return False
        planes = planes * (self.weights_out[k] / self.weights_in[slot])
        planes = shifted(planes, mirrored) if flip else planes
        place = {pair: n for n, pair in enumerate(self.into.sample_pairs[slot], self.into.starts[slot])}
        for plane, (a, b) in zip(planes, self.D.grid.sample_pairs[k], strict=True):
            if different and a == b:
                continue
            pair = (b, a) if flip else (a, b)
            if slot == 0:
                pair = (min(pair), max(pair))
            # both orders of a pair of windows meet in one site
            self.values[place[pair]] += 2 * plane if slot == 0 and k > 0 and a == b else plane
        return True

    def result(self) -> Banded:
        """At the pairs of the input."""
        return Banded(self.into.from_planes(self.values), self.into, comb=True)


@dataclass(frozen=True)
class Pooled:
    """Maxima over windows.

    ``second``, ``mean``: of the maxima. ``wins``: probability of each tap (points, taps). ``slope``: second moment of the
    slope at the winners, over that at any site, where an activation comes before. ``error``: relative standard error.
    """

    second: Banded
    mean: Tensor
    wins: Tensor
    slope: Banded | None
    error: float


def maximum(expr: Expr, window: Window, out: Grid, second: Callable[[Expr], Banded], seed: int) -> Pooled:
    """<max over one window, max over another>: every window by itself by draws, pairs of windows by a regression.

    A sample of pairs of windows is drawn; the correlation of their maxima is fitted by that of their sites, and by the
    correlation inside the windows.
    """
    slope = Apply(expr.size, expr.sources, expr.activation, expr.inner, 1) if isinstance(expr, Apply) and expr.order == 0 else None
    tuples = _Tuples(expr, slope, window, out, second, seed)
    own = tuples.windows()
    P = out.points
    M = second(expr)
    features = _features(M, window, out)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.unique(torch.randint(P, out.pairs, (_PAIRS,), generator=generator)) if out.pairs > P else torch.arange(0)
    drawn, drawn_slope = tuples.pairs(chosen)
    p, q, _ = out.index
    fitted, residual = _fit(features, chosen, drawn)
    scale = (own.second[p[P:]] * own.second[q[P:]]).sqrt()
    values = torch.cat([own.second, scale * fitted[P:]])
    correction = None
    if slope is not None:
        slopes, _ = _fit(features, chosen, drawn_slope)
        at_winners = torch.cat([own.slope, (own.slope[p[P:]] * own.slope[q[P:]]).sqrt() * slopes[P:]])
        correction = Banded(at_winners, out)
    return Pooled(Banded(values, out), own.mean, own.wins, correction, math.hypot(residual, own.error))


def maximum_back(D: Banded, pooled: Pooled, window: Window, into: Grid, *, sloped: bool = False) -> Banded:
    """The derivative of each maximum goes to the site that wins; on a lag that is not carried, to equal taps.

    Two windows that share sites share the winner with probability (shared sites) / (sites of both); else any two of
    their sites may win.

    Args:
        D: derivative at the maxima.
        pooled: from :func:`maximum`.
        window: the taps.
        into: pairs of the input.
        sloped: multiply by the slope of the activation at the winners.
    """
    slope = pooled.slope if sloped and pooled.slope is not None else Banded(torch.ones_like(D.values), D.grid)
    back = _Back(D * slope, window, into)
    shares = pooled.wins.T.reshape(window.count, D.grid.samples, *D.grid.sizes)
    first, second = map(list, zip(*D.grid.sample_pairs[0], strict=True))
    for tap, place in enumerate(itertools.product(*window.taps)):
        single = Window(tuple((t,) for t in place), window.stride)
        share = (shares[tap, first] * shares[tap, second]).sqrt()
        back.add(0, back.zero, window_scatter(back.planes(0) * share, single, into.sizes))
    # where both have the same winner, its slope is missing only where both are flat
    p, q, _ = D.grid.index
    own = slope.diagonal()
    either = D.grid.planes(D.values * (own[p] + own[q] - slope.values))
    ones = D.values.new_ones(1, *into.sizes)
    sites = window_sum(ones, window, D.grid.sizes)
    for k in range(1, len(D.grid.offsets)):
        rows = slice(D.grid.starts[k], D.grid.starts[k + 1])
        parts = [(back.lag(k, delta), part) for delta, part in _steps(window)]
        other = shifted(sites, D.grid.offsets[k])
        shared = sum((window_sum(ones, part, D.grid.sizes) for lag, part in parts if lag == back.zero), torch.zeros_like(sites))
        both = (sites + other - shared).clamp_min(1.0)
        apart = back.planes(k) * (1 - shared / both) / (sites * other - shared).clamp_min(1.0)
        left = torch.zeros_like(sites)
        for lag, part in parts:
            if lag == back.zero:
                back.add(k, lag, window_scatter(either[rows] / both, part, into.sizes))
            elif not back.carries(lag) or not back.add(k, lag, window_scatter(apart, part, into.sizes)):
                left += window_sum(shifted(ones, lag), part, D.grid.sizes)
        equal = window_sum(shifted(ones, back.lag(k, back.zero)), window, D.grid.sizes).clamp_min(1.0)
        back.add(k, back.lag(k, back.zero), window_scatter(apart * (left / equal), window, into.sizes))
    return back.result()


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


@dataclass(frozen=True)
class _Own:
    second: Tensor
    mean: Tensor
    wins: Tensor
    slope: Tensor
    error: float


class _Tuples:
    """Draws of the sites of one window, or of two."""

    def __init__(self, expr: Expr, slope: Expr | None, window: Window, out: Grid, second: Callable[[Expr], Banded], seed: int) -> None:
        self.expr, self.slope, self.window, self.out, self.seed = expr, slope, window, out, seed
        self.places = list(itertools.product(*window.taps))
        self.leaves = leaves_of(expr)
        self.kernels = {id(e): second(e) for e in self.leaves}
        self.inner = second(expr).grid
        coordinates = torch.stack(torch.meshgrid(*[torch.arange(n) for n in out.sizes], indexing="ij"), -1).reshape(-1, len(out.sizes))
        taps = torch.tensor(self.places)
        at = coordinates[:, None] * torch.tensor(window.stride) + taps[None]
        sizes = torch.tensor(self.inner.sizes)
        self.valid = ((at >= 0) & (at < sizes)).all(-1)
        strides = torch.tensor([math.prod(self.inner.sizes[d + 1 :]) for d in range(len(self.inner.sizes))])
        self.site = (at.clamp_min(0).minimum(sizes - 1) * strides).sum(-1)
        self._lags: dict[tuple[int, Offset, bool], Tensor | None] = {}
        self._planes: dict[int, tuple[Tensor, float]] = {}

    def windows(self) -> _Own:
        """Moments of each window's maximum."""
        out, m = self.out, len(self.places)
        second, mean, wins, slopes, spread = [], [], [], [], []
        for points in torch.arange(out.points).split(max(_CHUNK // (_DRAWS * m), 1)):
            sample, site = points // out.sites, points % out.sites
            y, index, slope = self._drawn([(sample, site)], [None])
            best, where = y[0], index[0]
            blocks = best.reshape(best.shape[0], 4, -1).square().mean(2)
            second.append(blocks.mean(1))
            spread.append(blocks.std(1) / 2)
            mean.append(best.mean(1))
            wins.append(torch.stack([(where == t).to(best).mean(1) for t in range(m)], 1))
            slopes.append(slope[0].square().mean(1))
        total = torch.cat(second)
        error = float(torch.cat(spread).mean() / total.mean().clamp_min(1e-30))
        return _Own(total, torch.cat(mean), torch.cat(wins), torch.cat(slopes), error)

    def pairs(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Correlation of the maxima (and of the winners' slopes) of pairs of windows."""
        p, q, _ = self.out.index
        drawn, slopes = torch.zeros(chosen.numel()), torch.zeros(chosen.numel())
        slot = self.out.slot[chosen]
        for k in slot.unique().tolist():
            rows = (slot == k).nonzero()[:, 0]
            mine = chosen[rows]
            a, b = (x[mine] for x in (p, q))
            sides = [(x // self.out.sites, x % self.out.sites) for x in (a, b)]
            base = tuple(x * s for x, s in zip(self.out.offsets[k], self.window.stride, strict=True))
            y, _, slope = self._drawn(sides, [None, base])
            for values, target in ((y, drawn), (slope, slopes)):
                norm = (values[0].square().mean(1) * values[1].square().mean(1)).sqrt()
                target[rows] = ((values[0] * values[1]).mean(1) / norm.clamp_min(1e-30)).to(target)
        return drawn, slopes

    def _drawn(self, sides: list[tuple[Tensor, Tensor]], bases: list[Offset | None]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        m = len(self.places)
        kept, number = unique(self.leaves)
        like = self.kernels[id(kept[0])].values
        z = normals(len(kept) * m * len(sides), _DRAWS, 4, self.seed, like)
        at = torch.cat([sample[:, None] * self.inner.sites + self.site[site] for sample, site in sides], 1)
        roots, means, parts = {}, {}, {}
        for e in self.leaves:
            K = self.kernels[id(e)]
            blocks = [[self._block(K, sides[i], sides[j], None if i == j else bases[1], j < i) for j in range(len(sides))]
                      for i in range(len(sides))]
            C = torch.cat([torch.cat(row, 2) for row in blocks], 1).double()
            mean = e.mean[at] if isinstance(e, Source) and e.mean is not None else None
            if mean is not None:
                means[id(e)] = mean
                C = C - mean[:, :, None].double() * mean[:, None, :].double()
            roots[id(e)] = _roots(C).to(like)
            parts[id(e)] = z[number[id(e)] * m * len(sides) :][: m * len(sides)]
        evaluate = Evaluator(at, roots, means, parts)
        values = evaluate(self.expr)
        slope = evaluate(self.slope) if self.slope is not None else torch.ones_like(values)
        best, index, slopes = [], [], []
        for i, (_, site) in enumerate(sides):
            mine = values[:, i * m : (i + 1) * m].masked_fill(~self.valid[site][:, :, None], -torch.inf)
            top = mine.max(1)
            best.append(top.values)
            index.append(top.indices)
            slopes.append(slope[:, i * m : (i + 1) * m].gather(1, top.indices[:, None])[:, 0])
        return best, index, slopes

    def _block(self, K: Banded, one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], base: Offset | None, flip: bool) -> Tensor:
        """Covariance of the taps of two windows, shape (tuples, m, m)."""
        if flip:
            return self._block(K, two, one, base, False).transpose(1, 2)
        (sample, site), (other, site_two) = one, two
        m = len(self.places)
        out = K.values.new_zeros(site.numel(), m, m)
        zero = (0,) * len(self.places[0])
        base = zero if base is None else base
        for i, j in itertools.product(range(m), range(m)):
            lag = tuple(b + y - x for b, x, y in zip(base, self.places[i], self.places[j], strict=True))
            inside = self.valid[site, i] & self.valid[site_two, j]
            value = self._at(K, lag, sample, self.site[site, i], other)
            if value is None:  # the mean of the two pairs at equal taps
                value = self._at(K, base, sample, self.site[site, i], other, stand_in=True)
                value_two = self._at(K, base, sample, self.site[site, j], other, stand_in=True)
                value = (value + value_two) / 2  # type: ignore[operator]
            out[:, i, j] = torch.where(inside, value, torch.zeros_like(value))
        return out

    def _at(self, K: Banded, lag: Offset, sample: Tensor, site: Tensor, other: Tensor, *, stand_in: bool = False) -> Tensor | None:
        B = self.out.samples
        if id(K) not in self._planes:
            self._planes[id(K)] = K.grid.planes(K.values), between_lags(K)
        key = (id(K), lag, stand_in)
        if key not in self._lags:
            pairs = [(a, b) for a in range(B) for b in range(B)]
            stored, share = self._planes[id(K)]
            planes = between_taps(K, lag, pairs, stored, share) if stand_in else lag_planes(K, lag, pairs, stored)
            self._lags[key] = None if planes is None else planes.reshape(-1)
        planes = self._lags[key]
        return None if planes is None else planes[(sample * B + other) * self.inner.sites + site]


def _roots(C: Tensor) -> Tensor:
    """Square roots of covariances that may be singular, or slightly off."""
    values, vectors = torch.linalg.eigh(C)
    return vectors * values.clamp_min(0).sqrt()[:, None, :]
