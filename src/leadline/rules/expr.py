"""Expressions over Gaussian sources: what the value of one channel is, at every point, as the theory sees it.

A layer with random weights brings in a fresh :class:`Source`; everything between two such layers is a function of
sources that are already there. Points are (sample, site) pairs; channels are exchangeable and averaged out. The
expressions are immutable; :mod:`leadline.rules.moments` takes their expectations and keeps them on the nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.rules.banded_grid import Grid
from leadline.rules.kernel import Kernel, grid_of
from leadline.rules.point_map import PointMap

__all__ = [
    "Apply",
    "Cat",
    "Expr",
    "Frozen",
    "Gather",
    "Lin",
    "Mix",
    "NoRule",
    "Op",
    "Product",
    "Source",
    "gaussian",
    "grid",
    "rename",
    "scaled",
]

_serial = itertools.count()


class NoRule(Exception):
    """A rule does not cover these operands; the message says which."""


def _memo() -> dict[str, object]:
    return {}


@dataclass(frozen=True, eq=False)
class Expr:
    """A function of Gaussian sources, evaluated at ``size`` points."""

    size: int
    sources: frozenset[Hashable]
    memo: dict[str, object] = field(default_factory=_memo, repr=False, kw_only=True)


@dataclass(frozen=True, eq=False)
class Source(Expr):
    """A fresh random function of the points.

    ``second``: second moment (P, P). ``mean``: channel mean (P,) or None for zero. ``gaussian``: whether it is Gaussian
    in the wide limit (attention outputs and pooled values are not; drawn as if they were). ``drop``: for a dropout mask,
    its probability. ``ties``: earlier sources of the same weights, with <s_p t_q> for this source t, shape (P_s, P_t).
    """

    key: Hashable
    second: Kernel = field(repr=False)
    mean: Tensor | None = field(default=None, repr=False)
    gaussian: bool = True
    drop: float | None = None
    ties: tuple[tuple[Source, Tensor], ...] = field(default=(), repr=False)

    def covariance(self, other: Source) -> Tensor | None:
        """<s_p t_q> with another source, shape (P_s, P_t); None where it is not known."""
        if self.key == other.key:
            return self.second
        for one, two in ((self, other), (other, self)):
            for before, C in two.ties:
                if before.key == one.key:
                    return C if one is self else C.T
        return None


@dataclass(frozen=True, eq=False)
class Lin(Expr):
    """``sum_i c_i e_i + offset``; coefficients are numbers or vectors over points, the offset a vector or None."""

    terms: tuple[tuple[float | Tensor, Expr], ...]
    offset: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Apply(Expr):
    """An activation (``order`` 0) or its derivative (``order`` 1) of an expression, point by point."""

    activation: Activation
    inner: Expr
    order: int = 0


@dataclass(frozen=True, eq=False)
class Product(Expr):
    """The product of two channels."""

    left: Expr
    right: Expr


@dataclass(frozen=True, eq=False)
class Gather(Expr):
    """The inner expression at other points: out point p is inner point ``index[p]``, or zero where that is -1."""

    inner: Expr
    index: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Mix(Expr):
    """A fixed linear map over points (average pooling, centring, interpolation)."""

    inner: Expr
    matrix: Tensor | PointMap = field(repr=False)


@dataclass(frozen=True, eq=False)
class Op(Expr):
    """Any channel-wise function over points, known only through draws: ``function`` maps (channels, P) to (channels, P')."""

    inner: Expr
    function: Callable[[Tensor], Tensor] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Frozen(Expr):
    """Draws (channels, P) made already, on the draws of the sources that they depend on: a derivative behind an :class:`Op`."""

    values: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Cat(Expr):
    """Channels of several kinds side by side, in the given shares (which add to one)."""

    parts: tuple[tuple[float, Expr], ...]


def source(
    second: Kernel,
    *,
    mean: Tensor | None = None,
    gaussian: bool = True,
    drop: float | None = None,
    key: Hashable = None,
    ties: Sequence[tuple[Source, Tensor]] = (),
) -> Source:
    """A fresh source with its own identity; one that is tied to others stands under their name among the sources."""
    name = key if key is not None else next(_serial)
    family = ties[0][0].sources if ties else frozenset([name])
    return Source(second.shape[0], family, name, second, mean, gaussian, drop, tuple(ties))


def lin(terms: Sequence[tuple[float | Tensor, Expr]], offset: Tensor | None = None) -> Lin:
    """Linear combination of expressions on the same points."""
    size = terms[0][1].size if terms else (0 if offset is None else offset.numel())
    sources: frozenset[Hashable] = frozenset().union(*(e.sources for _, e in terms))
    return Lin(size, sources, tuple(terms), offset)


def scaled(expr: Expr, factor: float | Tensor) -> Expr:
    """``factor * expr``; a factor of one changes nothing."""
    if not isinstance(factor, Tensor) and factor == 1.0:
        return expr
    if isinstance(expr, Lin) and "norm" not in expr.memo:  # what a norm divided is known by its own node
        offset = None if expr.offset is None else expr.offset * factor
        return lin([(c * factor, e) for c, e in expr.terms], offset)
    if isinstance(expr, Cat):
        return cat([(share, scaled(e, factor)) for share, e in expr.parts])
    return lin([(factor, expr)])


def apply(activation: Activation, inner: Expr, order: int = 0) -> Expr:
    """``f(e)`` or ``f'(e)``; goes inside a concatenation of channels."""
    if isinstance(inner, Cat):
        return cat([(share, apply(activation, e, order)) for share, e in inner.parts])
    return Apply(inner.size, inner.sources, activation, inner, order)


def product(left: Expr, right: Expr) -> Expr:
    """Product of two channels; concatenations with equal shares multiply part by part."""
    if isinstance(left, Cat) and not isinstance(right, Cat) and right.sources.isdisjoint(left.sources):
        return cat([(share, product(e, right)) for share, e in left.parts])
    if isinstance(right, Cat) and not isinstance(left, Cat):
        return product(right, left)
    if isinstance(left, Cat) and isinstance(right, Cat) and [s for s, _ in left.parts] == [s for s, _ in right.parts]:
        return cat([(s, product(a, b)) for (s, a), (_, b) in zip(left.parts, right.parts, strict=True)])
    return Product(left.size, left.sources | right.sources, left, right)


def gather(inner: Expr, index: Tensor) -> Expr:
    """The expression at other points; a permutation that changes nothing is dropped."""
    if index.numel() == inner.size and torch.equal(index, torch.arange(inner.size, device=index.device)):
        return inner
    if isinstance(inner, Cat):
        return cat([(share, gather(e, index)) for share, e in inner.parts])
    if isinstance(inner, Gather):
        chained = torch.where(index >= 0, inner.index[index.clamp_min(0)], index)
        return gather(inner.inner, chained)
    return Gather(index.numel(), inner.sources, inner, index)


def mix(inner: Expr, matrix: Tensor | PointMap) -> Expr:
    """A linear map over points."""
    if isinstance(inner, Cat):
        return cat([(share, mix(e, matrix)) for share, e in inner.parts])
    return Mix(matrix.shape[0] if isinstance(matrix, Tensor) else matrix.size, inner.sources, inner, matrix)


def cat(parts: Sequence[tuple[float, Expr]]) -> Expr:
    """Channels side by side; nested concatenations are flattened."""
    flat: list[tuple[float, Expr]] = []
    for share, e in parts:
        flat += [(share * s, inner) for s, inner in e.parts] if isinstance(e, Cat) else [(share, e)]
    return Cat(flat[0][1].size, frozenset().union(*(e.sources for _, e in flat)), tuple(flat))


def op(inner: Expr, function: Callable[[Tensor], Tensor], size: int) -> Op:
    """A channel-wise function over points."""
    return Op(size, inner.sources, inner, function)


def gaussian(expr: Expr) -> bool:
    """Whether a channel is a centred Gaussian function of the points."""
    known = expr.memo.get("gaussian")
    if known is None:
        if isinstance(expr, Source):
            known = expr.mean is None and expr.drop is None
        elif isinstance(expr, Lin):
            known = expr.offset is None and all(gaussian(e) for _, e in expr.terms)
        elif isinstance(expr, (Gather, Mix)):
            known = gaussian(expr.inner)
        else:
            known = False
        expr.memo["gaussian"] = known
    return bool(known)


def grid(expr: Expr) -> Grid | None:
    """The pairs that the kernels of an expression over images are carried at; None where they are full matrices."""
    if "grid" not in expr.memo:
        expr.memo["grid"] = _grid(expr)
    return expr.memo["grid"]  # type: ignore[return-value]


def _grid(expr: Expr) -> Grid | None:
    if isinstance(expr, Source):
        return grid_of(expr.second)
    if isinstance(expr, Mix) and not isinstance(expr.matrix, Tensor):
        return expr.matrix.grid
    if isinstance(expr, (Mix, Gather)):
        return None
    inner: list[Expr] = []
    if isinstance(expr, (Apply, Op)):
        inner = [expr.inner] if expr.size == expr.inner.size else []
    elif isinstance(expr, Product):
        inner = [expr.left, expr.right]
    elif isinstance(expr, Lin):
        inner = [e for _, e in expr.terms]
    elif isinstance(expr, Cat):
        inner = [e for _, e in expr.parts]
    return next((g for g in map(grid, inner) if g is not None), None)


def rename(expr: Expr, tag: Hashable, seen: dict[int, Expr] | None = None) -> Expr:
    """The same function of independent copies of its sources: other channels of the same layer."""
    seen = {} if seen is None else seen
    if id(expr) in seen:
        return seen[id(expr)]
    if isinstance(expr, Source):
        ties = tuple((rename(s, tag, seen), C) for s, C in expr.ties)
        names = frozenset((name, tag) for name in expr.sources)
        out: Expr = replace(expr, key=(expr.key, tag), sources=names, memo={}, ties=ties)  # type: ignore[arg-type]
    elif isinstance(expr, Lin):
        out = lin([(c, rename(e, tag, seen)) for c, e in expr.terms], expr.offset)
    elif isinstance(expr, Apply):
        out = apply(expr.activation, rename(expr.inner, tag, seen), expr.order)
    elif isinstance(expr, Product):
        out = product(rename(expr.left, tag, seen), rename(expr.right, tag, seen))
    elif isinstance(expr, Gather):
        out = gather(rename(expr.inner, tag, seen), expr.index)
    elif isinstance(expr, Mix):
        out = mix(rename(expr.inner, tag, seen), expr.matrix)
    elif isinstance(expr, Op):
        out = op(rename(expr.inner, tag, seen), expr.function, expr.size)
    elif isinstance(expr, Frozen):
        out = expr
    elif isinstance(expr, Cat):
        out = cat([(share, rename(e, tag, seen)) for share, e in expr.parts])
    else:
        raise TypeError(f"cannot rename the sources of a {type(expr).__name__}.")
    seen[id(expr)] = out
    return out
