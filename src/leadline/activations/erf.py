"""The error function."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from leadline.activations.base import Activation
from leadline.activations.pair import Pair
from leadline.activations.registry import register
from leadline.gaussian import HalfSpaceTerm

__all__ = ["Erf"]


class Erf(Activation):
    r"""erf(z).

    .. math:: \langle\sigma_a\sigma_b\rangle = \tfrac2\pi
              \arcsin\frac{2K_{ab}}{\sqrt{(1+2K_{aa})(1+2K_{bb})}},\qquad \langle\sigma'_a\sigma'_b\rangle =
              \tfrac4\pi [(1+2K_{aa})(1+2K_{bb}) - 4K_{ab}^2]^{-1/2}

    Source: Williams, Computing with Infinite Networks (1997), equation 11.
    """

    closed_second_moment = True
    half_space_terms = (HalfSpaceTerm(-1.0), HalfSpaceTerm(2.0, noise=0.5))

    def __init__(self) -> None:
        super().__init__(torch.erf, name="erf", derivative=lambda z: 2 / math.sqrt(math.pi) * torch.exp(-z * z))

    def _mean(self, K: Tensor) -> Tensor:
        return torch.zeros_like(K)

    def _second_moment(self, K: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan2(2 * K, (1 + 4 * K).sqrt())

    def _derivative_moment(self, K: Tensor) -> Tensor:
        return 4 / math.pi * (1 + 4 * K).rsqrt()

    def _derivative_mean(self, K: Tensor) -> Tensor:
        return 2 / math.sqrt(math.pi) * (1 + 2 * K).rsqrt()

    def _dual(self, pair: Pair) -> Tensor:
        return 2 / math.pi * torch.atan2(2 * pair.c, pair.determinant(1.0, 2.0).sqrt())

    def _dual_derivative(self, pair: Pair) -> Tensor:
        return 4 / math.pi * pair.determinant(1.0, 2.0).rsqrt()


register(("erf",), Erf, functions=(torch.erf, torch.special.erf, Tensor.erf))
