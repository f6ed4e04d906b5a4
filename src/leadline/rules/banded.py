"""A kernel over the points of images that holds only some offsets between sites: what a full matrix would not fit.

It takes part in the same elementwise algebra as a (points, points) tensor: sums, products, diagonals, outer products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from leadline.rules.banded_grid import Grid
from leadline.rules.banded_offsets import half_plane

__all__ = ["Banded", "band", "dense"]

_DENSE = 2048  # points up to which a banded kernel can be filled in to a full matrix


class Banded:
    """Values of a kernel at the pairs of a :class:`~leadline.rules.banded_grid.Grid`.

    Args:
        values: K(p, q) of each pair, shape (pairs,).
        grid: the pairs.
        back: K(q, p) where the kernel is not symmetric.
        comb: whether the kernel may be zero at offsets that a coarser map does not have.
        centred: whether the sums of its rows over all points are known to be zero.
        loose: relative error of its values between different points, beside that of all of it.
    """

    __slots__ = ("_rows", "back", "centred", "comb", "grid", "loose", "values")

    def __init__(
        self,
        values: Tensor,
        grid: Grid,
        back: Tensor | None = None,
        comb: bool = False,
        *,
        centred: bool = False,
        loose: float = 0.0,
    ) -> None:
        self.values, self.grid, self.back, self.comb, self.centred = values, grid, back, comb, centred
        self.loose = loose
        self._rows: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(points, points)."""
        return self.grid.points, self.grid.points

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Of the values."""
        return self.values.device

    @property
    def T(self) -> Banded:
        """The transpose."""
        return self if self.back is None else Banded(self.back, self.grid, self.values, self.comb)

    def diagonal(self) -> Tensor:
        """K(p, p), shape (points,)."""
        return self.values[: self.grid.points]

    def new_ones(self, *size: int) -> Tensor:
        """As of a tensor."""
        return self.values.new_ones(*size)

    def new_zeros(self, *size: int) -> Tensor:
        """As of a tensor."""
        return self.values.new_zeros(*size)

    def new_tensor(self, value: float) -> Tensor:
        """As of a tensor."""
        return self.values.new_tensor(value)

    def square(self) -> Banded:
        """Elementwise."""
        return self * self

    def sum(self) -> Tensor:
        """Sum over all pairs of points, by quadrature over the offsets."""
        return self._weighted(self.values if self.back is None else (self.values + self.back) / 2)

    def mean(self) -> Tensor:
        """Mean over all pairs of points."""
        return self.sum() / self.grid.points**2

    def _weighted(self, values: Tensor) -> Tensor:
        by_slot = self.by_offset(values).to(torch.float64)
        total = 2 * (by_slot * self.grid.weights(self.comb).to(by_slot)).sum() - values[: self.grid.points].sum(
            dtype=torch.float64
        )
        return total.to(values)

    def by_offset(self, values: Tensor | None = None) -> Tensor:
        """Sum of the carried pairs of each offset, shape (offsets,)."""
        values = self.values if values is None else values
        sizes = [n * len(p) for n, p in zip(self.grid.counts, self.grid.sample_pairs, strict=True)]
        return torch.stack([part.sum() for part in values.split(sizes)])

    def row_means(self) -> Tensor:
        """Mean over all points q of K(p, q), shape (points,)."""
        if self._rows is None:
            self._rows = self._row_means()
        return self._rows

    def _row_means(self) -> Tensor:
        """Mean over all points q of K(p, q), shape (points,); each class of offsets by its carried members."""
        # averaged is K(p, q) / sqrt K(q, q): points differ in scale, and a row has few carried partners
        grid = self.grid
        p, q, _ = grid.index
        P = grid.points
        back = self.values if self.back is None else self.back
        own = grid.counts[0] * len(grid.sample_pairs[0])
        total = self.diagonal().double()
        scale = total.clamp_min(0).sqrt()
        scale = scale if bool((scale > 0).all()) else torch.ones_like(scale)
        total = total.index_add(0, p[P:own], self.values[P:own].double())
        total = total.index_add(0, q[P:own], back[P:own].double())
        groups = grid.members(self.comb)
        partners = _partners(grid, [g.number for g in groups] if len(groups) > 1 else None, scale)
        for group, others in zip(groups, partners, strict=False):
            w, i, j = group.weights, group.first, group.second
            here, there = self.values[own:], back[own:]
            if group.rows is not None:
                here, there = here.index_select(0, group.rows), there.index_select(0, group.rows)
            sums, norm = torch.zeros_like(scale), torch.zeros_like(scale)
            sums.index_add_(0, i, w * here).index_add_(0, j, w * there)
            norm.index_add_(0, i, w * scale.index_select(0, j)).index_add_(0, j, w * scale.index_select(0, i))
            overall = sums.sum() / norm.sum().clamp_min(1e-300)
            total += others * torch.where(norm > 0, sums / norm.clamp_min(1e-300), overall)
        return (total / P).to(self.values)

    def meet(self, other: Banded) -> Banded:
        """Product with another kernel whose sum over all pairs is wanted.

        Where this one's rows sum to zero (a derivative behind a batch norm), what the other has in common over a row
        meets nothing, and must not be left to the quadrature.

        Returns:
            The product, pair by pair.
        """
        if self.centred and not other.centred:
            p, q, _ = self.grid.index
            r = other.row_means()
            other = Banded(
                other.values - r.index_select(0, p) - r.index_select(0, q) + r.mean(), self.grid, comb=other.comb
            )
        return self * other

    def quadrature_error(self) -> Tensor:
        """Standard error of :meth:`mean` from how well each offset's mean is foretold by the others'."""
        grid = self.grid
        if grid.complete:
            return self.values.new_zeros(())
        sizes = torch.tensor(
            [n * len(p) for n, p in zip(grid.counts, grid.sample_pairs, strict=True)], dtype=torch.float64
        )
        means = self.by_offset().double() / sizes
        residual = means - grid.left_out(self.comb) @ means
        share = 2 * sizes * grid.weights(self.comb) / grid.points**2
        return (share[1:] * residual[1:]).square().sum().sqrt()

    def loose_error(self) -> Tensor:
        """What :attr:`loose` makes of :meth:`sum`."""
        return self.loose * (self.sum() - self.diagonal().sum()).abs()

    def select(self, offset: int = 0) -> Tensor:
        """Kernel between samples at equal sites, shape (sites, samples, samples)."""
        B, S = self.grid.samples, self.grid.sites
        out = self.values.new_zeros(S, B, B)
        for plane, (a, b) in enumerate(self.grid.sample_pairs[0]):
            out[:, a, b] = self.values[plane * S : (plane + 1) * S]
            out[:, b, a] = (self.values if self.back is None else self.back)[plane * S : (plane + 1) * S]
        return out

    def _with(self, other: Any, f: Callable[[Any, Any], Tensor], linear: bool = False) -> Any:
        if isinstance(other, Banded):
            if other.grid is not self.grid:
                raise ValueError(f"two kernels on different pairs ({other.grid} and {self.grid}) cannot be combined.")
            back = None
            if self.back is not None or other.back is not None:
                back = f(
                    self.values if self.back is None else self.back, other.values if other.back is None else other.back
                )
            centred = linear and self.centred and other.centred
            comb, loose = self.comb or other.comb, max(self.loose, other.loose)
            return Banded(f(self.values, other.values), self.grid, back, comb, centred=centred, loose=loose)
        if isinstance(other, Tensor) and other.dim() == 2:
            return f(dense(self), other)
        back = None if self.back is None else f(self.back, other)
        centred = self.centred and not linear
        return Banded(f(self.values, other), self.grid, back, self.comb, centred=centred, loose=self.loose)

    def __add__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a + b, linear=True)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a - b, linear=True)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a * b)

    def __truediv__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a / b)

    __radd__ = __add__
    __rmul__ = __mul__

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A full matrix or a number beside a banded kernel."""
        name = getattr(func, "__name__", "")
        if (
            len(args) == 2
            and name in ("add", "mul", "__radd__", "__rmul__", "__add__", "__mul__")
            and isinstance(args[1], Banded)
        ):
            return args[1]._with(args[0], (lambda a, b: a + b) if "add" in name else lambda a, b: a * b)
        return NotImplemented


