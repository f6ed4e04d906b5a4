"""Moments of an expression at the points and pairs of a large image, by draws of one or two points at a time.

Few points are drawn when many are wanted: the rest follows by a regression on the variances and correlations of the
expression's Gaussian parts, whose residual is stated. Where it is not small, every pair is drawn. A pair's correlation
is taken from draws of the two points, the variances from more draws of each: on common draws their errors cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.rules.banded import Banded
from leadline.rules.banded_draws import Evaluator, leaves_of, normals, pair_roots, unique
from leadline.rules.banded_grid import Grid
from leadline.rules.expr import Expr, Source

__all__ = ["Drawn", "Seed", "drawn_mean", "drawn_means", "drawn_second"]

_REPLICATES = 8
_POINT_DRAWS, _PAIR_DRAWS = 4096, 2048
_POINTS, _PAIRS = 128, 512  # drawn for a regression, at least
_EACH = 4  # of them for each regressor, at least
_FEW_DRAWS = 256  # at least, of each pair where all are drawn
_CHUNK = 2**17  # numbers of one array while pairs are evaluated, so that it stays in cache
_APART = 10_007  # rotations of one chunk's draws are this far from those of the next
_MISFIT = 0.01  # residual of a regression, relative, from which everything is drawn

Second = Callable[[Expr], Banded]


@dataclass(frozen=True)
class Drawn:
    """Of an expression: second moment at pairs, mean at points, relative standard errors of variances and of correlations."""

    second: Banded
    mean: Tensor
    error: float
    pair_error: float


@dataclass(frozen=True)
class _Parts:
    """Gaussian parts of expressions: kernels, and which of them are the same source."""

    leaves: list[Expr]
    number: dict[int, int]
    count: int
    kernels: list[Banded]

    @classmethod
    def of(cls, exprs: Sequence[Expr], second: Second) -> _Parts:
        leaves = leaves_of(*exprs)
        kept, number = unique(leaves)
        return cls(leaves, number, len(kept), [second(e) for e in kept])

    def kernel(self, e: Expr) -> Banded:
        return self.kernels[self.number[id(e)]]

    @property
    def alive(self) -> bool:
        """Whether no part is zero at some point."""
        return all(bool((K.diagonal() > 0).all()) for K in self.kernels)


@dataclass(frozen=True)
class Seed:
    """Of draws: ``base`` of the points, ``turn`` of the rotation that this expression's draws have to themselves."""

    base: int
    turn: int


def drawn_mean(expr: Expr, grid: Grid, second: Second, seed: Seed) -> tuple[Tensor, Tensor, float]:
    """Mean and second moment at each point, shape (points,), and the relative standard error of the latter."""
    mean, own, error = _all_points([expr], _Parts.of([expr], second), grid, seed)
    return mean[0], own[0], error[0]


def drawn_means(exprs: Sequence[Expr], grid: Grid, second: Second, seed: Seed) -> Tensor:
    """Means of expressions on the same draws, shape (expressions, points)."""
    return _all_points(exprs, _Parts.of(exprs, second), grid, seed)[0]


def drawn_second(
    exprs: Sequence[Expr], grid: Grid, second: Second, seed: Seed, where: Tensor | None = None
) -> list[Drawn]:
    """<h_p h_q> of expressions at the pairs of a grid, all on the same draws.

    Args:
        exprs: functions of sources whose second moments are banded.
        grid: the pairs.
        second: second moment of a part of the expressions.
        seed: of the draws.
        where: pairs that are wanted (the others are left zero), shape (pairs,); None for all.

    Returns:
        One entry an expression.
    """
    parts = _Parts.of(exprs, second)
    means, owns, errors = _all_points(exprs, parts, grid, seed)
    P = grid.points
    wanted = torch.arange(P, grid.pairs) if where is None else where[P:].nonzero()[:, 0] + P
    correlations, spreads = _correlations(exprs, parts, grid, wanted, Seed(seed.base + 1, seed.turn))
    p, q, _ = grid.index
    p, q = p[wanted], q[wanted]
    out = []
    for mean, own, error, correlation, spread in zip(means, owns, errors, correlations, spreads, strict=True):
        values = own.new_zeros(grid.pairs)
        values[:P] = own
        values[wanted] = (own.index_select(0, p) * own.index_select(0, q)).clamp_min(0).sqrt() * correlation.to(own)
        out.append(Drawn(Banded(values, grid), mean, error, spread))
    return out


