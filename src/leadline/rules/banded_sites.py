"""Linear maps between the sites of images whose kernels are carried at offsets: crops, padding, interpolation, broadcasts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from leadline.rules.banded import Banded, band
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_pool import between_lags, shifted
from leadline.rules.expr import NoRule
from leadline.rules.point_map import PointMap, SiteMean

__all__ = ["SiteMap", "Spread", "spread_map", "sum_by_sample"]

_MINOR = 0.02  # weight of a carried offset in another's interpolation that is left to the others


@dataclass(frozen=True, eq=False)
class SiteMap(PointMap):
    """Every site of the new image is a weighted sum of a few of the old.

    Args:
        inner: pairs of the old image.
        grid: pairs of the new one.
        index: old sites that a new one reads, -1 for none, shape (new sites, taps).
        weight: their weights, same shape.
    """

    inner: Grid
    grid: Grid
    index: Tensor
    weight: Tensor
    _found: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:  # type: ignore[override]
        """Points."""
        return self.grid.points

    @property
    def single(self) -> bool:
        """Whether values only move, so that the map changes places with any function of them."""
        return self.index.shape[1] == 1 and bool((self.weight[self.index >= 0] == 1).all())

    @property
    def padded(self) -> bool:
        """Whether some new site reads nothing."""
        return bool((self.index < 0).all(1).any())

    @cached_property
    def _weights(self) -> Tensor:
        return torch.where(self.index >= 0, self.weight, torch.zeros_like(self.weight))

    @cached_property
    def places(self) -> Tensor:
        """Coordinates of the old sites, shape (old sites, dimensions)."""
        axes = [torch.arange(n) for n in self.inner.sizes]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))

    @cached_property
    def slots(self) -> Tensor:
        """For each lag (as a number): one more than the offset that is it, minus that for its mirror image, 0 for neither."""
        table = torch.zeros(math.prod(2 * n - 1 for n in self.inner.sizes), dtype=torch.long)
        for k, o in enumerate(self.inner.offsets):
            table[self.number(torch.tensor([tuple(-x for x in o)]))] = -(k + 1)
            table[self.number(torch.tensor([o]))] = k + 1
        return table

    def number(self, lags: Tensor) -> Tensor:
        """A number for each lag (lags, dimensions)."""
        number = torch.zeros(lags.shape[0], dtype=torch.long)
        for d, n in enumerate(self.inner.sizes):
            number = number * (2 * n - 1) + lags[:, d] + n - 1
        return number

    def lags(self, numbers: Tensor) -> Tensor:
        """The lags (numbers, dimensions) that have these numbers."""
        out = []
        for n in reversed(self.inner.sizes):
            out.append(numbers % (2 * n - 1) - n + 1)
            numbers = numbers // (2 * n - 1)
        return torch.stack(out[::-1], 1)

    def planes_of(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Number of the plane of each pair of samples at each offset, and of its mirror image, (sample pairs, offsets)."""
        if len(pairs) not in self._found:
            ahead, behind = (
                torch.stack([_plane(self.inner, k, p) for k in range(len(self.inner.offsets))], 1)
                for p in (pairs, [pair[::-1] for pair in pairs])
            )
            self._found[len(pairs)] = ahead, behind
        return self._found[len(pairs)]

    def stored(self, pairs: Sequence[tuple[int, int]], slot: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Place in the planes of ((a, i), (b, j)) at lag ``slot``, shape (sample pairs, sites); 0 where it is not carried."""
        ahead, behind = self.planes_of(pairs)
        at = (slot.abs() - 1).clamp_min(0)
        plane = torch.where(slot > 0, ahead[:, at], behind[:, at])
        return torch.where(slot == 0, 0, plane * self.inner.sites + torch.where(slot > 0, i, j))

    def taps(self, k: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each pair of taps of the new site pairs of one offset: which have both, their old sites, their weight."""
        first, second = _ends(self.grid, k)
        found = []
        for i in range(self.index.shape[1]):
            for j in range(self.index.shape[1]):
                w = self._weights[first, i] * self._weights[second, j]
                kept = (w != 0).nonzero()[:, 0]
                if kept.numel():
                    found.append((kept, self.index[first[kept], i], self.index[second[kept], j], w[kept]))
        return found

    def kernel(self, K: Tensor | Banded) -> Banded:
        """A K A^T at the pairs of the new image."""
        K = band(K, self.inner)  # a sum with what is known at all pairs is a full matrix
        known = _Known(K, self)
        values = []
        for k in range(len(self.grid.offsets)):
            pairs = self.grid.sample_pairs[k]
            total = known.planes.new_zeros(len(pairs), self.grid.counts[k])
            for kept, i, j, w in self.taps(k):
                total.index_add_(1, kept, known(pairs, i, j) * w.to(total))
            values.append(total.reshape(-1))
        return Banded(torch.cat(values), self.grid, comb=K.comb)

    def left(self, K: Banded) -> Banded:
        """Not needed where the old image and the new are not compared pixel by pixel."""
        raise ValueError("an image and a map over its sites are not compared at this size; pass smaller images.")

    def vector(self, m: Tensor) -> Tensor:
        """A m."""
        return self.draws(m[None])[0]

    def draws(self, h: Tensor) -> Tensor:
        """H A^T, channels first."""
        x = h.reshape(h.shape[0], self.inner.samples, -1)
        picked = x[:, :, self.index.clamp_min(0)] * self._weights.to(x)
        return picked.sum(-1).reshape(h.shape[0], -1)

    def adjoint(self, D: Tensor | Banded) -> Banded:
        """A^T D A; lags of the new image that are not carried are interpolated as those of a kernel are."""
        back = self.transposed.kernel(D)
        # what skips sites gives nothing at lags that it does not reach
        back.comb = back.comb or any(t > u for t, u in zip(self.grid.level, self.inner.level, strict=True))
        return back

    @cached_property
    def transposed(self) -> SiteMap:
        """The map from the new image to the old that has the transposed matrix."""
        weight = self._weights
        rows = torch.arange(weight.shape[0])[:, None].expand_as(weight)[weight != 0]
        columns, weight = self.index[weight != 0], weight[weight != 0]
        order = torch.argsort(columns, stable=True)
        rows, columns, weight = rows[order], columns[order], weight[order]
        counts = torch.bincount(columns, minlength=self.inner.sites)
        first = counts.cumsum(0) - counts
        place = torch.arange(columns.numel()) - first[columns]
        index = torch.full((self.inner.sites, max(int(counts.max()), 1)), -1)
        index[columns, place] = rows
        weights = torch.zeros(index.shape, dtype=weight.dtype)
        weights[columns, place] = weight
        return SiteMap(self.grid, self.inner, index, weights)


def _ends(grid: Grid, k: int) -> tuple[Tensor, Tensor]:
    """First and second site of the pairs of one offset, shape (site pairs,)."""
    numbers, o = torch.arange(grid.sites).reshape(grid.sizes), grid.offsets[k]
    here = tuple(slice(max(0, -x), n - max(0, x)) for x, n in zip(o, grid.sizes, strict=True))
    there = tuple(slice(max(0, x), n - max(0, -x)) for x, n in zip(o, grid.sizes, strict=True))
    return numbers[here].reshape(-1), numbers[there].reshape(-1)


def _plane(grid: Grid, k: int, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Number of the plane of each pair of samples at one offset; at the same site both orders share one."""
    place = {pair: n for n, pair in enumerate(grid.sample_pairs[k], grid.starts[k])}
    return torch.tensor([place[p] if p in place else place[p[::-1]] for p in pairs])


class _Known:
    """Looks a kernel up at any pair of sites.

    Where the lag is not carried: the mean correlations at the lags around it, and a share of the deviation from the mean
    of the nearest.
    """

    def __init__(self, K: Banded, sites: SiteMap) -> None:
        grid = K.grid
        self.sites, self.grid, self.comb = sites, grid, K.comb
        self.planes = grid.planes(K.values).reshape(-1, grid.sites)
        self.scale = K.diagonal().clamp_min(0).sqrt().reshape(grid.samples, grid.sites)
        self.share = between_lags(K)
        p, q, _ = grid.index
        flat = self.scale.reshape(-1)
        size = grid.planes(flat[p] * flat[q]).reshape(-1, grid.sites).sum(1)
        self.mean = self.planes.sum(1) / size.clamp_min(1e-30)

    def __call__(self, pairs: Sequence[tuple[int, int]], i: Tensor, j: Tensor) -> Tensor:
        """K((a, i), (b, j)) for pairs of samples and of sites, shape (sample pairs, sites)."""
        numbers = self.sites.number(self.sites.places[j] - self.sites.places[i])
        slot = self.sites.slots[numbers]
        at = self.sites.stored(pairs, slot, i, j)
        out = self.planes.reshape(-1)[at]
        rows = (slot == 0).nonzero()[:, 0]
        if rows.numel():
            _, group = torch.unique(numbers[rows], return_inverse=True)
            first = torch.zeros(int(group.max()) + 1, dtype=torch.long)
            first[group] = rows
            lags = self.sites.places[j[first]] - self.sites.places[i[first]]
            out[:, rows] = self._between(pairs, i[rows], j[rows], lags, group)
        return out

    def _between(self, pairs: Sequence[tuple[int, int]], i: Tensor, j: Tensor, lags: Tensor, group: Tensor) -> Tensor:
        """The same at lags that are not carried; ``group``: number of the lag of each pair of sites."""
        a, b = torch.tensor(pairs).unbind(1)
        scale = self.scale[a][:, i] * self.scale[b][:, j]
        table = self.grid.table(lags, self.comb).to(self.planes)
        ahead, behind = (self.mean[planes[:, 1:]].T for planes in self.sites.planes_of(pairs))
        value = (table @ (ahead + behind) / 2).T[:, group]
        if self.share > 0:
            for n, k in enumerate((table.argmax(1) + 1).tolist()):
                rows = (group == n).nonzero()[:, 0]
                at = self.sites.planes_of(pairs)[0][:, k]
                size = self.scale[a] * shifted(
                    self.scale[b].reshape(-1, *self.grid.sizes), self.grid.offsets[k]
                ).reshape(len(pairs), -1)
                local = self.planes[at][:, i[rows]] / size[:, i[rows]].clamp_min(1e-30)
                inside = size[:, i[rows]] > 0
                value[:, rows] += self.share * torch.where(inside, local - self.mean[at][:, None], 0.0)
        return scale * value.clamp(-1, 1)


@dataclass(frozen=True, eq=False)
class Spread(PointMap):
    """A number of each sample at all sites of its image."""

    grid: Grid

    @property
    def size(self) -> int:  # type: ignore[override]
        """Points."""
        return self.grid.points

    def kernel(self, K: Tensor | Banded) -> Banded:
        """K between the samples of each pair of points."""
        p, q, _ = self.grid.index
        S = self.grid.sites
        return Banded(K[p // S, q // S], self.grid)  # type: ignore[index]

    def left(self, K: Banded) -> Banded:
        """Not needed where the number of a sample is not compared with its pixels."""
        raise ValueError(
            "a number and the image that it is spread over are not compared at this size; pass smaller images."
        )

    def vector(self, m: Tensor) -> Tensor:
        """Each sample's number at all its sites."""
        return m.repeat_interleave(self.grid.sites)

    def draws(self, h: Tensor) -> Tensor:
        """The same of each channel."""
        return h.repeat_interleave(self.grid.sites, 1)

    def adjoint(self, D: Tensor | Banded) -> Banded:
        """Sum over all pairs of sites, shape (samples, samples)."""
        return sum_by_sample(D)  # type: ignore[arg-type,return-value]


def sum_by_sample(D: Banded) -> Tensor:
    """Sum of a derivative's covariance over all pairs of sites of two samples, shape (samples, samples)."""
    return SiteMean(D.grid, float(D.grid.sites)).kernel(D)


def spread_map(index: Tensor, samples: int, grid: Grid) -> Spread:
    """A map that gives all sites of a sample its number.

    Args:
        index: number that each point reads, shape (points,).
        samples: of the numbers.
        grid: pairs of the image.

    Returns:
        The map.

    Raises:
        NoRule: the points do not read the number of their sample.
    """
    if samples != grid.samples or not torch.equal(index, torch.arange(grid.points) // grid.sites):
        raise NoRule("a value that is broadcast over some axes of large images")
    return Spread(grid)
