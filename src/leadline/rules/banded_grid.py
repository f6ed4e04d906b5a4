"""The pairs of points that a kernel over images carries: every pair of samples at a few offsets between their sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from leadline.rules.banded_offsets import Offset, half_plane, interpolation

__all__ = ["Grid", "Plan"]


@dataclass(eq=False)
class Plan:
    """The offsets of a whole network.

    ``offsets``: in pixels of the input, zero first, half of the plane. ``levels``: pixels a step of the maps that occur.
    ``samples``: images in the batch.
    """

    offsets: tuple[Offset, ...]
    levels: tuple[Offset, ...]
    samples: int
    _grids: dict[tuple[Offset, Offset], Grid] = field(default_factory=dict, repr=False)

    def grid(self, level: Sequence[int], sizes: Sequence[int]) -> Grid:
        """Pairs of a map; the same object for the same map.

        Args:
            level: pixels a step of the map.
            sizes: its sites in each dimension.

        Returns:
            The grid of pairs.
        """
        key = (tuple(level), tuple(sizes))
        if key not in self._grids:
            inside = []
            for o in self.offsets:
                step = tuple(x // t for x, t in zip(o, level, strict=True))
                if all(x % t == 0 for x, t in zip(o, level, strict=True)) and all(
                    abs(x) < n for x, n in zip(step, sizes, strict=True)
                ):
                    inside.append(step)
            self._grids[key] = Grid(self, key[0], key[1], tuple(inside))
        return self._grids[key]


@dataclass(frozen=True)
class Members:
    """Pairs of one class of offsets: first and second points, how many pairs each stands for, which pairs they are."""

    number: int
    first: Tensor
    second: Tensor
    weights: Tensor
    rows: Tensor | None


@dataclass(frozen=True, eq=False)
class Grid:
    """Pairs ((a, s), (b, s + o)) of points of one map.

    The first pairs are the points with themselves; then the same site in two samples; then, offset by offset, all
    ordered pairs of samples.
    """

    plan: Plan = field(repr=False)
    level: Offset
    sizes: Offset
    offsets: tuple[Offset, ...]

    @property
    def samples(self) -> int:
        """Images in the batch."""
        return self.plan.samples

    @cached_property
    def sites(self) -> int:
        """Sites of one image."""
        return math.prod(self.sizes)

    @property
    def points(self) -> int:
        """(sample, site) points."""
        return self.samples * self.sites

    @cached_property
    def sample_pairs(self) -> list[list[tuple[int, int]]]:
        """Pairs of samples of each offset; each has its own plane."""
        B = self.samples
        first = [(a, a) for a in range(B)] + [(a, b) for a in range(B) for b in range(a + 1, B)]
        every = [(a, b) for a in range(B) for b in range(B)]
        return [first] + [every] * (len(self.offsets) - 1)

    @cached_property
    def starts(self) -> list[int]:
        """Number of the first plane of each offset, and of the planes."""
        out = [0]
        for pairs in self.sample_pairs:
            out.append(out[-1] + len(pairs))
        return out

    @cached_property
    def counts(self) -> list[int]:
        """Site pairs at each offset."""
        return [math.prod(n - abs(x) for n, x in zip(self.sizes, o, strict=True)) for o in self.offsets]

    @cached_property
    def pairs(self) -> int:
        """Number of pairs carried."""
        return sum(n * len(p) for n, p in zip(self.counts, self.sample_pairs, strict=True))

    @property
    def complete(self) -> bool:
        """Whether all offsets are carried."""
        return 2 * len(self.offsets) - 1 >= math.prod(2 * n - 1 for n in self.sizes)

    @cached_property
    def index(self) -> tuple[Tensor, Tensor, Tensor]:
        """First point, second point and place in the planes of each pair."""
        numbers = torch.arange(self.sites).reshape(self.sizes)
        first, second, places = [], [], []
        for k, o in enumerate(self.offsets):
            here = numbers[tuple(slice(max(0, -x), n - max(0, x)) for x, n in zip(o, self.sizes, strict=True))].reshape(
                -1
            )
            there = numbers[
                tuple(slice(max(0, x), n - max(0, -x)) for x, n in zip(o, self.sizes, strict=True))
            ].reshape(-1)
            for plane, (a, b) in enumerate(self.sample_pairs[k], self.starts[k]):
                first.append(here + a * self.sites)
                second.append(there + b * self.sites)
                places.append(here + plane * self.sites)
        return torch.cat(first), torch.cat(second), torch.cat(places)

    @cached_property
    def slot(self) -> Tensor:
        """Offset number of each pair."""
        sizes = torch.tensor([n * len(p) for n, p in zip(self.counts, self.sample_pairs, strict=True)])
        return torch.repeat_interleave(torch.arange(len(self.offsets)), sizes)

    def within(self, comb: bool) -> Tensor:
        """Weights of a sum over pairs of different sites of one sample, shape (pairs,); ``comb`` as in :meth:`weights`."""
        return self._within_combed if comb else self._within_smooth

    @cached_property
    def _within_smooth(self) -> Tensor:
        return self._within(self._smooth)

    @cached_property
    def _within_combed(self) -> Tensor:
        return self._within(self._combed)

    def _within(self, weights: Tensor) -> Tensor:
        parts = []
        for k, pairs in enumerate(self.sample_pairs):
            weight = float(weights[k]) if k > 0 else 0.0
            parts += [torch.full((self.counts[k],), weight if a == b else 0.0) for a, b in pairs]
        return torch.cat(parts)

    def planes(self, values: Tensor) -> Tensor:
        """Pairs as images, shape (planes, *sizes); pairs that leave the image are zero."""
        flat = values.new_zeros(self.starts[-1] * self.sites)
        flat.index_copy_(0, self.index[2], values)
        return flat.reshape(-1, *self.sizes)

    def from_planes(self, planes: Tensor) -> Tensor:
        """The inverse of :meth:`planes`."""
        return planes.reshape(-1).index_select(0, self.index[2])

    @cached_property
    def steps(self) -> Tensor:
        """The offsets, shape (offsets, dimensions)."""
        return torch.tensor(self.offsets)

    @cached_property
    def classes(self) -> list[int]:
        """For each offset, the number of the coarsest level whose step divides it."""
        return self.classes_of(self.steps).tolist()

    def classes_of(self, offsets: Tensor) -> Tensor:
        """The same for any offsets, shape (offsets, dimensions); -1 where no level's step does."""
        pixels = offsets * torch.tensor(self.level)
        found = torch.full((offsets.shape[0],), -1)
        for number, level in enumerate(self.plan.levels):
            found[(pixels % torch.tensor(level) == 0).all(1)] = number
        return found

    def weights(self, comb: bool) -> Tensor:
        """Ordered site pairs that one carried site pair stands for, by offset; 1 for offset zero.

        ``comb``: the field may be zero at offsets that a coarser level's step does not divide (what a strided layer
        sends back is): every class of offsets is then represented by its own.

        Returns:
            One weight an offset.
        """
        return self._combed if comb else self._smooth

    def members(self, comb: bool) -> list[Members]:
        """The pairs of different sites, one group for each class of offsets (one in all where the field is smooth)."""
        return self._combed_members if comb else self._smooth_members

    @cached_property
    def _smooth_members(self) -> list[Members]:
        return self._grouped([0] * len(self.offsets), self._smooth)

    @cached_property
    def _combed_members(self) -> list[Members]:
        return self._grouped(self.classes, self._combed)

    def _grouped(self, classes: list[int], weights: Tensor) -> list[Members]:
        start = self.counts[0] * len(self.sample_pairs[0])
        slots, (first, second, _) = self.slot[start:], self.index
        first, second, weight = first[start:], second[start:], weights.index_select(0, slots)
        known = sorted(set(classes[1:]))
        if len(known) == 1:
            return [Members(known[0], first, second, weight, None)]
        of = torch.tensor(classes).index_select(0, slots)
        out = []
        for c in known:
            rows = (of == c).nonzero()[:, 0]
            out.append(Members(c, first[rows], second[rows], weight[rows], rows))
        return out

    @cached_property
    def _smooth(self) -> Tensor:
        return self._quadrature(comb=False)

    @cached_property
    def _combed(self) -> Tensor:
        return self._quadrature(comb=True)

    def _quadrature(self, *, comb: bool) -> Tensor:
        weights = torch.ones(len(self.offsets), dtype=torch.float64)
        if len(self.offsets) == 1:
            return weights
        wanted = half_plane(self.sizes)
        count = (torch.tensor(self.sizes) - wanted.abs()).prod(1).double()
        weights[1:] = self.table(wanted, comb).T @ count / torch.tensor(self.counts[1:], dtype=torch.float64)
        return weights

    def table(self, wanted: Tensor, comb: bool) -> Tensor:
        """Weights of the carried offsets (zero left out) for others, shape (wanted, offsets - 1); see :meth:`weights`."""
        if not comb:
            return interpolation(self.steps[1:], wanted)
        out = torch.zeros(wanted.shape[0], len(self.offsets) - 1, dtype=torch.float64)
        classes, mine = self.classes_of(wanted), torch.tensor(self.classes[1:])
        for c in classes.unique().tolist():
            rows, slots = (classes == c).nonzero()[:, 0], (mine == c).nonzero()[:, 0]
            if slots.numel():
                out[rows[:, None], slots] = interpolation(self.steps[1:][slots], wanted[rows])
        return out

    def left_out(self, comb: bool) -> Tensor:
        """For each offset, how the others of its class foretell its mean, shape (offsets, offsets): checks the quadrature."""
        return self._left_out_combed if comb else self._left_out_smooth

    @cached_property
    def _left_out_smooth(self) -> Tensor:
        return self._left_out([0] * len(self.offsets))

    @cached_property
    def _left_out_combed(self) -> Tensor:
        return self._left_out(self.classes)

    def _left_out(self, classes: list[int]) -> Tensor:
        n = len(self.offsets)
        out = torch.zeros(n, n, dtype=torch.float64)
        for k in range(1, n):
            others = [j for j in range(1, n) if j != k and classes[j] == classes[k]]
            if others:
                out[k, others] = interpolation(self.steps[others], self.steps[[k]])[0]
        return out
