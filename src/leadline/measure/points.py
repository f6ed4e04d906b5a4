"""A value as (channels, points), and which pairs of points its correlations are taken over."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leadline.program import Layout
from leadline.theory.quantities import coordinates

__all__ = ["ALL_PAIRS", "Pairs", "choose_pairs", "to_channels"]

ALL_PAIRS = 64  # points up to which every pair is kept
_SOME_PAIRS = 2048  # pairs of each kind that are kept above that


@dataclass(frozen=True)
class Pairs:
    """Pairs of points whose second moment is kept.

    ``first``, ``second``: point numbers, shape (Q,). ``between``: pairs of two samples at one site,
    ``within``: of two sites of one sample, as masks over the Q pairs. ``share_between``, ``share_within``:
    what part of all such pairs of the value these are. ``points``: number of points.
    """

    points: int
    first: Tensor
    second: Tensor
    between: Tensor
    within: Tensor
    share_between: float = 1.0
    share_within: float = 1.0

    def to(self, device: torch.device) -> Pairs:
        """The same pairs on another device."""
        moved = {n: getattr(self, n).to(device) for n in ("first", "second", "between", "within")}
        return replace(self, **moved)

    @property
    def complete(self) -> bool:
        """Whether every pair of points is here, so that the whole kernel is known."""
        return self.points <= ALL_PAIRS


def choose_pairs(axes: list[tuple[str, int]]) -> Pairs:
    """All pairs of few points; of many points, some at equal sites of two samples and some within one sample.

    Args:
        axes: (kind, size) of each axis that the points run over, in order.

    Returns:
        The pairs, always the same for the same axes.
    """
    sample, site = coordinates(axes)
    count = math.prod(size for _, size in axes)
    if count <= ALL_PAIRS:
        i, j = torch.triu_indices(count, count, 1)
        same_sample, same_site = sample[i] == sample[j], site[i] == site[j]
        return Pairs(count, i, j, ~same_sample & same_site, same_sample & ~same_site)
    number = torch.empty(int(sample.max()) + 1, int(site.max()) + 1, dtype=torch.long)
    number[sample, site] = torch.arange(count)
    generator = torch.Generator().manual_seed(count)
    a, b, share_between = _draw(number.T, generator)
    c, d, share_within = _draw(number, generator)
    between = torch.arange(len(a) + len(c)) < len(a)
    return Pairs(count, torch.cat([a, c]), torch.cat([b, d]), between, ~between, share_between, share_within)


def _draw(number: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Different pairs within the rows of a table of point numbers, all where they are few; their share."""
    rows, columns = number.shape
    i, j = torch.triu_indices(columns, columns, 1) if columns <= 2048 else (None, None)
    total = rows * columns * (columns - 1) // 2
    if i is not None and total <= _SOME_PAIRS:
        return number[:, i].reshape(-1), number[:, j].reshape(-1), 1.0
    row = torch.randint(rows, (_SOME_PAIRS,), generator=generator)
    one = torch.randint(columns, (_SOME_PAIRS,), generator=generator)
    step = torch.randint(1, columns, (_SOME_PAIRS,), generator=generator)
    return number[row, one], number[row, (one + step) % columns], _SOME_PAIRS / total


def to_channels(value: Tensor, layout: Layout) -> Tensor:
    """A value as (channels, points) in double precision, both in memory order of their axes.

    Args:
        value: a step's value.
        layout: its axes.

    Returns:
        Shape (n, P); float32 on devices that have no double precision.
    """
    axes = [a for dim in layout for a in dim]
    wide = value.to(torch.float32 if value.device.type == "mps" else torch.float64)
    if not axes:
        return wide.reshape(1, 1)
    first = [i for i, a in enumerate(axes) if a.kind == "channel"]
    rest = [i for i, a in enumerate(axes) if a.kind != "channel"]
    split = wide.reshape([a.size for a in axes]).permute(*first, *rest)
    return split.reshape(math.prod(axes[i].size for i in first), -1)
