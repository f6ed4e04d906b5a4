"""How operators over images move axes: convolutions, pools, interpolation, padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from leadline.program.axes import CHANNEL, SITE, Atom, Dims, set_kind
from leadline.program.layouts import layout_rule, part_of, shape_of, short_name

__all__: list[str] = []


@layout_rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
def _conv(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x, shape = dims(a["input"]), shape_of(node)
    spatial = len(a["weight"].meta["val"].shape) - 2
    set_kind(x[-spatial - 1], CHANNEL)
    for dim in x[-spatial:]:
        set_kind(dim, SITE)
    sites = [_same_or_new(dim, size) for dim, size in zip(x[-spatial:], shape[-spatial:], strict=True)]
    return [*x[: -spatial - 1], [Atom(shape[-spatial - 1], CHANNEL)], *sites]


def _same_or_new(dim: list[Atom], size: int) -> list[Atom]:
    """A convolution that keeps the resolution keeps the site axis, so that a skip around it lines up."""
    total = 1
    for atom in dim:
        total *= atom.size
    return dim if total == size else [] if size == 1 else [Atom(size, SITE)]


@layout_rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
def _pool(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    name = short_name(node)
    return _resample(dims(a.get("self", a.get("input"))), shape_of(node), int(name[-2]))


@layout_rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptive(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    return _resample(dims(a["self"]), shape_of(node), int(short_name(node)[-2]))


@layout_rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool2d_with_indices")
def _with_indices(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> list[Dims]:
    shape = tuple(int(s) for s in node.meta["val"][0].shape)
    one = _resample(dims(a["self"]), shape, int(short_name(node).removesuffix("_with_indices")[-2]))
    return [one, one]


@layout_rule(
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
)
def _upsample(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    key = "input" if "input" in a else "self"
    return _resample(dims(a[key]), shape_of(node), len(shape_of(node)) - 2)


def _resample(x: Dims, shape: tuple[int, ...], spatial: int) -> Dims:
    set_kind(x[-spatial - 1], CHANNEL)
    for dim in x[-spatial:]:
        set_kind(dim, SITE)
    sites = [_same_or_new(dim, size) for dim, size in zip(x[-spatial:], shape[-spatial:], strict=True)]
    return [*x[:-spatial], *sites]


@layout_rule("pad", "constant_pad_nd")
def _pad(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x, old, new = dims(a["self"]), shape_of(a["self"]), shape_of(node)
    return [dim if n == m else part_of(dim, m) if dim else [Atom(m)] for dim, n, m in zip(x, old, new, strict=True)]
