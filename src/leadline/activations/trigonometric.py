"""Sine and cosine, with a frequency and a phase."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from leadline.activations.base import Activation
from leadline.activations.pair import Pair
from leadline.activations.registry import register

__all__ = ["Sine"]


class Sine(Activation):
    r"""sin(w z + f).

    .. math:: \langle\sigma_a\sigma_b\rangle = \tfrac12[e^{-w^2(K_{aa}+K_{bb}-2K_{ab})/2}
              - \cos(2f)\, e^{-w^2(K_{aa}+K_{bb}+2K_{ab})/2}], \quad
              \langle\sigma'_a\sigma'_b\rangle: \text{the same with } + \text{, times } w^2

    Args:
        frequency: w, units of 1/z.
        phase: f, radians.
        name: how reports call it.
    Source: the generating function of the Gaussian.
    """

    closed_second_moment = True

    def __init__(self, frequency: float = 1.0, phase: float = 0.0, name: str = "sin") -> None:
        self.frequency, self.phase = float(frequency), float(phase)
        w, f = self.frequency, self.phase
        # The exact cosine where the phase is a quarter turn: sin(z + pi/2) is off by the rounding of pi/2.
        quarter = f == math.pi / 2
        super().__init__(
            (lambda z: torch.cos(w * z)) if quarter else (lambda z: torch.sin(w * z + f)),
            name=name,
            derivative=(lambda z: -w * torch.sin(w * z)) if quarter else (lambda z: w * torch.cos(w * z + f)),
        )
        self._cos2 = -1.0 if quarter else math.cos(2 * f)
        turn = 1j if quarter else complex(math.cos(f), math.sin(f))
        self.exponential_terms = ((turn / 2j, 1j * w), (-turn.conjugate() / 2j, -1j * w))
        self._sin, self._cos = (1.0, 0.0) if quarter else (math.sin(f), math.cos(f))

    def _mean(self, K: Tensor) -> Tensor:
        return self._sin * torch.exp(-(self.frequency**2) * K / 2)

    def _derivative_mean(self, K: Tensor) -> Tensor:
        return self.frequency * self._cos * torch.exp(-(self.frequency**2) * K / 2)

    def _second_moment(self, K: Tensor) -> Tensor:
        decay = torch.expm1(-2 * self.frequency**2 * K)
        return (1 - self._cos2) / 2 - self._cos2 * decay / 2

    def _derivative_moment(self, K: Tensor) -> Tensor:
        return self.frequency**2 * (1 + self._cos2 * torch.exp(-2 * self.frequency**2 * K)) / 2

    def _parts(self, pair: Pair) -> tuple[Tensor, Tensor]:
        w2 = self.frequency**2
        return torch.exp(-w2 * (pair.a + pair.b - 2 * pair.c) / 2), torch.expm1(-2 * w2 * pair.c)

    def _dual(self, pair: Pair) -> Tensor:
        near, ratio = self._parts(pair)
        small = near * ((1 - self._cos2) - self._cos2 * ratio) / 2
        far = torch.exp(-(self.frequency**2) * (pair.a + pair.b + 2 * pair.c) / 2)
        return (
            torch.where(pair.c > 0, small, (near - self._cos2 * far) / 2)
            if self._cos2 != 1
            else _sinh(self.frequency**2, pair)
        )

    def _dual_derivative(self, pair: Pair) -> Tensor:
        w2 = self.frequency**2
        near = torch.exp(-w2 * (pair.a + pair.b - 2 * pair.c) / 2)
        far = torch.exp(-w2 * (pair.a + pair.b + 2 * pair.c) / 2)
        return w2 * (near + self._cos2 * far) / 2


def _sinh(w2: float, pair: Pair) -> Tensor:
    """exp(-(a + b)/2) sinh(c) at frequency squared w2, without overflow or cancellation."""
    size = pair.c.abs()
    value = -torch.exp(-w2 * (pair.a + pair.b - 2 * size) / 2) * torch.expm1(-2 * w2 * size) / 2
    return torch.where(pair.c < 0, -value, value)


register(("sin", "sine"), Sine, functions=(torch.sin, Tensor.sin))
register(("cos",), lambda: Sine(1.0, math.pi / 2, "cos"), functions=(torch.cos, Tensor.cos))
