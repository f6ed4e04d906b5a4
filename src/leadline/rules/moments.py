"""Expectations of expressions: the cheapest exact way first, draws with a standard error where there is none.

A function of one Gaussian goes to closed forms or quadrature (:mod:`leadline.activations`); products and sums of
independent parts factor; a Gaussian times a function of a Gaussian follows Stein's lemma; the rest is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leadline.rules.banded import Banded, band, dense
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_moments import Seed, drawn_mean, drawn_second
from leadline.rules.expr import (
    Apply,
    Cat,
    Expr,
    Frozen,
    Gather,
    Lin,
    Mix,
    NoRule,
    Op,
    Product,
    Source,
    gaussian,
    grid,
)
from leadline.rules.kernel import Kernel, gram, outer, scale_points
from leadline.rules.sampling import REPLICATES, conditional, square_root, standard_draws, take

__all__ = ["Moments"]


@dataclass
class Moments:
    """Takes second moments and means of expressions.

    ``rtol``: relative accuracy of quadratures. ``budget``: draws times points of one evaluation by draws.
    ``seed``: of the draws.
    """

    rtol: float = 1e-6
    budget: int = 2**20
    seed: int = 0
    _draws: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)
    _keep: list[Expr] = field(default_factory=list, repr=False)
    _seeds: dict[Hashable, int] = field(default_factory=dict, repr=False)
    _turns: int = 0

    def second(self, expr: Expr) -> Kernel:
        """Mean over channels of h_p h_q, shape (P, P)."""
        if "second" not in expr.memo:
            expr.memo["second"] = self._second(expr, None)
        return expr.memo["second"]

    def times(self, K: Kernel, expr: Expr) -> Kernel:
        """K times the second moment of an expression, which is taken only where K is not zero."""
        if isinstance(K, Banded) and "second" not in expr.memo:
            return K * self._where(expr, K)
        second = self.second(expr)
        return (band(K, second.grid) if isinstance(second, Banded) else K) * second

    def draw_together(self, waves: Sequence[tuple[Kernel, Expr]]) -> None:
        """Take the second moments that will need draws on the same ones, where the kernels beside them are not zero."""
        kernels = [K for K, _ in waves if isinstance(K, Banded)]
        found = {
            id(e): e
            for _, expr in waves
            for e in _drawn_parts(expr)
            if "second" not in e.memo and "where" not in e.memo
        }
        if len(found) < 2 or len(kernels) < len(waves) or any(K.grid is not kernels[0].grid for K in kernels):
            return
        mask = torch.stack([K.values != 0 for K in kernels]).any(0)
        exprs = list(found.values())
        seed = self.turned(exprs[0])
        for expr, drawn in zip(exprs, drawn_second(exprs, kernels[0].grid, self.second, seed, mask), strict=True):
            expr.memo.update(
                {"where": (drawn.second, mask), "mean": drawn.mean, "error": drawn.error, "pair": drawn.pair_error}
            )

    def turned(self, expr: Expr) -> Seed:
        """Seed of an expression's draws over images, the same whenever it is asked for."""
        if "turn" not in expr.memo:
            self._turns += 1
            expr.memo["turn"] = self._turns
        return Seed(self.seed, expr.memo["turn"])  # type: ignore[arg-type]

    def mean(self, expr: Expr) -> Tensor:
        """Mean over channels of h_p, shape (P,)."""
        if "mean" not in expr.memo:
            expr.memo["mean"] = self._mean(expr)
        return expr.memo["mean"]  # type: ignore[return-value]

    def diagonal(self, expr: Expr) -> Tensor:
        """Mean over channels of h_p^2, shape (P,)."""
        if "second" in expr.memo or grid(expr) is None or not isinstance(expr, (Apply, Product)):
            return self.second(expr).diagonal()
        if isinstance(expr, Apply) and gaussian(expr.inner):
            K, act = self.diagonal(expr.inner), expr.activation
            return act.second_moment(K) if expr.order == 0 else act.derivative_moment(K)
        if _joint(expr):
            return self.second(expr).diagonal()
        pairs = grid(expr)
        if "diagonal" not in expr.memo and pairs is not None:
            expr.memo["mean"], expr.memo["diagonal"], _ = drawn_mean(expr, pairs, self.second, self.turned(expr))
        return expr.memo["diagonal"]  # type: ignore[return-value]

    def error(self, expr: Expr) -> float:
        """Relative standard error of the second moment, from draws; zero where no draw took part."""
        self.second(expr)
        return relative_error(expr)

    def _where(self, expr: Expr, K: Banded) -> Kernel:
        """Second moment of an expression at the pairs where K is not zero."""
        wanted = K.values != 0
        known = expr.memo.get("where")
        if isinstance(known, tuple) and known[0].grid is K.grid and not bool((wanted & ~known[1]).any()):
            return known[0]
        if "second" in expr.memo:
            return self.second(expr)
        found = self._second(expr, K)
        expr.memo["where"] = (found, wanted)
        return found

    def _second(self, expr: Expr, where: Banded | None) -> Kernel:
        again = self.second if where is None else lambda e: self._where(e, where)
        if isinstance(expr, Source):
            return expr.second
        if isinstance(expr, Apply) and gaussian(expr.inner):
            return gram(expr.activation, self.second(expr.inner), self.rtol, expr.order)
        if isinstance(expr, Product) and expr.left.sources.isdisjoint(expr.right.sources):
            return again(expr.left) * again(expr.right)
        if isinstance(expr, Gather):
            return take(take(self.second(expr.inner), expr.index, 0), expr.index, 1)
        if isinstance(expr, Mix):
            K = self.second(expr.inner)
            return expr.matrix @ K @ expr.matrix.T if isinstance(expr.matrix, Tensor) else expr.matrix.kernel(K)
        if isinstance(expr, Cat):
            return _total([share * again(e) for share, e in expr.parts])
        if isinstance(expr, Lin):
            total = self._second_lin(expr, where)
            if total is not None:
                return total
        return self._drawn(expr, where)

    def _second_lin(self, expr: Lin, where: Banded | None) -> Kernel | None:
        """Second moment of a linear combination term by term; None where two terms depend on each other in an unknown way."""
        pairs = grid(expr) if where is None else where.grid
        total: Kernel | None = None
        for i, (c, e) in enumerate(expr.terms):
            part = scale_points(c, c, self.second(e) if where is None else self._where(e, where))
            total = part if total is None else total + part
            for d, f in expr.terms[:i]:
                cross = self._cross(e, f, pairs)
                if cross is None:
                    return None
                cross = scale_points(c, d, cross)
                total = total + cross + cross.T
        if expr.offset is not None:
            mean = self.mean(expr)
            rest = mean - expr.offset
            extra = outer(mean, mean, pairs)
            extra = extra - outer(rest, rest, pairs) if expr.terms else extra
            total = extra if total is None else total + extra
        return total

    def _cross(self, one: Expr, two: Expr, pairs: Grid | None) -> Kernel | None:
        """<e_p f_q> of two expressions; None where it needs draws."""
        if one is two:
            return self.second(one)
        if one.sources.isdisjoint(two.sources):
            return outer(self.mean(one), self.mean(two), pairs)
        if gaussian(one) and gaussian(two):
            return self.covariance(one, two)
        for a, b, flip in ((one, two, False), (two, one, True)):
            if gaussian(a) and isinstance(b, Apply) and b.order == 0 and gaussian(b.inner):
                slope = b.activation.derivative_mean(self.diagonal(b.inner))
                cross = scale_points(1.0, slope, self.covariance(a, b.inner))
                return cross.T if flip else cross
        return None

    def covariance(self, one: Expr, two: Expr) -> Kernel:
        """<e_p f_q> of two Gaussian expressions, shape (P, Q)."""
        if one is two:
            return self.second(one)
        if one.sources.isdisjoint(two.sources):
            anchor = self.second(one)
            return anchor * 0 if isinstance(anchor, Banded) else anchor.new_zeros(one.size, two.size)
        if isinstance(one, Lin):
            return _total([scale_points(c, 1.0, self.covariance(e, two)) for c, e in one.terms])
        if isinstance(one, Gather):
            return take(self.covariance(one.inner, two), one.index, 0)
        if isinstance(one, Mix):
            K = self.covariance(one.inner, two)
            return one.matrix @ K if isinstance(one.matrix, Tensor) else one.matrix.left(K)
        if isinstance(two, Source):
            found = one.covariance(two)  # type: ignore[attr-defined]
            if found is None:
                raise NoRule("two sources of one weight whose joint law is not known")
            return found
        return self.covariance(two, one).T

    def _mean(self, expr: Expr) -> Tensor:
        if isinstance(expr, Source):
            return expr.mean if expr.mean is not None else expr.second.new_zeros(expr.size)
        if isinstance(expr, Lin):
            parts = [c * self.mean(e) for c, e in expr.terms]
            parts += [expr.offset] if expr.offset is not None else []
            return torch.stack([p.expand(expr.size) for p in parts]).sum(0)
        if isinstance(expr, Apply) and gaussian(expr.inner):
            K = self.diagonal(expr.inner)
            return expr.activation.mean(K) if expr.order == 0 else expr.activation.derivative_mean(K)
        if isinstance(expr, Product) and expr.left.sources.isdisjoint(expr.right.sources):
            return self.mean(expr.left) * self.mean(expr.right)
        if isinstance(expr, Gather):
            return take(self.mean(expr.inner), expr.index, 0)
        if isinstance(expr, Mix):
            m = self.mean(expr.inner)
            return expr.matrix @ m if isinstance(expr.matrix, Tensor) else expr.matrix.vector(m)
        if isinstance(expr, Cat):
            return torch.stack([share * self.mean(e) for share, e in expr.parts]).sum(0)
        pairs = grid(expr)
        if pairs is not None and not _joint(expr):
            expr.memo["mean"], expr.memo["diagonal"], _ = drawn_mean(expr, pairs, self.second, self.turned(expr))
        else:
            self._drawn(expr, None)
        return expr.memo["mean"]  # type: ignore[return-value]

    def _drawn(self, expr: Expr, where: Banded | None) -> Kernel:
        """Second moment by draws, with the mean and the relative standard error kept on the expression."""
        pairs = grid(expr)
        if pairs is not None and not _joint(expr):
            mask = None if where is None else where.values != 0
            (found,) = drawn_second([expr], pairs, self.second, self.turned(expr), mask)
            expr.memo.update({"mean": found.mean, "error": found.error, "pair": found.pair_error})
            return found.second
        h = self.draws(expr, self._frozen_count(expr))
        blocks = h.reshape(REPLICATES, -1, expr.size)
        diagonals = blocks.square().mean(1)
        second: Kernel = h.T @ h / h.shape[0]
        spread = diagonals.std(0) / math.sqrt(REPLICATES)
        expr.memo["error"] = float((spread / second.diagonal().clamp_min(1e-300)).max())
        expr.memo["mean"] = h.mean(0)
        if pairs is not None:
            p, q, _ = pairs.index
            second = Banded(second[p, q], pairs)
        return second

    def _frozen_count(self, expr: Expr) -> int | None:
        """Number of draws that an expression is bound to by a part of it that is drawn already."""
        if isinstance(expr, Frozen):
            return expr.values.shape[0]
        return next((n for n in map(self._frozen_count, _children(expr)) if n is not None), None)

    def count(self, size: int) -> int:
        """Number of draws for an expression over ``size`` points."""
        wanted = max(2**10, min(2**16, self.budget // max(size, 1)))
        return 2 ** int(math.log2(wanted))

    def draws(self, expr: Expr, count: int | None = None) -> Tensor:
        """Channels drawn from the law of an expression, shape (draws, P); the same sources give the same draws."""
        count = self.count(expr.size) if count is None else count
        key = (id(expr), count)
        if key not in self._draws:
            self._draws[key] = self._draw(expr, count)
            self._keep.append(expr)
            self._forget()
        return self._draws[key]

    def _forget(self) -> None:
        """Drop the oldest draws once they take more than a gigabyte."""
        total = sum(t.numel() * t.element_size() for t in self._draws.values())
        while total > 2**30 and len(self._draws) > 8:
            oldest = next(iter(self._draws))
            gone = self._draws.pop(oldest)
            total -= gone.numel() * gone.element_size()

    def _draw(self, expr: Expr, count: int) -> Tensor:
        if isinstance(expr, Source):
            return self._draw_source(expr, count)
        if isinstance(expr, Lin):
            total = expr.offset.expand(count, expr.size) if expr.offset is not None else 0.0
            for c, e in expr.terms:
                total = total + c * self.draws(e, count)
            return total  # type: ignore[return-value]
        if isinstance(expr, Apply):
            z = self.draws(expr.inner, count)
            return expr.activation(z) if expr.order == 0 else expr.activation.derivative(z)
        if isinstance(expr, Product):
            return self.draws(expr.left, count) * self.draws(expr.right, count)
        if isinstance(expr, Gather):
            return take(self.draws(expr.inner, count), expr.index, 1)
        if isinstance(expr, Mix):
            h = self.draws(expr.inner, count)
            return h @ expr.matrix.T if isinstance(expr.matrix, Tensor) else expr.matrix.draws(h)
        if isinstance(expr, Op):
            return expr.function(self.draws(expr.inner, count))
        if isinstance(expr, Frozen):
            if expr.values.shape[0] != count:
                raise ValueError(
                    f"{expr.values.shape[0]} draws are there, {count} were asked for: use the draws' own number."
                )
            return expr.values
        if isinstance(expr, Cat):
            sizes = [round(share * count) for share, _ in expr.parts]
            sizes[-1] = count - sum(sizes[:-1])
            rows = [self.draws(e, count)[:n] for n, (_, e) in zip(sizes, expr.parts, strict=True)]
            mixed = torch.cat(rows)
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
            return mixed[order.to(mixed.device)]
        raise TypeError(f"cannot draw a {type(expr).__name__}.")

    def serial(self, key: Hashable) -> int:
        """Seed of a source's draws, its own and the same whenever it is asked for."""
        return self._seeds.setdefault(key, self.seed * 1_000_003 + len(self._seeds) + 1)

    def _draw_source(self, expr: Source, count: int) -> Tensor:
        seed = self.serial(expr.key)
        like = dense(expr.second)
        if expr.drop is not None:
            generator = torch.Generator().manual_seed(seed)
            keep = torch.rand(count, expr.size, generator=generator) >= expr.drop
            return keep.to(like) / (1 - expr.drop)
        z = standard_draws(count, expr.size, seed).to(like)
        covariance = like if expr.mean is None else like - torch.outer(expr.mean, expr.mean)
        if expr.ties:
            return self._draw_tied(expr, covariance, z)
        z = z @ square_root(covariance).T
        return z if expr.mean is None else z + expr.mean

    def _draw_tied(self, expr: Source, covariance: Tensor, z: Tensor) -> Tensor:
        """Draws of a source given those of earlier sources of the same weights."""
        before = [s for s, _ in expr.ties]
        joint = torch.cat([torch.cat([dense(self.covariance(s, t)) for t in before], 1) for s in before])
        earlier = torch.cat([self.draws(s, z.shape[0]) for s in before], 1)
        return conditional(earlier, joint, torch.cat([dense(c) for _, c in expr.ties]), covariance, z)


def _children(expr: Expr) -> list[Expr]:
    if isinstance(expr, Lin):
        return [e for _, e in expr.terms]
    if isinstance(expr, Cat):
        return [e for _, e in expr.parts]
    if isinstance(expr, Product):
        return [expr.left, expr.right]
    if isinstance(expr, (Apply, Gather, Mix, Op)):
        return [expr.inner]
    return []


def _drawn_parts(expr: Expr) -> list[Expr]:
    """Parts of an expression over images whose second moments need draws."""
    if isinstance(expr, Lin) and len(expr.terms) == 1 and expr.offset is None:
        return _drawn_parts(expr.terms[0][1])
    if grid(expr) is None or _joint(expr):
        return []
    shared = isinstance(expr, Product) and not expr.left.sources.isdisjoint(expr.right.sources)
    return [expr] if shared or (isinstance(expr, Apply) and not gaussian(expr.inner)) else []


def _joint(expr: Expr) -> bool:
    """Whether an expression is known only through draws of all its points at once."""
    if "joint" not in expr.memo:
        expr.memo["joint"] = isinstance(expr, (Op, Frozen)) or any(map(_joint, _children(expr)))
    return bool(expr.memo["joint"])


def relative_error(expr: Expr, kind: str = "error") -> float:
    """An expression's own relative error and its parts'.

    Args:
        expr: the expression.
        kind: "error" by draws, "pair" of correlations beside that, "law" of laws read from weights.

    Returns:
        The relative standard error.
    """
    total = f"{kind} in all"
    if total not in expr.memo:
        own = float(expr.memo.get(kind, 0.0))  # type: ignore[arg-type]
        expr.memo[total] = math.hypot(own, max((relative_error(e, kind) for e in _children(expr)), default=0.0))
    return expr.memo[total]  # type: ignore[return-value]


def _total(parts: list[Kernel]) -> Kernel:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
