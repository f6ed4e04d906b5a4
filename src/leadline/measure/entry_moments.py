"""Mean, covariance and relative spread of a random symmetric matrix, with standard errors, draw by draw."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from leadline.theory import Estimate

__all__ = ["EntryMoments", "EntrySums"]


class EntrySums:
    """Running sums over draws of the entries on and above the diagonal of (m, m) matrices.

    Sums are taken about the mean of the first chunk, so that a small spread is not lost to rounding.
    """

    def __init__(self, size: int, width: int) -> None:
        """Sums of nothing yet; ``size`` is m, ``width`` the channels that the matrix is a mean over."""
        self.size, self.width, self.count = size, width, 0
        self._sums: list[Tensor] = []
        self._centre: Tensor | None = None

    def add(self, matrices: Tensor) -> None:
        """Add draws, shape (draws, m, m)."""
        a, b = torch.triu_indices(self.size, self.size, device=matrices.device)
        entries = matrices[:, a, b]
        if self._centre is None:
            self._centre = entries.mean(0)
        d = entries - self._centre
        square = d.square()
        new = [d.sum(0), d.T @ d, square.T @ d, square.T @ square]
        self._sums = [old + more for old, more in zip(self._sums, new)] if self._sums else new
        self.count += matrices.shape[0]

    def moments(self) -> EntryMoments:
        """Moments of all draws so far.

        Returns:
            Means, and central products of second to fourth order.

        Raises:
            ValueError: there are fewer than two draws.
        """
        if self.count < 2 or self._centre is None:
            raise ValueError(f"got {self.count} draws: a spread takes at least two.")
        m1, s11, s21, s22 = (s / self.count for s in self._sums)
        row, column = m1[:, None], m1[None, :]
        s20 = s11.diagonal()
        # products about the true mean, from those about the first chunk's
        c11 = s11 - row * column
        c21 = s21 - column * s20[:, None] - 2 * row * s11 + 2 * row.square() * column
        c22 = s22 - 2 * column * s21 - 2 * row * s21.T + 4 * row * column * s11
        c22 = c22 + column.square() * s20[:, None] + row.square() * s20[None, :] - 3 * (row * column).square()
        return EntryMoments(self.size, self.width, self.count, self._centre + m1, c11, c21, c22)


@dataclass(frozen=True)
class EntryMoments:
    r"""Moments of a random symmetric matrix G (a layer's kernel given the layers before it) over networks.

    Entries are indexed by the pairs P = (a, b), a <= b, of inputs, in the order of :attr:`pairs`.

    Args:
        size: m, number of inputs.
        width: n, number of channels that G is a mean over; the vertex is n times a covariance.
        count: number of networks.
        entries: mean of each pair's entry, shape (P,).
        product: <d_P d_Q>, shape (P, P), of the deviations d from the mean.
        product21: <d_P^2 d_Q>, shape (P, P).
        product22: <d_P^2 d_Q^2>, shape (P, P).
    """

    size: int
    width: int
    count: int
    entries: Tensor
    product: Tensor
    product21: Tensor
    product22: Tensor

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of inputs (a, b), a <= b."""
        a, b = torch.triu_indices(self.size, self.size)
        return list(zip(a.tolist(), b.tolist()))

    @cached_property
    def mean(self) -> Tensor:
        """Mean of G, shape (m, m), units of z squared."""
        return self._matrix(self.entries)

    @cached_property
    def mean_error(self) -> Tensor:
        """Standard error of :attr:`mean`."""
        return self._matrix((self.product.diagonal().clamp_min(0) / self.count).sqrt())

    @cached_property
    def vertex(self) -> Tensor:
        """Four-point vertex V = n Cov(G_P, G_Q), shape (P, P), without bias; units of z to the fourth."""
        return self.product * (self.width * self.count / (self.count - 1))

    @cached_property
    def vertex_error(self) -> Tensor:
        """Standard error of :attr:`vertex`."""
        variance = (self.product22 - self.product.square()).clamp_min(0) / self.count
        return self.width * variance.sqrt()

    @cached_property
    def spread(self) -> Tensor:
        """V/(n K^2) = Var(G_aa) / (E G_aa)^2 of each input, shape (m,); 0 where K is 0."""
        K, variance = self._diagonal
        return torch.where(K > 0, variance / K.square(), torch.zeros_like(K))

    @cached_property
    def spread_error(self) -> Tensor:
        """Standard error of :attr:`spread` (of the ratio, to first order in 1/networks)."""
        return self._spread_covariance.diagonal().clamp_min(0).sqrt()

    @property
    def mean_spread(self) -> Estimate:
        """The spread averaged over inputs: what a row's "spread" is."""
        error = float(self._spread_covariance.mean().clamp_min(0).sqrt())
        return Estimate(float(self.spread.mean()), error)

    @property
    def excess_kurtosis(self) -> Tensor:
        """E z^4/(E z^2)^2 - 3 = 3 V/(n K^2) of a unit whose law given G is N(0, G), shape (m,)."""
        return 3 * self.spread

    @property
    def excess_kurtosis_error(self) -> Tensor:
        """Standard error of :attr:`excess_kurtosis`."""
        return 3 * self.spread_error

    def _matrix(self, entries: Tensor) -> Tensor:
        a, b = torch.triu_indices(self.size, self.size, device=entries.device)
        out = entries.new_zeros(self.size, self.size)
        out[a, b] = entries
        out[b, a] = entries
        return out

    @cached_property
    def _on_diagonal(self) -> Tensor:
        return torch.tensor([i for i, (a, b) in enumerate(self.pairs) if a == b], device=self.entries.device)

    @cached_property
    def _diagonal(self) -> tuple[Tensor, Tensor]:
        i = self._on_diagonal
        return self.entries[i], self.product.diagonal()[i] * (self.count / (self.count - 1))

    @cached_property
    def _spread_covariance(self) -> Tensor:
        # influence of one network on the ratio: (d^2 - v)/K^2 - 2 v d/K^3
        i = self._on_diagonal
        K, v = self._diagonal
        safe = torch.where(K > 0, K, torch.ones_like(K))
        slope, weight = 2 * v / safe**3, 1 / safe**2
        c11, c21, c22 = (t[i][:, i] for t in (self.product, self.product21, self.product22))
        total = weight[:, None] * weight[None, :] * (c22 - v[:, None] * v[None, :])
        total = total - weight[:, None] * slope[None, :] * c21 - slope[:, None] * weight[None, :] * c21.T
        total = total + slope[:, None] * slope[None, :] * c11
        return total / self.count
