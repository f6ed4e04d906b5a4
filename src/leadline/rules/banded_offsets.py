"""Which offsets between two sites a kernel over images carries, and how many site pairs each of them stands for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Images", "Offset", "choose_offsets", "half_plane", "interpolation", "window_offsets"]

Offset = tuple[int, ...]
_GOLDEN = 2.399963229728653
_NEAR = 1  # steps around a site whose offsets are always carried


@dataclass(frozen=True)
class Images:
    """How kernels over images are carried.

    Args:
        all_pairs: (sample, site) points up to which a kernel is a full matrix.
        each: offsets between sites that each map brings in.
        last: offsets of the coarsest map.
    """

    all_pairs: int = 1500
    each: int = 8
    last: int = 16


def half_plane(sizes: Sequence[int]) -> list[Offset]:
    """All offsets inside an image but one of each pair o, -o; zero is left out.

    Args:
        sizes: sites in each dimension.

    Returns:
        Offsets in sites.
    """
    ranges = [range(-(n - 1), n) for n in sizes]
    zero = (0,) * len(sizes)
    return [o for o in itertools.product(*ranges) if o > zero]


def window_offsets(kernel: Sequence[int], dilation: Sequence[int], level: Sequence[int]) -> list[Offset]:
    """Differences of two sites of one window, in pixels of the input.

    Args:
        kernel: sites in each dimension of the window.
        dilation: steps between them.
        level: pixels a step of the map.

    Returns:
        Half of the offsets (o, not -o), zero left out.
    """
    steps = half_plane(kernel)
    return [tuple(x * d * t for x, d, t in zip(o, dilation, level, strict=True)) for o in steps]


def choose_offsets(levels: Sequence[Offset], sizes: Sequence[Sequence[int]], extra: Sequence[Offset] = (), *,
                   each: int = 8, last: int = 16) -> list[Offset]:
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
        size = [max(-(-m * s // t) for m, s in zip(along, steps, strict=True))
                for t, along, steps in zip(level, zip(*sizes[: number + 1], strict=True), zip(*levels[: number + 1], strict=True), strict=True)]
        steps = [o for o in half_plane(size) if coarser is None or not _divides(coarser, _times(o, level))]
        for o in _strata(steps, size, last if coarser is None else each):
            chosen.setdefault(_times(o, level))
    for o in extra:
        chosen.setdefault(o if o > zero else tuple(-x for x in o))
    return list(chosen)


def _strata(steps: list[Offset], size: Sequence[int], count: int) -> list[Offset]:
    if len(steps) <= count:
        return steps
    near = [o for o in steps if max(map(abs, o)) <= _NEAR]
    far = sorted((o for o in steps if max(map(abs, o)) > _NEAR), key=lambda o: (_norm(o), o))
    weights = [math.prod(n - abs(x) for n, x in zip(size, o, strict=True)) for o in far]
    room = max(count - len(near), 2)
    bounds = [sum(weights) * (i + 1) / room for i in range(room)]
    picked, stratum, total, place = [], [], 0.0, 0
    for o, w in zip(far, weights, strict=True):
        stratum.append(o)
        total += w
        if total >= bounds[place] * (1 - 1e-12):
            # the middle half of the stratum, in the direction that is this stratum's turn
            middle = stratum[len(stratum) // 4 : max(len(stratum) // 4 + 1, 3 * len(stratum) // 4)]
            angle = (place * _GOLDEN) % math.pi
            picked.append(max(middle, key=lambda m: abs(_along(m, angle)) / _norm(m)))
            stratum = []
            place = min(place + 1, room - 1)
    return near + picked


def _along(offset: Offset, angle: float) -> float:
    if len(offset) == 1:
        return float(offset[0])
    return offset[-1] * math.cos(angle) + offset[-2] * math.sin(angle)


def interpolation(carried: Sequence[Offset], wanted: Sequence[Offset]) -> Tensor:
    """Weights that give a smooth, symmetric function at all offsets from its values at the carried ones.

    Inverse distance to the fourth power in the metric |o - r|^2 / |o||r|, in which near offsets are known finely and far
    ones coarsely; exact where an offset is carried.

    Args:
        carried: offsets with a value, zero not among them.
        wanted: offsets without.

    Returns:
        Weights, shape (wanted, carried), rows sum to one.
    """
    r = torch.tensor(carried, dtype=torch.float64)
    o = torch.tensor(wanted, dtype=torch.float64)
    cross = o @ r.T
    near = o.square().sum(1)[:, None] + r.square().sum(1)[None, :] - 2 * cross.abs()  # o or -o, whichever is closer
    metric = near.clamp_min(0) / (o.square().sum(1)[:, None] * r.square().sum(1)[None, :]).sqrt()
    weights = (metric + 1e-9).pow(-2)
    hit = near.clamp_min(0) < 0.5
    weights = torch.where(hit.any(1, keepdim=True), hit.double(), weights)
    return weights / weights.sum(1, keepdim=True)


def _times(offset: Offset, level: Sequence[int]) -> Offset:
    return tuple(x * t for x, t in zip(offset, level, strict=True))


def _divides(level: Sequence[int], pixels: Sequence[int]) -> bool:
    return all(x % t == 0 for x, t in zip(pixels, level, strict=True))


def _norm(offset: Sequence[int]) -> float:
    return math.sqrt(sum(x * x for x in offset))
