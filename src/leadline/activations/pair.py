"""The covariance of two Gaussian points in the form that closed expressions need near |correlation| = 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.gaussian import correlation

__all__ = ["Pair"]


@dataclass(frozen=True)
class Pair:
    """Variances a, b, covariance c, correlation rho and 1 - rho^2, broadcast float64 tensors."""

    a: Tensor
    b: Tensor
    c: Tensor
    rho: Tensor
    complement: Tensor

    @classmethod
    def of(cls, Kaa: Tensor, Kab: Tensor, Kbb: Tensor) -> Pair:
        """Pair of the three entries, with the correlation clipped to [-1, 1] and c made to agree with it.

        Args:
            Kaa: variances of the first points, broadcast, units of z squared.
            Kab: covariances.
            Kbb: variances of the second points.
        Returns:
            Pair in float64.
        Raises:
            ValueError: the entries are not those of a covariance.
        """
        rho = correlation(Kaa, Kab, Kbb)
        a, b = Kaa.detach().to(torch.float64), Kbb.detach().to(torch.float64)
        c = rho * (a.sqrt() * b.sqrt())
        return cls(a, b, c, rho, (1 - rho) * (1 + rho))

    @property
    def angle(self) -> Tensor:
        """arccos(rho), accurate at both ends."""
        return torch.atan2(self.complement.sqrt(), self.rho)

    def determinant(self, shift: float, scale: float = 1.0) -> Tensor:
        """(shift + scale a)(shift + scale b) - (scale c)^2 without cancellation."""
        return shift * shift + shift * scale * (self.a + self.b) + scale * scale * self.a * self.b * self.complement
