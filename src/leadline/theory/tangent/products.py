"""Mean products of an activation and its derivatives at several jointly Gaussian points, on one set of nodes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, lru_cache

import torch
from scipy.special import roots_hermitenorm
from torch import Tensor

from leadline.activations import Activation
from leadline.activations.moments import autodiff
from leadline.gaussian import expectation
from leadline.theory.tangent.moments import slope_activation

__all__ = ["MOST_INPUTS", "MeanProducts", "Products", "nodes", "orders"]

MOST_INPUTS = 5

_MOST_NODES = 300_000
_LONGEST = 400
_SHORTEST = 6
_NEGLIGIBLE = 1e-17
_ORDERS = 6


def orders(variances: Sequence[float]) -> tuple[int, ...]:
    """Gauss-Hermite order of each direction: more where the variance is larger, within a number of nodes in all.

    Args:
        variances: of the directions, each positive.

    Returns:
        One order a direction, from 6 (enough for a small variance) to 400.
    """
    low, high = 0.0, _LONGEST / min(variances, default=1.0)
    for _ in range(60):
        middle = (low + high) / 2
        fits = math.prod(_order(middle * v) for v in variances) <= _MOST_NODES
        low, high = (middle, high) if fits else (low, middle)
    return tuple(_order(low * v) for v in variances)


def _order(wanted: float) -> int:
    return min(_LONGEST, _SHORTEST + int(wanted))


@lru_cache(maxsize=8)
def nodes(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite product nodes (N, rank) and weights (N,) of independent standard normal variables.

    Args:
        sizes: order of each variable.

    Returns:
        Nodes and weights, float64, without the nodes whose weight no sum would notice.
    """
    if not sizes:
        return torch.zeros(1, 0, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    x, w = zip(*((torch.from_numpy(v) for v in roots_hermitenorm(n)) for n in sizes))
    weight = torch.ones(1, dtype=torch.float64)
    for v in w:
        weight = (weight[:, None] * v / math.sqrt(2 * math.pi)).reshape(-1)
    keep = weight > _NEGLIGIBLE * weight.max()
    grids = torch.meshgrid(*x, indexing="ij")
    return torch.stack([g.reshape(-1)[keep] for g in grids], dim=1), weight[keep]


class MeanProducts(ABC):
    r"""Expectations at z ~ N(0, K) of products of derivatives :math:`s_p(z_a) = s^{(p)}(z_a)` at m points."""

    @property
    @abstractmethod
    def error(self) -> float:
        """Relative error of those that were asked for."""

    @abstractmethod
    def two(self, p: int, q: int) -> Tensor:
        """<s_p(z_a) s_q(z_b)>, shape (m, m)."""

    @abstractmethod
    def four(self, p: int, q: int, r: int, t: int) -> Tensor:
        """<s_p(z_a) s_q(z_b) s_r(z_c) s_t(z_d)>, shape (m, m, m, m)."""

    def second(self, p: int, q: int, X: Tensor) -> Tensor:
        r"""Second derivatives of a mean product, contracted: sum over a, b of <d_a d_b s_p(z_i) s_q(z_j)> X_ab.

        Args:
            p: order of the first factor.
            q: order of the second factor.
            X: shape (m, m, ...).

        Returns:
            Shape (m, m, ...), the axes i, j first.
        """
        return (
            torch.einsum("ij,ii...->ij...", self.two(p + 2, q), X)
            + torch.einsum("ij,ij...->ij...", self.two(p + 1, q + 1), X + X.transpose(0, 1))
            + torch.einsum("ij,jj...->ij...", self.two(p, q + 2), X)
        )

    def fourth(self, p: int, q: int, X: Tensor) -> Tensor:
        r"""Fourth derivatives, contracted: sum over a, b, c, d of <d_a d_b d_c d_d s_p(z_i) s_q(z_j)> X_abcd.

        Args:
            p: order of the first factor.
            q: order of the second factor.
            X: shape (m, m, m, m).

        Returns:
            Shape (m, m).
        """
        out = torch.zeros_like(X[0, 0])
        for choice in range(16):
            axes = "".join("ij"[choice >> bit & 1] for bit in range(4))
            out = out + torch.einsum(f"ij,{axes}->ij", self.two(p + axes.count("i"), q + axes.count("j")), X)
        return out


class Products(MeanProducts):
    """Mean products of a smooth activation, all of them on one set of Gauss-Hermite product nodes.

    Args:
        activation: smooth.
        K: covariance, shape (m, m); it may be singular (equal inputs).
    """

    def __init__(self, activation: Activation, K: Tensor) -> None:
        values, vectors = torch.linalg.eigh(K)
        alive = values > 1e-13 * values.max().clamp_min(1e-300)
        x, self._weight = (t.to(K.device) for t in nodes(orders(values[alive].tolist())))
        self._z = x @ (vectors[:, alive] * values[alive].sqrt()).T
        self._activation, self._K = activation, K
        self._two: dict[tuple[int, int], Tensor] = {}

    @property
    def error(self) -> float:
        """Largest relative error of <s'''^2>, against adaptive quadrature."""
        second = slope_activation(self._activation).derivative
        exact = expectation(lambda z: autodiff(second, z) ** 2, self._K.diagonal(), rtol=1e-9).value
        found = self.two(3, 3).diagonal()
        return float(torch.where(exact > 0, (found - exact).abs() / exact.clamp_min(1e-300), found).max())

    @cached_property
    def _s(self) -> list[Tensor]:
        """S and its first five derivatives at the nodes, shape (N, m) each."""
        f = self._activation.derivative
        out = [self._activation.fn(self._z), f(self._z)]
        while len(out) < _ORDERS:
            f = (lambda g: lambda z: autodiff(g, z))(f)
            out.append(f(self._z))
        return [v.to(self._z.dtype) for v in out]

    def two(self, p: int, q: int) -> Tensor:
        """<s_p(z_a) s_q(z_b)>, shape (m, m)."""
        if (p, q) not in self._two:
            self._two[p, q] = (self._s[p] * self._weight[:, None]).T @ self._s[q]
        return self._two[p, q]

    def four(self, p: int, q: int, r: int, t: int) -> Tensor:
        """<s_p(z_a) s_q(z_b) s_r(z_c) s_t(z_d)>, shape (m, m, m, m)."""
        m = self._z.shape[1]
        left, right = (self._pairs(*pair) for pair in ((p, q), (r, t)))
        return ((left * self._weight[:, None]).T @ right).reshape(m, m, m, m)

    def _pairs(self, p: int, q: int) -> Tensor:
        return (self._s[p][:, :, None] * self._s[q][:, None, :]).reshape(self._z.shape[0], -1)
