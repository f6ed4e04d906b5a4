"""Sums over windows of a kernel that is carried at offsets: convolutions, their transposes, the adjoints of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leadline.rules.banded import Banded
from leadline.rules.banded_grid import Grid

__all__ = ["Window", "convolve", "data_kernel", "scatter", "window_sum"]


@dataclass(frozen=True)
class Window:
    """Taps of a convolution: output site i reads input sites i * stride + tap, in each dimension.

    ``taps``: first dimension first; negative where the padding begins. ``stride``: input sites a step.
    """

    taps: tuple[tuple[int, ...], ...]
    stride: tuple[int, ...]

    @classmethod
    def of(
        cls,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        *,
        centre: bool = False,
    ) -> Window:
        """From the arguments of a convolution; ``centre``: only the middle tap."""
        taps = []
        for k, pad, step in zip(kernel, padding, dilation, strict=True):
            along = tuple(i * step - pad for i in range(k))
            taps.append((along[k // 2],) if centre else along)
        return cls(tuple(taps), tuple(stride))

    @property
    def count(self) -> int:
        """Taps in all."""
        return math.prod(len(t) for t in self.taps)


def _spans(tap: int, stride: int, n_in: int, n_out: int) -> tuple[slice, slice] | None:
    """Input and output slices of one tap in one dimension."""
    low = max(0, -(tap // stride)) if tap < 0 else 0
    high = min(n_out - 1, (n_in - 1 - tap) // stride)
    if high < low:
        return None
    start = low * stride + tap
    return slice(start, start + (high - low) * stride + 1, stride), slice(low, high + 1)


def window_sum(planes: Tensor, window: Window, out: Sequence[int]) -> Tensor:
    """Sum over the taps inside the image; (planes, *sites in) to (planes, *sites out)."""
    for d, (taps, stride) in enumerate(zip(window.taps, window.stride, strict=True)):
        shape = list(planes.shape)
        shape[d + 1] = out[d]
        total = planes.new_zeros(shape)
        for tap in taps:
            spans = _spans(tap, stride, planes.shape[d + 1], out[d])
            if spans is not None:
                total.narrow(d + 1, spans[1].start, spans[1].stop - spans[1].start).add_(
                    planes[(slice(None),) * (d + 1) + (spans[0],)]
                )
        planes = total
    return planes


def window_scatter(planes: Tensor, window: Window, sizes: Sequence[int]) -> Tensor:
    """The transpose of :func:`window_sum`; (planes, *sites out) to (planes, *sites in)."""
    for d, (taps, stride) in enumerate(zip(window.taps, window.stride, strict=True)):
        shape = list(planes.shape)
        shape[d + 1] = sizes[d]
        total = planes.new_zeros(shape)
        for tap in taps:
            spans = _spans(tap, stride, sizes[d], planes.shape[d + 1])
            if spans is not None:
                total[(slice(None),) * (d + 1) + (spans[0],)] += planes.narrow(
                    d + 1, spans[1].start, spans[1].stop - spans[1].start
                )
        planes = total
    return planes


def _moved(K: Banded, values: Tensor, target: Grid, ratio: Sequence[int], coarser: bool) -> tuple[Tensor, Tensor]:
    """Planes of K in the order of another grid's offsets, and which of those planes K has."""
    source = {o: k for k, o in enumerate(K.grid.offsets)}
    planes = K.grid.planes(values)
    rows: list[int] = []
    have: list[int] = []
    for k, o in enumerate(target.offsets):
        if coarser:
            wanted = tuple(x * r for x, r in zip(o, ratio, strict=True))
            found = source.get(wanted)
        else:
            wanted = tuple(x // r for x, r in zip(o, ratio, strict=True))
            found = source.get(wanted) if all(x % r == 0 for x, r in zip(o, ratio, strict=True)) else None
        if found is None:
            continue
        first, here = K.grid.starts[found], target.starts[k]
        rows += range(first, first + len(target.sample_pairs[k]))
        have += range(here, here + len(target.sample_pairs[k]))
    return planes[torch.tensor(rows, dtype=torch.long)], torch.tensor(have, dtype=torch.long)


def _placed(planes: Tensor, have: Tensor, target: Grid) -> Tensor:
    if have.numel() != target.starts[-1]:
        full = planes.new_zeros(target.starts[-1], *planes.shape[1:])
        full[have] = planes
        planes = full
    return target.from_planes(planes)


def convolve(K: Banded, window: Window, out: Grid) -> Banded:
    """Sum over taps of K at the two sites' same tap; offset o of the output is offset o * stride of the input."""
    values = []
    for side in (K.values,) if K.back is None else (K.values, K.back):
        planes, have = _moved(K, side, out, window.stride, coarser=True)
        values.append(_placed(window_sum(planes, window, out.sizes), have, out))
    return Banded(values[0], out, values[1] if K.back is not None else None, K.comb)


def scatter(D: Banded, window: Window, into: Grid) -> Banded:
    """The transpose of :func:`convolve`: offsets that the stride does not divide get nothing."""
    values = []
    for side in (D.values,) if D.back is None else (D.values, D.back):
        planes, have = _moved(D, side, into, window.stride, coarser=False)
        values.append(_placed(window_scatter(planes, window, into.sizes), have, into))
    comb = D.comb or any(s > 1 for s in window.stride)
    return Banded(values[0], into, values[1] if D.back is not None else None, comb)


def data_kernel(x: Tensor, window: Window, out: Grid) -> Banded:
    """What a convolution makes of data (channels, samples, *sites): products of pixels, summed over its taps."""
    sizes = x.shape[2:]
    values = x.new_zeros(out.pairs)
    at = 0
    for k, o in enumerate(out.offsets):
        shift = tuple(v * s for v, s in zip(o, window.stride, strict=True))
        here = tuple(slice(max(0, -v), n - max(0, v)) for v, n in zip(shift, sizes, strict=True))
        there = tuple(slice(max(0, v), n - max(0, -v)) for v, n in zip(shift, sizes, strict=True))
        pairs = out.sample_pairs[k]
        planes = x.new_zeros(len(pairs), *sizes)
        for plane, (a, b) in enumerate(pairs):
            one: Any = (slice(None), a, *here)
            two: Any = (slice(None), b, *there)
            at_here: Any = (plane, *here)
            planes[at_here] = (x[one] * x[two]).mean(0)
        summed = window_sum(planes, window, out.sizes)
        valid = tuple(slice(max(0, -v), n - max(0, v)) for v, n in zip(o, out.sizes, strict=True))
        part = summed[(slice(None), *valid)].reshape(-1)
        values[at : at + part.numel()] = part
        at += part.numel()
    return Banded(values, out)
