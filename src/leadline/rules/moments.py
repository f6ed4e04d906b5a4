"""Expectations of expressions: the cheapest exact way first, draws with a standard error where there is none.

A function of one Gaussian goes to closed forms or quadrature (:mod:`leadline.activations`); products and sums of
independent parts factor; a Gaussian times a function of a Gaussian follows Stein's lemma; the rest is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leadline.rules.expr import Apply, Cat, Expr, Frozen, Gather, Lin, Mix, Op, Product, Source, gaussian

__all__ = ["Moments"]

_REPLICATES = 8


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

    def second(self, expr: Expr) -> Tensor:
        """Mean over channels of h_p h_q, shape (P, P)."""
        if "second" not in expr.memo:
            expr.memo["second"] = self._second(expr)
        return expr.memo["second"]  # type: ignore[return-value]

    def mean(self, expr: Expr) -> Tensor:
        """Mean over channels of h_p, shape (P,)."""
        if "mean" not in expr.memo:
            expr.memo["mean"] = self._mean(expr)
        return expr.memo["mean"]  # type: ignore[return-value]

    def diagonal(self, expr: Expr) -> Tensor:
        """Mean over channels of h_p^2, shape (P,)."""
        return self.second(expr).diagonal()

    def error(self, expr: Expr) -> float:
        """Relative standard error of the second moment, from draws; zero where no draw took part."""
        self.second(expr)
        parts = [float(expr.memo.get("error", 0.0))]  # type: ignore[arg-type]
        parts += [self.error(e) for e in _children(expr)] if "error" not in expr.memo else []
        return max(parts, default=0.0)

    def _second(self, expr: Expr) -> Tensor:
        if isinstance(expr, Source):
            return expr.second
        if isinstance(expr, Apply) and gaussian(expr.inner):
            K = self.second(expr.inner)
            act = expr.activation
            return act.gram(K, rtol=self.rtol) if expr.order == 0 else act.gram_derivative(K, rtol=self.rtol)
        if isinstance(expr, Product) and expr.left.sources.isdisjoint(expr.right.sources):
            return self.second(expr.left) * self.second(expr.right)
        if isinstance(expr, Gather):
            return take(take(self.second(expr.inner), expr.index, 0), expr.index, 1)
        if isinstance(expr, Mix):
            return expr.matrix @ self.second(expr.inner) @ expr.matrix.T
        if isinstance(expr, Cat):
            return torch.stack([share * self.second(e) for share, e in expr.parts]).sum(0)
        if isinstance(expr, Lin):
            total = self._second_lin(expr)
            if total is not None:
                return total
        return self._drawn(expr)[0]

    def _second_lin(self, expr: Lin) -> Tensor | None:
        """Second moment of a linear combination term by term; None where two terms depend on each other in an unknown way."""
        total: Tensor | None = None
        for i, (c, e) in enumerate(expr.terms):
            part = _outer(c, c, e.size) * self.second(e)
            total = part if total is None else total + part
            for d, f in expr.terms[:i]:
                cross = self._cross(e, f)
                if cross is None:
                    return None
                total = total + _outer(c, d, e.size) * cross + _outer(d, c, e.size) * cross.T
        if expr.offset is not None:
            mean = self.mean(expr)
            rest = mean - expr.offset
            extra = torch.outer(mean, mean) - torch.outer(rest, rest)
            total = extra if total is None else total + extra
        return total

    def _cross(self, one: Expr, two: Expr) -> Tensor | None:
        """<e_p f_q> of two expressions; None where it needs draws."""
        if one is two:
            return self.second(one)
        if one.sources.isdisjoint(two.sources):
            return torch.outer(self.mean(one), self.mean(two))
        if gaussian(one) and gaussian(two):
            return self.covariance(one, two)
        for a, b, flip in ((one, two, False), (two, one, True)):
            if gaussian(a) and isinstance(b, Apply) and b.order == 0 and gaussian(b.inner):
                slope = b.activation.derivative_mean(self.diagonal(b.inner))
                cross = self.covariance(a, b.inner) * slope[None, :]
                return cross.T if flip else cross
        return None

    def covariance(self, one: Expr, two: Expr) -> Tensor:
        """<e_p f_q> of two Gaussian expressions, shape (P, Q)."""
        if one is two:
            return self.second(one)
        if one.sources.isdisjoint(two.sources):
            anchor = self.second(one)
            return anchor.new_zeros(one.size, two.size)
        if isinstance(one, Lin):
            return torch.stack([_column(c, e.size) * self.covariance(e, two) for c, e in one.terms]).sum(0)
        if isinstance(one, Gather):
            return take(self.covariance(one.inner, two), one.index, 0)
        if isinstance(one, Mix):
            return one.matrix @ self.covariance(one.inner, two)
        if isinstance(two, Source):
            return one.second  # type: ignore[attr-defined]  # two sources that are not disjoint are the same one
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
            return expr.matrix @ self.mean(expr.inner)
        if isinstance(expr, Cat):
            return torch.stack([share * self.mean(e) for share, e in expr.parts]).sum(0)
        return self._drawn(expr)[1]

    def _drawn(self, expr: Expr) -> tuple[Tensor, Tensor]:
        """Second moment and mean by draws, with the relative standard error kept on the expression."""
        h = self.draws(expr, self._frozen_count(expr))
        blocks = h.reshape(_REPLICATES, -1, expr.size)
        diagonals = blocks.square().mean(1)
        second = h.T @ h / h.shape[0]
        spread = diagonals.std(0) / math.sqrt(_REPLICATES)
        expr.memo["error"] = float((spread / second.diagonal().clamp_min(1e-300)).max())
        expr.memo["mean"] = h.mean(0)
        return second, expr.memo["mean"]  # type: ignore[return-value]

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
            return self.draws(expr.inner, count) @ expr.matrix.T
        if isinstance(expr, Op):
            return expr.function(self.draws(expr.inner, count))
        if isinstance(expr, Frozen):
            if expr.values.shape[0] != count:
                raise ValueError(f"{expr.values.shape[0]} draws are there, {count} were asked for: use the draws' own number.")
            return expr.values
        if isinstance(expr, Cat):
            sizes = [round(share * count) for share, _ in expr.parts]
            sizes[-1] = count - sum(sizes[:-1])
            rows = [self.draws(e, count)[:n] for n, (_, e) in zip(sizes, expr.parts, strict=True)]
            mixed = torch.cat(rows)
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
            return mixed[order.to(mixed.device)]
        raise TypeError(f"cannot draw a {type(expr).__name__}.")

    def _draw_source(self, expr: Source, count: int) -> Tensor:
        seed = self._seeds.setdefault(expr.key, self.seed * 1_000_003 + len(self._seeds) + 1)
        like = expr.second
        if expr.drop is not None:
            generator = torch.Generator().manual_seed(seed)
            keep = torch.rand(count, expr.size, generator=generator) >= expr.drop
            return keep.to(like) / (1 - expr.drop)
        z = standard_draws(count, expr.size, seed).to(like)
        covariance = like if expr.mean is None else like - torch.outer(expr.mean, expr.mean)
        z = z @ square_root(covariance).T
        return z if expr.mean is None else z + expr.mean


def standard_draws(count: int, size: int, seed: int) -> Tensor:
    """Standard normal draws, quasi-random in few dimensions, whose sample covariance is the identity in each block.

    The blocks (replicates) are independent, so that their scatter gives the standard error.
    """
    block = count // _REPLICATES
    out = torch.empty(count, size, dtype=torch.float64)
    for r in range(_REPLICATES):
        rows = out[r * block : (r + 1) * block]
        if size <= 32:
            engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=(seed * _REPLICATES + r) % (2**31))
            u = engine.draw(block, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
            # another source with the same points would be dependent: shuffle the order
            order = torch.randperm(block, generator=torch.Generator().manual_seed(seed * _REPLICATES + r))
            rows.copy_(torch.special.ndtri(u)[order])
        else:
            generator = torch.Generator().manual_seed(seed * _REPLICATES + r)
            half = torch.randn(block // 2, size, generator=generator, dtype=torch.float64)
            rows.copy_(torch.cat([half, -half]))
        if size <= block // 4:
            cov = rows.T @ rows / block
            rows.copy_(torch.linalg.solve_triangular(torch.linalg.cholesky(cov), rows.T, upper=False).T)
    return out


def square_root(K: Tensor) -> Tensor:
    """A matrix whose product with its transpose is the covariance K, also where K is singular."""
    scale = float(K.diagonal().abs().max())
    if scale == 0.0:
        return torch.zeros_like(K)
    eye = torch.eye(K.shape[0], dtype=K.dtype, device=K.device)
    jitter = 1e-12 if K.dtype == torch.float64 else 1e-6
    factor, info = torch.linalg.cholesky_ex(K + jitter * scale * eye)
    if int(info) == 0:
        return factor
    values, vectors = torch.linalg.eigh(K)
    return vectors * values.clamp_min(0).sqrt()


def take(values: Tensor, index: Tensor, dim: int) -> Tensor:
    """``index_select`` in which -1 stands for zero."""
    picked = values.index_select(dim, index.clamp_min(0))
    if bool((index < 0).any()):
        shape = [1] * picked.ndim
        shape[dim] = -1
        picked = picked * (index >= 0).reshape(shape).to(picked)
    return picked


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


def _column(c: float | Tensor, size: int) -> float | Tensor:
    return c[:, None] if isinstance(c, Tensor) else c


def _outer(c: float | Tensor, d: float | Tensor, size: int) -> float | Tensor:
    if not isinstance(c, Tensor) and not isinstance(d, Tensor):
        return c * d
    left = c[:, None] if isinstance(c, Tensor) else c
    right = d[None, :] if isinstance(d, Tensor) else d
    return left * right
