"""Linear maps over the points of images that need no matrix: the mean over sites, centring over a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.rules.banded import Banded, dense
from leadline.rules.banded_grid import Grid

__all__ = ["Centring", "PointMap", "SiteMean"]


class PointMap(ABC):
    """A map A over points: ``size`` points come out; ``grid``: their pairs, None for a full matrix."""

    size: int
    grid: Grid | None

    @abstractmethod
    def kernel(self, K: Banded) -> Tensor | Banded:
        """A K A^T."""

    @abstractmethod
    def left(self, K: Banded) -> Banded:
        """A K."""

    @abstractmethod
    def vector(self, m: Tensor) -> Tensor:
        """A m."""

    @abstractmethod
    def draws(self, h: Tensor) -> Tensor:
        """H A^T, channels first."""

    @abstractmethod
    def adjoint(self, D: Tensor | Banded) -> Banded:
        """A^T D A."""


@dataclass(frozen=True, eq=False)
class Centring(PointMap):
    """Takes off the mean over all points, then multiplies by ``factor``."""

    grid: Grid
    factor: float

    @property
    def size(self) -> int:  # type: ignore[override]
        """Points."""
        return self.grid.points

    def kernel(self, K: Banded) -> Banded:
        """f^2 (K_pq - r_p - r_q + mean of r), with r the means of the rows."""
        r = K.row_means()
        p, q, _ = K.grid.index
        shift = r - r.mean() / 2
        values = (K.values - shift.index_select(0, p) - shift.index_select(0, q)) * self.factor**2
        return Banded(values, K.grid, comb=K.comb, centred=True)

    def left(self, K: Banded) -> Banded:
        """F (K_pq - mean over p)."""
        r = K.T.row_means()
        p, q, _ = K.grid.index
        back = K.values if K.back is None else K.back
        one, two = (x - r.index_select(0, i) for x, i in ((K.values, q), (back, p)))
        return Banded(one * self.factor, K.grid, two * self.factor, K.comb)

    def vector(self, m: Tensor) -> Tensor:
        """F (m - its mean)."""
        return (m - m.mean()) * self.factor

    def draws(self, h: Tensor) -> Tensor:
        """Each channel without its mean."""
        return (h - h.mean(1, keepdim=True)) * self.factor

    def adjoint(self, D: Tensor | Banded) -> Banded:
        """The same map: it is symmetric."""
        return self.kernel(D)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class SiteMean(PointMap):
    """The mean over the sites of each sample, times ``factor``."""

    inner: Grid
    factor: float = 1.0
    grid: None = None

    @property
    def size(self) -> int:  # type: ignore[override]
        """Samples."""
        return self.inner.samples

    def kernel(self, K: Banded) -> Tensor:
        """Mean over site pairs by quadrature over the offsets, shape (samples, samples).

        Returns:
            What is averaged is the correlation: sites differ in scale, and the carried pairs are few.
        """
        grid = self.inner
        weights = grid.weights(K.comb)
        B, S = grid.samples, grid.sites
        back = K.values if K.back is None else K.back
        scale = K.diagonal().double().clamp_min(0).sqrt()
        scale = scale if bool((scale > 0).all()) else torch.ones_like(scale)
        p, q, _ = grid.index
        sizes = (scale.index_select(0, p) * scale.index_select(0, q)).to(K.values)
        same, sums, norm = (torch.zeros(B, B, dtype=torch.float64) for _ in range(3))
        at = 0
        for k, (count, pairs) in enumerate(zip(grid.counts, grid.sample_pairs, strict=True)):
            for a, b in pairs:
                rows = slice(at, at + count)
                at += count
                part, other = K.values[rows].sum(dtype=torch.float64), back[rows].sum(dtype=torch.float64)
                if k == 0:
                    same[a, b], same[b, a] = part, other
                    continue
                size = weights[k] * sizes[rows].sum(dtype=torch.float64)
                sums[a, b] += weights[k] * part
                sums[b, a] += weights[k] * other
                norm[a, b] += size
                norm[b, a] += size
        by_sample = scale.reshape(B, S)
        apart = torch.outer(by_sample.sum(1), by_sample.sum(1)) - by_sample @ by_sample.T
        total = same + torch.where(norm > 0, apart * sums / norm.clamp_min(1e-300), torch.zeros_like(sums))
        return _positive(total * (self.factor / S) ** 2).to(K.values)

    def left(self, K: Banded) -> Banded:
        """Not needed where a mean over sites ends the image part of a network."""
        raise ValueError(
            "the mean over sites of an image and its pixels are not compared at this size; pass smaller images."
        )

    def vector(self, m: Tensor) -> Tensor:
        """Mean of each sample."""
        return m.reshape(self.size, -1).mean(1) * self.factor

    def draws(self, h: Tensor) -> Tensor:
        """Mean of each sample of each channel."""
        return h.reshape(h.shape[0], self.size, -1).mean(2) * self.factor

    def adjoint(self, D: Tensor | Banded) -> Banded:
        """The derivative of a sample, spread over all its pairs of sites."""
        full = dense(D) * (self.factor / self.inner.sites) ** 2
        p, q, _ = self.inner.index
        return Banded(full[p // self.inner.sites, q // self.inner.sites], self.inner)


def _positive(K: Tensor) -> Tensor:
    """The nearest covariance to a symmetric matrix: the quadrature errs, and samples may be all but the same."""
    values, vectors = torch.linalg.eigh(K)
    return K if float(values[0]) >= 0 else vectors * values.clamp_min(0) @ vectors.T
