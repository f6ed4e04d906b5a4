"""Values of an expression at a few points at a time, from quasi-random draws of its Gaussian parts at those points."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.rules.expr import Apply, Cat, Expr, Lin, NoRule, Product, Source, gaussian

__all__ = ["Evaluator", "leaves_of", "normals", "pair_roots", "unique"]


@dataclass
class Evaluator:
    """Evaluates an expression at tuples of points, given standard normals for its Gaussian parts.

    ``at``: points (tuples, m). ``roots``: part -> square root of its covariance (tuples, m, m). ``means``: part -> mean
    (tuples, m). ``z``: part -> normals (m, draws).
    """

    at: Tensor
    roots: dict[int, Tensor]
    means: dict[int, Tensor]
    z: dict[int, Tensor]
    seen: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, expr: Expr) -> Tensor:
        """Values, shape (tuples, m, draws)."""
        key = id(expr)
        if key not in self.seen:
            self.seen[key] = self._value(expr)
        return self.seen[key]

    def _value(self, expr: Expr) -> Tensor:
        key = id(expr)
        if key in self.z:
            return self._leaf(expr)
        if isinstance(expr, Lin):
            total: Tensor | None = None
            for c, e in expr.terms:
                part = self(e) * self._points(c) if isinstance(c, Tensor) else (self(e) if c == 1.0 else self(e) * c)
                total = part if total is None else total + part
            if expr.offset is not None:
                offset = self._points(expr.offset)
                total = offset.expand(*self.at.shape, self._count()) if total is None else total + offset
            return total  # type: ignore[return-value]
        if isinstance(expr, Apply):
            return pointwise(expr.activation, expr.order)(self(expr.inner))
        if isinstance(expr, Product):
            return self(expr.left) * self(expr.right)
        if isinstance(expr, Cat):
            return self._cat(expr)
        raise NoRule(f"a {type(expr).__name__.lower()} over images of this size is not drawn pair by pair")

    def _leaf(self, expr: Expr) -> Tensor:
        z, key = self.z[id(expr)], id(expr)
        if isinstance(expr, Source) and expr.drop is not None:
            return ((torch.special.ndtr(z) >= expr.drop).to(z) / (1 - expr.drop)).expand(self.at.shape[0], *z.shape)
        root = self.roots[key]
        if z.shape[0] == 1:
            value = root * z
        elif z.shape[0] == 2:
            value = torch.empty(root.shape[0], 2, z.shape[1], dtype=z.dtype, device=z.device)
            torch.mul(root[:, 0, 0, None], z[0], out=value[:, 0])
            torch.mul(root[:, 1, 0, None], z[0], out=value[:, 1])
            value[:, 1].addcmul_(root[:, 1, 1, None], z[1].expand(root.shape[0], -1))
        else:
            value = root @ z
        mean = self.means.get(key)
        return value if mean is None else value + mean[..., None]

    def _points(self, vector: Tensor) -> Tensor:
        return vector[self.at][..., None].to(next(iter(self.z.values())))

    def _count(self) -> int:
        return next(iter(self.z.values())).shape[1]

    def _cat(self, expr: Cat) -> Tensor:
        count = self._count()
        order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
        place = (order.double() + 0.5) / count
        out: Tensor | None = None
        low = 0.0
        for share, e in expr.parts:
            mine = ((place >= low) & (place < low + share)).to(self.at.device)
            value = torch.where(mine, self(e), torch.zeros((), dtype=self(e).dtype))
            out = value if out is None else out + value
            low += share
        return out  # type: ignore[return-value]


def pointwise(activation: Activation, order: int) -> Callable[[Tensor], Tensor]:
    """The activation or its slope, without detours for ReLU."""
    if activation.slopes == (1.0, 0.0):
        return torch.relu if order == 0 else _positive
    return activation if order == 0 else activation.derivative


def _positive(z: Tensor) -> Tensor:
    return torch.gt(z, 0, out=torch.empty_like(z))  # without a boolean on the way, whose conversion takes longest


def leaves_of(*exprs: Expr) -> list[Expr]:
    """Gaussian parts (and other sources) of expressions that no two share a source, largest first."""
    found: dict[int, Expr] = {}
    split: set[int] = set()
    while True:
        found.clear()
        for expr in exprs:
            _collect(expr, found, split)
        owners: dict[Hashable, list[Expr]] = {}
        for e in found.values():
            for key in e.sources:
                owners.setdefault(key, []).append(e)
        shared = [e for es in owners.values() if len(es) > 1 for e in es if isinstance(e, Lin)]
        if not shared:
            break
        most = max(len(e.sources) for e in shared)
        split |= {id(e) for e in shared if len(e.sources) == most}
    for es in owners.values():
        if len({e.key if isinstance(e, Source) else id(e) for e in es}) > 1:
            raise NoRule("two different maps of one source over images of this size")
    return list(found.values())


def _collect(expr: Expr, found: dict[int, Expr], split: set[int]) -> None:
    if isinstance(expr, Source) or (gaussian(expr) and id(expr) not in split):
        found[id(expr)] = expr
    elif isinstance(expr, Lin):
        for _, e in expr.terms:
            _collect(e, found, split)
    elif isinstance(expr, Apply):
        _collect(expr.inner, found, split)
    elif isinstance(expr, Product):
        _collect(expr.left, found, split)
        _collect(expr.right, found, split)
    elif isinstance(expr, Cat):
        for _, e in expr.parts:
            _collect(e, found, split)
    else:
        raise NoRule(f"a {type(expr).__name__.lower()} over images of this size is not drawn pair by pair")


def normals(dims: int, count: int, replicates: int, seed: int, like: Tensor, turn: int = 0) -> Tensor:
    """Standard normals (dims, count): scrambled Sobol points and their negatives in each replicate.

    Args:
        dims: numbers of one draw.
        count: draws.
        replicates: independent blocks.
        seed: of the points.
        like: has the dtype and device.
        turn: a rotation of the same points. Errors of draws that are turned each in its own way do not add up.

    Returns:
        The draws; in each block their covariance is the identity where there are enough.
    """
    z = _normals(dims, count, replicates, seed)
    if turn and dims > 1:
        generator = torch.Generator().manual_seed(seed * 65_537 + turn)
        z = torch.linalg.qr(torch.randn(dims, dims, generator=generator, dtype=z.dtype))[0] @ z
    return z.to(like)


@lru_cache(maxsize=64)
def _normals(dims: int, count: int, replicates: int, seed: int) -> Tensor:
    half = count // replicates // 2
    blocks = []
    for r in range(replicates):
        engine = torch.quasirandom.SobolEngine(dims, scramble=True, seed=seed * 1_009 + r)
        u = engine.draw(half, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        x = torch.special.ndtri(u).T
        x = torch.cat([x, -x], 1)
        if dims <= half // 2:  # the sample's own covariance is made the identity
            root = torch.linalg.cholesky(x @ x.T / x.shape[1])
            x = torch.linalg.solve_triangular(root, x, upper=False)
        blocks.append(x)
    return torch.cat(blocks, 1)


def unique(leaves: list[Expr]) -> tuple[list[Expr], dict[int, int]]:
    """One of each set of leaves that are the same source, and which of them each leaf is."""
    first: dict[Hashable, int] = {}
    kept: list[Expr] = []
    number: dict[int, int] = {}
    for e in leaves:
        key = e.key if isinstance(e, Source) else id(e)
        if key not in first:
            first[key] = len(kept)
            kept.append(e)
        number[id(e)] = first[key]
    return kept, number


def pair_roots(a: Tensor, c: Tensor, b: Tensor) -> Tensor:
    """Lower Cholesky factors of 2 x 2 covariances, also singular ones; shape (tuples, 2, 2)."""
    first = a.clamp_min(0).sqrt()
    slope = torch.where(first > 0, c / first.clamp_min(1e-30), torch.zeros_like(c))
    limit = b.clamp_min(0).sqrt()
    slope = torch.minimum(torch.maximum(slope, -limit), limit)
    out = a.new_zeros(a.shape[0], 2, 2)
    out[:, 0, 0], out[:, 1, 0], out[:, 1, 1] = first, slope, (b - slope.square()).clamp_min(0).sqrt()
    return out
