"""Average pooling of a kernel that is carried at offsets, and the way back of averages and maxima, by sums over lags."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from leadline.rules.banded import Banded
from leadline.rules.banded_conv import Window, window_scatter, window_sum
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_offsets import Offset

__all__ = ["Back", "average", "average_back", "between_lags", "carried", "shifted", "tap_pairs"]

_NEGLIGIBLE = 0.01  # share of a derivative in a lag that is left to the others


def carried(grid: Grid, lag: Offset) -> bool:
    """Whether a lag is carried, one way or the other."""
    return lag in grid.offsets or tuple(-x for x in lag) in grid.offsets


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
    if any(abs(x) >= n for x, n in zip(lag, planes.shape[1:], strict=True)):
        return out
    here = tuple(slice(max(0, -x), n - max(0, x)) for x, n in zip(lag, planes.shape[1:], strict=True))
    there = tuple(slice(max(0, x), n - max(0, -x)) for x, n in zip(lag, planes.shape[1:], strict=True))
    out[(slice(None), *here)] = planes[(slice(None), *there)]
    return out


def between_lags(K: Banded) -> float:
    """How much of a pair's deviation from the mean correlation at its lag is that of the lags next to it.

    Returns:
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
        if here is None or there is None or inside is None:
            continue
        one, two = ((x - (x * inside).sum() / inside.sum()) * inside for x in (here, there))
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


def tap_pairs(window: Window) -> Iterator[tuple[Offset, Window]]:
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
    share, pairs = between_lags(K), list(tap_pairs(window))
    ones = all_planes.new_ones(1, *K.grid.sizes)
    sites = window_sum(ones, window, out.sizes)
    for k, o in enumerate(out.offsets):
        base = tuple(x * s for x, s in zip(o, window.stride, strict=True))
        rows = slice(out.starts[k], out.starts[k + 1])
        central = between_taps(K, base, out.sample_pairs[k], all_planes, share)
        if not any(
            carried(K.grid, tuple(x + d for x, d in zip(base, delta, strict=True))) for delta, _ in pairs if any(delta)
        ):
            if central is not None:
                values[rows] = window_sum(central, window, out.sizes) * (shifted(sites, o) - 1).clamp_min(0)
                values[rows] += window_sum(lag_planes(K, base, out.sample_pairs[k], all_planes), window, out.sizes)  # type: ignore[arg-type]
            continue
        for delta, part in pairs:
            lag = tuple(x + d for x, d in zip(base, delta, strict=True))
            planes = lag_planes(K, lag, out.sample_pairs[k], all_planes)
            if planes is None and central is not None:
                planes = central * shifted(ones, lag)
            if planes is not None:
                values[rows] += window_sum(planes, part, out.sizes)
    return Banded(out.from_planes(values / window.count**2), out, comb=K.comb)


def average_back(D: Banded, window: Window, into: Grid) -> Banded:
    """The transpose of :func:`average`; what falls on a lag that is not carried goes to those around it: sums are kept."""
    back = Back(D, window, into)
    pairs = list(tap_pairs(window))
    for k in range(len(D.grid.offsets)):
        if not bool(back.planes(k).any()):
            continue
        lost: list[tuple[Offset, int]] = []
        for delta, part in pairs:
            lag = back.lag(k, delta)
            if any(abs(x) >= n for x, n in zip(lag, into.sizes, strict=True)):
                continue
            if not carried(into, lag):
                lost.append((lag, part.count))
                continue
            # at the same site of one sample, the other lag is the mirror image
            once = k == 0 and lag < back.zero
            back.add(k, lag, window_scatter(back.planes(k), part, into.sizes) / window.count**2, different=once)
        total = sum(n for _, n in lost)
        back.spread(k, lost, window_scatter(back.planes(k), window, into.sizes) * (total / window.count**3))
    return back.result()


class Back:
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

    def add(self, k: int, lag: Offset, planes: Tensor, *, different: bool = False) -> bool:
        """Add planes to a lag; False where it is not carried. ``different``: only pairs of different samples."""
        flip = lag not in self.slots
        mirrored = tuple(-x for x in lag)
        if flip and mirrored not in self.slots:
            return False
        slot = self.slots[mirrored if flip else lag]
        if slot > 0 and self.weights_in[slot] == 0:
            return False
        if slot == 0 and k > 0:
            # the pair itself meets in one site, the others that it stands for are further apart
            apart = tuple(max(-1, min(1, x)) for x in self.D.grid.offsets[k])
            self.spread(k, [(apart, 1)], planes * (1 - 1 / self.weights_out[k]))
        else:
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

    def spread(self, k: int, lags: list[tuple[Offset, int]], planes: Tensor) -> None:
        """Share planes among the carried lags around some that are not, each with a count."""
        if not lags or k == 0:
            return
        table = self.into.table(torch.tensor([lag for lag, _ in lags]), comb=False)
        count = torch.tensor([n for _, n in lags], dtype=table.dtype)
        shares = count @ table / count.sum()
        shares = torch.where(shares < _NEGLIGIBLE, torch.zeros_like(shares), shares)
        portions: list[float] = (shares / shares.sum()).tolist()
        axes = tuple(range(1, planes.dim()))
        for slot, share in enumerate(portions, 1):
            if share == 0.0 or self.weights_in[slot] == 0:
                continue
            inside = planes * shifted(torch.ones_like(planes[:1]), self.into.offsets[slot])
            kept = planes.abs().sum(axes, keepdim=True) / inside.abs().sum(axes, keepdim=True).clamp_min(1e-30)
            rows = slice(self.into.starts[slot], self.into.starts[slot + 1])
            self.values[rows] += inside * kept * (share * self.weights_out[k] / self.weights_in[slot])

    def result(self) -> Banded:
        """At the pairs of the input."""
        return Banded(self.into.from_planes(self.values), self.into, comb=True)
