"""Draws of the sites of one window of an image, or of two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.rules.banded import Banded
from leadline.rules.banded_conv import Window
from leadline.rules.banded_draws import Evaluator, leaves_of, normals, unique
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_offsets import Offset
from leadline.rules.banded_pool import between_lags
from leadline.rules.expr import Expr, NoRule, Source

__all__ = ["Own", "Pairs", "Windows"]

_REPLICATES = 4
_DRAWS, _PAIR_DRAWS, _CHUNK = 512, 512, 2**19


@dataclass(frozen=True)
class Own:
    """Of each window's maximum: second moment, mean, probability of each tap to win, second moment of the winner's slope.

    ``error``: relative standard error of the second moment.
    """

    second: Tensor
    mean: Tensor
    wins: Tensor
    slope: Tensor
    error: float


@dataclass(frozen=True)
class Pairs:
    """Of pairs of windows.

    ``maxima``, ``slopes``: correlation of the maxima, and of the slopes at the winners. ``won``: probability that one tap
    wins in the first window and another in the second, for each offset, in one sample and in two, shape (offsets, 2, taps,
    taps). ``sloped``: the same of the products of the winners' slopes.
    """

    maxima: Tensor
    slopes: Tensor
    won: Tensor
    sloped: Tensor


def _shares(table: Tensor) -> Tensor:
    """Divided by its sum over taps; all taps alike where nothing was drawn."""
    total = table.sum((2, 3), keepdim=True)
    return torch.where(total > 0, table / total.clamp_min(1e-300), torch.full_like(table, 1 / table[0, 0].numel()))


class Windows:
    """The windows of a pool.

    Args:
        expr: what is pooled.
        slope: its derivative, where it is an activation.
        window: the taps.
        out: pairs of windows.
        second: second moment of a part of the expression.
        seed: of the draws.
    """

    def __init__(
        self, expr: Expr, slope: Expr | None, window: Window, out: Grid, second: Callable[[Expr], Banded], seed: int
    ) -> None:
        self.expr, self.slope, self.window, self.out, self.seed = expr, slope, window, out, seed
        self.places = list(itertools.product(*window.taps))
        self.leaves = leaves_of(expr)
        self.inner = second(expr).grid
        self.lookups = {id(e): _Lookup(second(e), self.places, out, window) for e in self.leaves}
        coordinates = torch.stack(torch.meshgrid(*[torch.arange(n) for n in out.sizes], indexing="ij"), -1).reshape(
            -1, len(out.sizes)
        )
        at = coordinates[:, None] * torch.tensor(window.stride) + torch.tensor(self.places)[None]
        sizes = torch.tensor(self.inner.sizes)
        self.valid = ((at >= 0) & (at < sizes)).all(-1)
        self.site = (at.clamp_min(0).minimum(sizes - 1) * torch.tensor(_strides(self.inner.sizes))).sum(-1)

    def each(self) -> Own:
        """Moments of each window's maximum."""
        m = len(self.places)
        second, mean, wins, slopes, spread = [], [], [], [], []
        for points in torch.arange(self.out.points).split(max(_CHUNK // (_DRAWS * m), 1)):
            value, slope = self._drawn(points[:, None], torch.zeros_like(points), _DRAWS)
            best, where = value[:, 0].max(1)
            blocks = best.reshape(best.shape[0], _REPLICATES, -1).square().mean(2)
            second.append(blocks.mean(1))
            spread.append(blocks.std(1) / math.sqrt(_REPLICATES))
            mean.append(best.mean(1))
            wins.append(torch.zeros(best.shape[0], m).scatter_add_(1, where, torch.ones(where.shape)) / where.shape[1])
            slopes.append(slope[:, 0].gather(1, where[:, None])[:, 0].square().mean(1))
        total = torch.cat(second)
        error = float(torch.cat(spread).mean() / total.mean().clamp_min(1e-30))
        return Own(total, torch.cat(mean), torch.cat(wins).to(total), torch.cat(slopes), error)

    def pairs(self, chosen: Tensor) -> Pairs:
        """Of pairs of windows: correlations, and which taps win."""
        p, q, _ = self.out.index
        m, S = len(self.places), self.out.sites
        maxima: list[Tensor] = []
        slopes: list[Tensor] = []
        won, sloped_won = (torch.zeros(len(self.out.offsets) * 2 * m * m, dtype=torch.float64) for _ in range(2))
        chunks = chosen.split(max(_CHUNK // (_PAIR_DRAWS * 2 * m), 1)) if chosen.numel() else ()
        for number, rows in enumerate(chunks):
            slot = self.out.slot[rows]
            value, slope = self._drawn(torch.stack([p[rows], q[rows]], 1), slot, _PAIR_DRAWS, turn=number)
            best, where = value.max(2)
            sloped = slope.gather(2, where[:, :, None])[:, :, 0]
            for x, target in ((best, maxima), (sloped, slopes)):
                gram = torch.bmm(x, x.transpose(1, 2))
                target.append(gram[:, 0, 1] / (gram[:, 0, 0] * gram[:, 1, 1]).sqrt().clamp_min(1e-30))
            kind = slot * 2 + (p[rows] // S != q[rows] // S).long()
            at = (kind[:, None] * m + where[:, 0]) * m + where[:, 1]
            won += torch.bincount(at.reshape(-1), minlength=won.numel())
            sloped_won += torch.bincount(at.reshape(-1), sloped.prod(1).reshape(-1).double(), won.numel())
        tables = [t.reshape(-1, 2, m, m) for t in (won, sloped_won)]
        empty = torch.zeros(0)
        return Pairs(
            torch.cat(maxima) if maxima else empty, torch.cat(slopes) if slopes else empty, *map(_shares, tables)
        )

    def _drawn(self, points: Tensor, slot: Tensor, draws: int, turn: int = 0) -> tuple[Tensor, Tensor]:
        """Values and slopes at the sites of windows, shape (tuples, windows, taps, draws); -inf outside the image.

        Args:
            points: windows (tuples, 1 or 2).
            slot: number of the offset between the two.
            draws: how many.
            turn: of the draws, so that those of several sets of pairs err apart.

        Returns:
            The values and the slopes.
        """
        count, m = points.shape[1], len(self.places)
        kept, number = unique(self.leaves)
        like = self.lookups[id(kept[0])].planes
        z = normals(len(kept) * m * count, draws, _REPLICATES, self.seed, like, turn)
        sample, window = points // self.out.sites, points % self.out.sites
        site, valid = self.site[window], self.valid[window]
        at = (sample[:, :, None] * self.inner.sites + site).flatten(1)
        roots, means, parts = {}, {}, {}
        for e in self.leaves:
            C = like.new_zeros(points.shape[0], count * m, count * m, dtype=torch.float64)
            for i, j in itertools.combinations_with_replacement(range(count), 2):
                block = self.lookups[id(e)](
                    sample[:, i], site[:, i], sample[:, j], site[:, j], slot if i != j else torch.zeros_like(slot)
                )
                block = block.double() * valid[:, i, :, None] * valid[:, j, None, :]
                C[:, i * m : (i + 1) * m, j * m : (j + 1) * m] = block
                C[:, j * m : (j + 1) * m, i * m : (i + 1) * m] = block.transpose(1, 2)
            mean = e.mean[at] if isinstance(e, Source) and e.mean is not None else None
            if mean is not None:
                means[id(e)] = mean
                C = C - mean[:, :, None].double() * mean[:, None, :].double()
            roots[id(e)] = _roots(C).to(like)
            parts[id(e)] = z[number[id(e)] * m * count :][: m * count]
        evaluate = Evaluator(at, roots, means, parts)
        value = evaluate(self.expr).reshape(-1, count, m, draws)
        slope = torch.ones_like(value) if self.slope is None else evaluate(self.slope).reshape(value.shape)
        return value.masked_fill(~valid[..., None], -torch.inf), slope


class _Lookup:
    """Covariances between the taps of two windows.

    A lag that is not carried takes the pairs at equal taps: the mean correlation at that lag, and a share of the local
    deviation from it.
    """

    def __init__(self, K: Banded, places: list[Offset], out: Grid, window: Window) -> None:
        grid = K.grid
        slots = {o: k for k, o in enumerate(grid.offsets)}
        self.grid, self.planes = grid, grid.planes(K.values).reshape(-1)
        self.own, self.share = K.diagonal(), between_lags(K)
        p, q, _ = grid.index
        size = Banded((self.own[p] * self.own[q]).clamp_min(0).sqrt(), grid)
        self.mean = K.by_offset() / size.by_offset().clamp_min(1e-30)
        m, n = len(places), len(out.offsets)
        self.slot, self.flip = torch.zeros(n, m, m, dtype=torch.long), torch.zeros(n, m, m, dtype=torch.bool)
        self.stand_in = torch.zeros(n, m, m, dtype=torch.bool)
        self.base, self.shift = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
        for k, o in enumerate(out.offsets):
            base = tuple(x * s for x, s in zip(o, window.stride, strict=True))
            self.base[k] = slots.get(base, -1)
            self.shift[k] = sum(x * s for x, s in zip(base, _strides(grid.sizes), strict=True))
            for i, j in itertools.product(range(m), range(m)):
                lag = tuple(b + y - x for b, x, y in zip(base, places[i], places[j], strict=True))
                mirrored = tuple(-x for x in lag)
                self.flip[k, i, j] = lag not in slots
                self.slot[k, i, j] = slots.get(lag, slots.get(mirrored, 0))
                self.stand_in[k, i, j] = lag not in slots and mirrored not in slots
        if bool(self.stand_in[0].any()):
            raise NoRule(f"max pooling over windows of {m} sites of a large image")
        B = grid.samples
        order = {pair: number for number, pair in enumerate(grid.sample_pairs[0])}
        self.first = torch.tensor([[order[min(a, b), max(a, b)] for b in range(B)] for a in range(B)])
        self.starts = torch.tensor(grid.starts)

    def __call__(self, sample: Tensor, site: Tensor, other: Tensor, site_two: Tensor, slot: Tensor) -> Tensor:
        """Covariance (tuples, m, m) of the sites (tuples, m) of two windows whose offset has number ``slot``."""
        found, flip, stand_in = self.slot[slot], self.flip[slot], self.stand_in[slot]
        i, j = site[:, :, None].expand_as(found), site_two[:, None, :].expand_as(found)
        value = self._at(
            found,
            torch.where(flip, other[:, None, None], sample[:, None, None]),
            torch.where(flip, sample[:, None, None], other[:, None, None]),
            torch.where(flip, j, i),
        )
        if not bool(stand_in.any()):
            return value
        base = self.base[slot]
        near = (
            self._equal(base, sample, other, site, slot)[:, :, None]
            + self._equal(base, sample, other, site_two - self.shift[slot][:, None], slot)[:, None, :]
        ) / 2
        return torch.where(stand_in, near, value)

    def _at(self, found: Tensor, a: Tensor, b: Tensor, site: Tensor) -> Tensor:
        plane = torch.where(found == 0, self.first[a, b], self.starts[found] + a * self.grid.samples + b)
        return self.planes[plane * self.grid.sites + site]

    def _equal(self, base: Tensor, sample: Tensor, other: Tensor, site: Tensor, slot: Tensor) -> Tensor:
        """Stand-in for the lags around that of equal taps, (tuples, m)."""
        S = self.grid.sites
        site = site.clamp(0, S - 1)
        there = (site + self.shift[slot][:, None]).clamp(0, S - 1)
        carried = (base >= 0)[:, None]
        known = base.clamp_min(0)
        local = self._at(
            known[:, None].expand_as(site), sample[:, None].expand_as(site), other[:, None].expand_as(site), site
        )
        size = (self.own[sample[:, None] * S + site] * self.own[other[:, None] * S + there]).clamp_min(0).sqrt()
        mean = size * self.mean[known][:, None]
        return torch.where(carried, mean * (1 - self.share) + local * self.share, mean)


def _strides(sizes: Offset) -> list[int]:
    return [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]


def _roots(C: Tensor) -> Tensor:
    """Square roots of covariances that may be singular, or slightly off."""
    values, vectors = torch.linalg.eigh(C)
    return vectors * values.clamp_min(0).sqrt()[:, None, :]
