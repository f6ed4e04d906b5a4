"""ELU, CELU and SELU: linear for z > 0, a scaled exponential for z < 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from leadline.activations.base import Activation
from leadline.activations.registry import register
from leadline.gaussian import Expectation

__all__ = ["Elu"]

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946
_SMALL = 0.05


class Elu(Activation):
    r"""s z for z > 0 and s alpha (exp(z/b) - 1) for z < 0.

    .. math:: g(K) = s^2\{K/2 + \alpha^2[E(2) - 2E(1) + \tfrac12]\},\quad
              E(k) = e^{k^2K/2b^2}\Phi(-k\sqrt K/b) = \tfrac12\operatorname{erfcx}(k\sqrt{K/2b^2})

    and :math:`\langle\sigma'^2\rangle = s^2\{\tfrac12 + (\alpha/b)^2 E(2)\}`. Below K = 0.05 b^2 the bracket
    cancels and quadrature takes over; products at two points are always integrated.

    Args:
        alpha: depth of the negative branch.
        width: b, units of z.
        scale: s.
        name: how reports call it.
    Source: elementary; the two-point kernel is in Tsuchida et al., Avoiding Kernel Fixed Points (2021).
    """

    def __init__(self, alpha: float = 1.0, width: float = 1.0, scale: float = 1.0, name: str = "elu") -> None:
        self.alpha, self.width, self.scale = float(alpha), float(width), float(scale)
        super().__init__(self._evaluate, name=name, kinks=(0.0,), derivative=self._slope)

    def _evaluate(self, z: Tensor) -> Tensor:
        negative = self.alpha * torch.expm1(z.clamp_max(0) / self.width)
        return self.scale * (z.clamp_min(0) + negative)

    def _slope(self, z: Tensor) -> Tensor:
        negative = self.alpha / self.width * torch.exp(z.clamp_max(0) / self.width)
        return self.scale * torch.where(z > 0, 1.0, negative)

    def _tilted(self, k: int, K: Tensor) -> Tensor:
        """E(k): mean of exp(k z / b) over z < 0."""
        return torch.special.erfcx(k * (K / 2).sqrt() / self.width) / 2

    def _derivative_moment(self, K: Tensor) -> Tensor:
        return self.scale**2 * (0.5 + (self.alpha / self.width) ** 2 * self._tilted(2, K))

    def _derivative_mean(self, K: Tensor) -> Tensor:
        return self.scale * (0.5 + self.alpha / self.width * self._tilted(1, K))

    def _second_moment(self, K: Tensor) -> Expectation | Tensor:
        closed = self.scale**2 * (K / 2 + self.alpha**2 * (self._tilted(2, K) - 2 * self._tilted(1, K) + 0.5))
        small = _SMALL * self.width**2 > K
        if not bool(small.any()):
            return closed
        out = super()._second_moment(torch.where(small, K, 1.0))
        if not isinstance(out, Expectation):
            return torch.where(small, out, closed)
        error = torch.where(small, out.error, 1e-13 * closed.abs())
        return Expectation(torch.where(small, out.value, closed), error)


def _elu(alpha: float = 1.0, inplace: bool = False) -> Activation:
    return Elu(alpha, name="elu" if alpha == 1 else f"elu({alpha:g})")


def _celu(alpha: float = 1.0, inplace: bool = False) -> Activation:
    return Elu(alpha, alpha, name="celu" if alpha == 1 else f"celu({alpha:g})")


def _selu(inplace: bool = False) -> Activation:
    return Elu(_SELU_ALPHA, scale=_SELU_SCALE, name="selu")


register(("elu",), _elu, modules={nn.ELU: lambda m: _elu(m.alpha)}, functions=(functional.elu,))
register(("celu",), _celu, modules={nn.CELU: lambda m: _celu(m.alpha)}, functions=(functional.celu,))
register(("selu",), _selu, modules={nn.SELU: lambda _: _selu()}, functions=(functional.selu,))
