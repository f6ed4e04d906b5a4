"""Which offsets between two sites a kernel over images carries, and how many site pairs each of them stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Images", "Offset", "choose_offsets", "half_plane", "interpolation", "window_offsets"]

Offset = tuple[int, ...]
_GOLDEN = 2.399963229728653
_TURN = 0.5  # distance, in units of log distance, between directions at right angles, over the root of two
_NEAR, _LAST_NEAR = 1, 2  # steps around a site whose offsets are always carried, and those of the coarsest map


@dataclass(frozen=True)
class Images:
    """How kernels over images are carried.

    Args:
        all_pairs: (sample, site) points up to which a kernel is a full matrix.
        each: offsets between sites that each map brings in.
        last: offsets of the coarsest map.
    """

    all_pairs: int = 1500
    each: int = 10
    last: int = 24


def half_plane(sizes: Sequence[int]) -> Tensor:
    """All offsets inside an image but one of each pair o, -o; zero is left out.

    Args:
        sizes: sites in each dimension.

    Returns:
        Offsets in sites, shape (offsets, dimensions).
    """
    axes = [torch.arange(-(n - 1), n) for n in sizes]
    every = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(sizes))
    return every[every.shape[0] // 2 + 1 :]


def window_offsets(kernel: Sequence[int], dilation: Sequence[int], level: Sequence[int]) -> list[Offset]:
    """Differences of two sites of one window, in pixels of the input.

    Args:
        kernel: sites in each dimension of the window.
        dilation: steps between them.
        level: pixels a step of the map.

    Returns:
        Half of the offsets (o, not -o), zero left out.
    """
    steps = half_plane(kernel) * torch.tensor(dilation) * torch.tensor(level)
    return [tuple(o) for o in steps.tolist()]


def choose_offsets(
    levels: Sequence[Offset],
    sizes: Sequence[Sequence[int]],
    extra: Sequence[Offset] = (),
    *,
    each: int = 8,
    last: int = 16,
) -> list[Offset]:
    """Offsets in pixels that stand for all pairs of sites, on every map of a network.

    A convolution of stride two forgets the offsets that two does not divide. So each level (map of a certain stride) gets
    its own: the closest ones, and some strata of equal numbers of pairs, at directions that turn by the golden angle.

    Args:
        levels: pixels a step of each map in each dimension, fine to coarse, each a multiple of the one before.
        sizes: sites of the maps.
        extra: offsets in pixels that a window needs.
        each: offsets of a level.
        last: offsets of the coarsest level.

    Returns:
        Offsets in pixels, zero first, one of each pair o, -o.
    """
    zero = (0,) * len(levels[0])
    chosen: dict[Offset, None] = {zero: None}
    for number, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        coarser = levels[number + 1] if number + 1 < len(levels) else None
        # as far as the finest map reaches, which padding may have made a little larger
        size = [
            max(-(-m * s // t) for m, s in zip(along, steps, strict=True))
            for t, along, steps in zip(
                level, zip(*sizes[: number + 1], strict=True), zip(*levels[: number + 1], strict=True), strict=True
            )
        ]
        steps = half_plane(size)
        if coarser is not None:
            steps = steps[((steps * torch.tensor(level)) % torch.tensor(coarser) != 0).any(1)]
        for o in _strata(steps, size, *((last, _LAST_NEAR) if coarser is None else (each, _NEAR))).tolist():
            chosen.setdefault(tuple(x * t for x, t in zip(o, level, strict=True)))
    for o in extra:
        chosen.setdefault(o if o > zero else tuple(-x for x in o))
    return list(chosen)


def _strata(steps: Tensor, size: Sequence[int], count: int, reach: int) -> Tensor:
    """The nearest offsets, then strata by distance with equally many pairs, each at its own direction."""
    if steps.shape[0] <= count:
        return steps
    distance = steps.double().square().sum(1).sqrt()
    near = steps.abs().amax(1) <= reach
    if bool(near.all()):
        return steps
    far, distance = steps[~near], distance[~near]
    order = torch.argsort(distance, stable=True)
    far, distance = far[order], distance[order]
    pairs = (torch.tensor(size) - far.abs()).prod(1).double()
    room = max(count - int(near.sum()), 2)
    stratum = ((pairs.cumsum(0) - pairs / 2) / pairs.sum() * room).long().clamp_max(room - 1)
    picked = []
    for place in range(room):
        rows = (stratum == place).nonzero()[:, 0]
        if rows.numel() == 0:
            continue
        # of the middle half of the stratum, the one in the direction that is this stratum's turn
        rows = rows[rows.numel() // 4 : max(rows.numel() // 4 + 1, 3 * rows.numel() // 4)]
        angle = (place * _GOLDEN) % math.pi
        turn = torch.zeros(len(size), dtype=torch.float64)
        turn[-1] = math.cos(angle) if len(size) > 1 else 1.0
        turn[:-1] = math.sin(angle) / max(len(size) - 1, 1) ** 0.5
        picked.append(rows[((far[rows].double() @ turn).abs() / distance[rows]).argmax()])
    return torch.cat([steps[near], far[torch.stack(picked)]])


def interpolation(carried: Tensor, wanted: Tensor) -> Tensor:
    """Weights that give a smooth, symmetric function at all offsets from its values at the carried ones.

    Ordinary kriging with an exponential covariance over log distance and (twice the) direction, in which near offsets
    are known finely and far ones coarsely; exact where an offset is carried.

    Args:
        carried: offsets with a value, zero not among them, shape (carried, dimensions).
        wanted: offsets without, shape (wanted, dimensions).

    Returns:
        Weights, shape (wanted, carried), rows sum to one.
    """
    known, asked = _place(carried), _place(wanted)
    n = known.shape[0]
    system = torch.ones(n + 1, n + 1, dtype=torch.float64)
    system[:n, :n] = torch.exp(-torch.cdist(known, known))
    system[n, n] = 0.0
    right = torch.ones(n + 1, asked.shape[0], dtype=torch.float64)
    right[:n] = torch.exp(-torch.cdist(known, asked))
    return torch.linalg.solve(system, right)[:n].T


def _place(offsets: Tensor) -> Tensor:
    """Log distance and the products of the direction's components, which o and -o share."""
    o = offsets.double()
    distance = o.square().sum(1, keepdim=True).sqrt()
    unit = o / distance
    products = (unit[:, :, None] * unit[:, None, :]).flatten(1)
    return torch.cat([distance.log(), _TURN * products], 1)
