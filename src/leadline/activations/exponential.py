"""exp(z) and the Gaussian bump exp(-z^2)."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.activations.base import Activation
from leadline.activations.pair import Pair
from leadline.activations.registry import register

__all__ = ["Exponential", "GaussianBump"]


class Exponential(Activation):
    r"""exp(z).

    .. math:: \langle\sigma_a\sigma_b\rangle = \langle\sigma'_a\sigma'_b\rangle
              = e^{(K_{aa}+K_{bb}+2K_{ab})/2}

    Source: the generating function of the Gaussian.
    """

    closed_second_moment = True
    exponential_terms = ((1.0, 1.0),)

    def __init__(self) -> None:
        super().__init__(torch.exp, name="exp", derivative=torch.exp)

    def _mean(self, K: Tensor) -> Tensor:
        return torch.exp(K / 2)

    def _derivative_mean(self, K: Tensor) -> Tensor:
        return torch.exp(K / 2)

    def _second_moment(self, K: Tensor) -> Tensor:
        return torch.exp(2 * K)

    def _derivative_moment(self, K: Tensor) -> Tensor:
        return torch.exp(2 * K)

    def _fourth_moment(self, K: Tensor) -> Tensor:
        return torch.exp(8 * K)

    def _dual(self, pair: Pair) -> Tensor:
        return torch.exp((pair.a + pair.b + 2 * pair.c) / 2)

    def _dual_derivative(self, pair: Pair) -> Tensor:
        return self._dual(pair)


class GaussianBump(Activation):
    r"""exp(-z^2).

    .. math:: \langle\sigma_a\sigma_b\rangle = D^{-1/2},\quad
              \langle\sigma'_a\sigma'_b\rangle = 4K_{ab}D^{-3/2},\quad D = (1+2K_{aa})(1+2K_{bb}) - 4K_{ab}^2

    Source: the generating function of the Gaussian.
    """

    closed_second_moment = True
    bump_rate = 1.0

    def __init__(self) -> None:
        super().__init__(lambda z: torch.exp(-z * z), name="gaussian", derivative=lambda z: -2 * z * torch.exp(-z * z))

    def _mean(self, K: Tensor) -> Tensor:
        return (1 + 2 * K).rsqrt()

    def _derivative_mean(self, K: Tensor) -> Tensor:
        return torch.zeros_like(K)

    def _second_moment(self, K: Tensor) -> Tensor:
        return (1 + 4 * K).rsqrt()

    def _derivative_moment(self, K: Tensor) -> Tensor:
        return 4 * K * (1 + 4 * K) ** -1.5

    def _fourth_moment(self, K: Tensor) -> Tensor:
        return (1 + 8 * K).rsqrt()

    def _dual(self, pair: Pair) -> Tensor:
        return pair.determinant(1.0, 2.0).rsqrt()

    def _dual_derivative(self, pair: Pair) -> Tensor:
        return 4 * pair.c * pair.determinant(1.0, 2.0) ** -1.5


register(("exp",), Exponential, functions=(torch.exp, Tensor.exp), template=False)
register(("gaussian",), GaussianBump)
