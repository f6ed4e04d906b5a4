"""The law of the squared slope of an activation under a Gaussian: the spectrum that one layer's nonlinearity brings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.activations.moments import refuse_jumps
from leadline.gaussian.adaptive import breakpoints
from leadline.gaussian.arguments import checked

__all__ = ["SlopeLaw", "slope_law"]

_NODES = 16
_NEGLIGIBLE = 1e-17


@dataclass(frozen=True)
class SlopeLaw:
    """A law on squared slopes as nodes with weights.

    ``values``: squared slopes, ascending, shape (s,). ``weights``: their probabilities, summing to 1.
    """

    values: Tensor = field(repr=False)
    weights: Tensor = field(repr=False)

    def moment(self, k: int) -> float:
        """Mean of sigma'^(2k)."""
        return float((self.weights * self.values**k).sum())

    @property
    def zero(self) -> float:
        """Probability of a slope of exactly 0."""
        return float(self.weights[self.values == 0].sum())

    @property
    def excess(self) -> float:
        """Relative variance <sigma'^4>/<sigma'^2>^2 - 1: what the layer adds to that of the whole spectrum."""
        return self.moment(2) / self.moment(1) ** 2 - 1

    def transform(self, w: Tensor) -> tuple[Tensor, Tensor]:
        r"""Moment generating function and its derivative.

        .. math:: \psi(w) = \Big\langle\frac{w\sigma'^2}{1 - w\sigma'^2}\Big\rangle

        Args:
            w: points off [1/max, inf), real or complex, any shape.
        Returns:
            (psi, psi'), each of the shape of w.
        """
        live = self.values > 0
        s, p = self.values[live].to(w.dtype), self.weights[live].to(w.dtype)
        rest = 1 / (1 - w[..., None] * s)
        return (p * s * rest).sum(-1) * w, (p * s * rest * rest).sum(-1)

    def compressed(self, count: int = 48) -> SlopeLaw:
        """Law of few nodes with the same moments: the Gauss rule of this one, by the Lanczos recursion.

        Args:
            count: most nodes; 2 count moments are kept.
        Returns:
            The law itself where it has no more nodes.
        """
        if self.values.numel() <= count:
            return self
        Q = torch.zeros(count + 1, self.values.numel(), dtype=torch.float64)
        Q[0] = self.weights.sqrt()
        diagonal, off = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        used = count
        for j in range(count):
            v = self.values * Q[j]
            diagonal[j] = Q[j] @ v
            # against all earlier vectors, twice: the plain three-term recursion loses orthogonality
            for _ in range(2):
                v = v - Q[: j + 1].T @ (Q[: j + 1] @ v)
            off[j] = v.norm()
            if off[j] < 1e-13 * self.values.max():
                used = j + 1
                break
            Q[j + 1] = v / off[j]
        jacobi = torch.diag(diagonal[:used]) + torch.diag(off[: used - 1], 1) + torch.diag(off[: used - 1], -1)
        values, vectors = torch.linalg.eigh(jacobi)
        top = self.values.max()
        return SlopeLaw(values.clamp(torch.zeros_like(top), top), vectors[0] ** 2 / (vectors[0] ** 2).sum())


@checked(negative=("K",))
def slope_law(act: Activation, K: float) -> SlopeLaw:
    """Law of sigma'(z)^2 for z drawn from N(0, K), by Gauss-Legendre panels cut at the kinks.

    Args:
        act: a continuous activation.
        K: variance of the pre-activation, units of z squared.
    Returns:
        The law; atoms (the 0 and 1 of a ReLU) are exact.
    Raises:
        ValueError: K is not positive, or the activation jumps.

    >>> from leadline.activations import activation
    >>> slope_law(activation("relu"), 1.0).weights.tolist()
    [0.5, 0.5]
    """
    if not (math.isfinite(K) and K > 0):
        raise ValueError(f"K must be a positive number, got {K}; pass the variance of the pre-activation")
    refuse_jumps(act.name, act.jumps, "<sigma'^2>")
    sd = torch.tensor([math.sqrt(K)], dtype=torch.float64)
    ends = breakpoints(sd, act.kinks)[0]
    left, right = ends[:-1], ends[1:]
    x, w = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(_NODES))
    half = ((right - left) / 2)[:, None]
    z = ((right + left) / 2)[:, None] + half * x
    weight = half * w * torch.exp(-0.5 * (z / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
    square = act.derivative(z).to(torch.float64) ** 2
    values, inverse = torch.unique(square.reshape(-1), return_inverse=True)
    weights = torch.zeros_like(values).index_add(0, inverse, weight.reshape(-1))
    keep = weights > _NEGLIGIBLE
    values, weights = values[keep], weights[keep]
    # a sum over symmetric panels is 1/2 up to rounding: make what adds up to one do so
    weights = weights / weights.sum()
    return SlopeLaw(values, weights.round(decimals=15))