def _all_points(exprs: Sequence[Expr], parts: _Parts, grid: Grid, seed: Seed) -> tuple[Tensor, Tensor, list[float]]:
    """Means and second moments at all points, (expressions, points)."""
    P, n = grid.points, parts.count
    wanted = max(_POINTS, _EACH * (n + 1) * (n + 2) // 2)
    if 3 * wanted < P and parts.alive:
        chosen = torch.linspace(0, P - 1, wanted).round().long().unique()
        means, owns, errors = _points(exprs, parts, chosen, seed)
        logs = torch.stack([K.diagonal().double().log() for K in parts.kernels], 1)
        table = _quadratic(logs - logs.mean(0))
        table = torch.cat([torch.ones(P, 1, dtype=table.dtype), table], 1)
        fitted, misfit = _regress(table, chosen, torch.cat([owns, means]).T)
        relative = misfit[: len(exprs)] / owns.mean(1).clamp_min(1e-30)
        if float(relative.max()) < _MISFIT:
            own, mean = fitted.T.clone().split(len(exprs))
            return mean, own.clamp_min(0), [math.hypot(a, float(b)) for a, b in zip(errors, relative, strict=True)]
    return _points(exprs, parts, torch.arange(P), seed)


def _points(exprs: Sequence[Expr], parts: _Parts, points: Tensor, seed: Seed) -> tuple[Tensor, Tensor, list[float]]:
    z = normals(parts.count, _POINT_DRAWS, _REPLICATES, seed.base, parts.kernels[0].values, seed.turn)
    given = {id(e): z[parts.number[id(e)]][None] for e in parts.leaves}
    means, seconds, spreads = [], [], []
    for at in points.split(max(_CHUNK // _POINT_DRAWS, 1)):
        roots, offsets = {}, {}
        for e in parts.leaves:
            variance, mean = parts.kernel(e).diagonal()[at], e.mean if isinstance(e, Source) else None
            if mean is not None:
                offsets[id(e)] = mean[at][:, None]
                variance = variance - mean[at].square()
            roots[id(e)] = variance.clamp_min(0).sqrt()[:, None, None]
        evaluate = Evaluator(at[:, None], roots, offsets, given)
        for expr in exprs:
            value = evaluate(expr)[:, 0]
            per = value.square().reshape(at.numel(), _REPLICATES, -1).mean(2)
            means.append(value.mean(1))
            seconds.append(per.mean(1))
            spreads.append(per.std(1) / math.sqrt(_REPLICATES))
    n = len(exprs)
    mean, own, spread = (torch.stack([torch.cat(x[i::n]) for i in range(n)]) for x in (means, seconds, spreads))
    return mean, own, (spread.mean(1) / own.mean(1).clamp_min(1e-30)).tolist()


def _correlations(
    exprs: Sequence[Expr], parts: _Parts, grid: Grid, wanted: Tensor, seed: Seed
) -> tuple[Tensor, list[float]]:
    """<h_p h_q> / sqrt(<h_p^2> <h_q^2>) of pairs (expressions, pairs), and their standard errors."""
    n = parts.count
    count = max(_PAIRS, _EACH * (n * (n + 7) // 2))
    if wanted.numel() > 3 * count and parts.alive:
        picked = torch.randint(wanted.numel(), (count,), generator=torch.Generator().manual_seed(seed.base)).unique()
        drawn, errors = _pairs(exprs, parts, grid, wanted[picked], seed, _PAIR_DRAWS)
        fitted, misfit = _regress(_pair_table(parts, grid, wanted), picked, 1 - drawn.T)
        if float(misfit.max()) < _MISFIT:
            return (1 - fitted.T).clamp(-1, 1), [math.hypot(a, float(b)) for a, b in zip(errors, misfit, strict=True)]
    few = 2 ** int(math.log2(max(_PAIRS * _PAIR_DRAWS // max(wanted.numel(), 1), _FEW_DRAWS)))
    return _pairs(exprs, parts, grid, wanted, seed, min(few, _PAIR_DRAWS), apart=True)


def _pair_table(parts: _Parts, grid: Grid, wanted: Tensor) -> Tensor:
    """Regressors of one minus a correlation: polynomials in the angles between the two points of each part."""
    p, q, _ = grid.index
    p, q = p[wanted], q[wanted]
    angles, scales = [], []
    for K in parts.kernels:
        own = K.diagonal()
        cosine = K.values[wanted] / (own.index_select(0, p) * own.index_select(0, q)).sqrt()
        angles.append(torch.acos(cosine.clamp(-1, 1)))
        log = own.log()
        log = log - log.mean()
        scales.append(log.index_select(0, p) + log.index_select(0, q))
    theta, scale = torch.stack(angles, 1), torch.stack(scales, 1)
    middle = theta.mean(1, keepdim=True)
    return torch.cat([_quadratic(theta), theta * middle.square(), middle * scale], 1)


def _quadratic(x: Tensor) -> Tensor:
    n = x.shape[1]
    rows, columns = torch.triu_indices(n, n)
    return torch.cat([x, x[:, rows] * x[:, columns]], 1)


def _regress(table: Tensor, chosen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares on the chosen rows: values at all rows, and each target's root mean square residual."""
    A, y = table[chosen].double(), targets.double()
    norm = A.square().mean(0).sqrt().clamp_min(1e-12)
    A = A / norm
    ridge = 1e-9 * A.shape[0] * torch.eye(A.shape[1], dtype=A.dtype)
    x = torch.linalg.solve(A.T @ A + ridge, A.T @ y)
    return (table @ (x / norm[:, None]).to(table)).to(targets), (A @ x - y).square().mean(0).sqrt()


def _pairs(
    exprs: Sequence[Expr],
    parts: _Parts,
    grid: Grid,
    wanted: Tensor,
    seed: Seed,
    draws: int,
    *,
    apart: bool = False,
) -> tuple[Tensor, list[float]]:
    """Correlations by draws; ``apart``: each chunk of pairs on draws of its own, so that their errors average out."""
    p, q, _ = grid.index
    n = len(exprs)
    like = parts.kernels[0].values
    out, spreads = [[like.new_zeros(0)] for _ in exprs], [0.0] * n
    for number, chunk in enumerate(wanted.split(max(_CHUNK // draws // 2, 1))):
        if chunk.numel() == 0:
            break
        if number == 0 or apart:
            z = normals(2 * parts.count, draws, _REPLICATES // 2, seed.base, like, seed.turn + number * _APART)
            given = {id(e): z[[parts.number[id(e)], parts.count + parts.number[id(e)]]] for e in parts.leaves}
        at = torch.stack([p[chunk], q[chunk]], 1)
        roots, means = {}, {}
        for e in parts.leaves:
            K = parts.kernel(e)
            a, b, c = K.values[at[:, 0]], K.values[at[:, 1]], K.values[chunk]
            m = e.mean if isinstance(e, Source) else None
            if m is not None:
                means[id(e)] = m[at]
                a, b, c = a - m[at[:, 0]].square(), b - m[at[:, 1]].square(), c - m[at].prod(1)
            roots[id(e)] = pair_roots(a, c, b)
        evaluate = Evaluator(at, roots, means, given)
        for i, expr in enumerate(exprs):
            value = evaluate(expr)
            out[i].append(_ratio(torch.bmm(value, value.transpose(1, 2))))
            if number % 16 == 0:
                blocks = value.reshape(chunk.numel(), 2, _REPLICATES // 2, -1).transpose(1, 2).flatten(0, 1)
                each = _ratio(torch.bmm(blocks, blocks.transpose(1, 2))).reshape(chunk.numel(), -1)
                spreads[i] = max(spreads[i], float((each.std(1) / math.sqrt(each.shape[1])).mean()))
    return torch.stack([torch.cat(x) for x in out]), spreads


def _ratio(gram: Tensor) -> Tensor:
    norm = (gram[:, 0, 0] * gram[:, 1, 1]).clamp_min(0).sqrt()
    return torch.where(norm > 0, gram[:, 0, 1] / norm.clamp_min(1e-30), norm)