def _partners(grid: Grid, classes: list[int] | None, scale: Tensor) -> list[Tensor]:
    """Sum of a vector over the points of each class of offsets from every point, other sites only; each (points,)."""
    by_site = scale.reshape(grid.samples, -1).sum(0)
    here = torch.stack(torch.meshgrid(*[torch.arange(n) for n in grid.sizes], indexing="ij"), 0).reshape(
        len(grid.sizes), -1
    )

    def sharing(ratios: list[int]) -> Tensor:
        """Sum over the sites that differ by multiples of the ratios."""
        number = torch.zeros_like(here[0])
        for along, ratio in zip(here, ratios, strict=True):
            number = number * ratio + along % ratio
        return torch.zeros(math.prod(ratios), dtype=by_site.dtype).index_add(0, number, by_site)[number] - by_site

    if classes is None:
        return [sharing([1] * len(grid.sizes)).repeat(grid.samples)]
    out = []
    for c in classes:
        levels = [grid.level if c < 0 else grid.plan.levels[c], *grid.plan.levels[c + 1 : c + 2]]
        sums = [sharing([max(t // u, 1) for t, u in zip(level, grid.level, strict=True)]) for level in levels]
        out.append((sums[0] - (sums[1] if len(sums) > 1 else 0)).repeat(grid.samples))
    return out


def band(K: Banded | Tensor, grid: Grid) -> Banded:
    """A full matrix at the pairs of a grid."""
    if isinstance(K, Banded):
        return K
    p, q, _ = grid.index
    return Banded(K[p, q], grid)


def dense(K: Banded | Tensor) -> Tensor:
    """The full matrix; offsets that are not carried are interpolated.

    Returns:
        Shape (points, points).

    Raises:
        ValueError: the matrix would have too many entries.
    """
    if isinstance(K, Tensor):
        return K
    grid, S = K.grid, K.grid.sites
    if grid.points > _DENSE:
        raise ValueError(
            f"a step needs all pairs of {grid.points} points, which do not fit; pass smaller images to predict it."
        )
    wanted = half_plane(grid.sizes)
    out = K.values.new_zeros(grid.points, grid.points)
    p, q, _ = grid.index
    table = grid.table(wanted, K.comb).to(K.values) if len(grid.offsets) > 1 else None
    back = K.values if K.back is None else K.back
    if table is not None:
        planes, other = grid.planes(K.values), grid.planes(back)
        valid = grid.planes(torch.ones_like(K.values))
        B = grid.samples
        for number, o in enumerate(wanted.tolist()):
            # an offset's pairs are the carried offsets' nearest pairs, at the same first site where that exists
            w = table[number]
            top = [int(k) for k in (w > 1e-3).nonzero()[:, 0]]
            if not top:
                continue
            here = (
                torch.arange(S)
                .reshape(grid.sizes)[
                    tuple(slice(max(0, -x), n - max(0, x)) for x, n in zip(o, grid.sizes, strict=True))
                ]
                .reshape(-1)
            )
            shift = sum(x * math.prod(grid.sizes[d + 1 :]) for d, x in enumerate(o))
            for place, (a, b) in enumerate([(a, b) for a in range(B) for b in range(B)]):
                value, norm, mirror = (K.values.new_zeros(S) for _ in range(3))
                for k in top:
                    plane = grid.starts[k + 1] + place
                    v = planes[plane].reshape(-1)
                    inside = valid[plane].reshape(-1)
                    mean, mean_back = v.sum() / inside.sum(), other[plane].sum() / inside.sum()
                    value += w[k] * torch.where(inside > 0, v, mean)
                    mirror += w[k] * torch.where(inside > 0, other[plane].reshape(-1), mean_back)
                    norm += w[k]
                out[a * S + here, b * S + here + shift] = (value / norm)[here]
                out[b * S + here + shift, a * S + here] = (mirror / norm)[here]
    out[p, q] = K.values
    out[q, p] = back
    return out
