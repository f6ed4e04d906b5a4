"""GELU, exact and tanh-approximated: two different activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from leadline.activations.base import Activation
from leadline.activations.pair import Pair
from leadline.activations.registry import register
from leadline.gaussian import HalfSpaceTerm
from leadline.gaussian.normal import upper_tail

__all__ = ["Gelu", "gelu_tanh"]

_ROOT = math.sqrt(2 / math.pi)
_CUBE = 0.044715


class Gelu(Activation):
    r"""z Phi(z), with Phi the standard normal distribution function.

    .. math:: \langle\sigma_a\sigma_b\rangle = c\Big(\tfrac14 + \tfrac{w}{2\pi}\Big) + \frac{N}{2\pi\sqrt D},
              \quad D = (1+K_a)(1+K_b) - c^2,\ w = \arcsin\frac{c}{\sqrt{(1+K_a)(1+K_b)}},\
              N = K_aK_b + c^2\frac{1-K_aK_b}{(1+K_a)(1+K_b)}

    The mean product of derivatives is the derivative of this in c.

    Source: Tsuchida et al., Avoiding Kernel Fixed Points (2021), rearranged.

    >>> import torch
    >>> round(Gelu().second_moment(torch.tensor(1.0, dtype=torch.float64)).item(), 8)
    0.42522148
    """

    closed_second_moment = True
    half_space_terms = (HalfSpaceTerm(1.0, power=1, noise=1.0),)

    def __init__(self) -> None:
        super().__init__(functional.gelu, name="gelu", derivative=_slope)

    def _mean(self, K: Tensor) -> Tensor:
        return K / (2 * math.pi * (1 + K)).sqrt()

    def _derivative_mean(self, K: Tensor) -> Tensor:
        return torch.full_like(K, 0.5)

    def _second_moment(self, K: Tensor) -> Tensor:
        root = (1 + 2 * K).sqrt()
        return K / 4 + K / (2 * math.pi) * (torch.atan2(K, root) + 2 * K / ((1 + K) * root))

    def _derivative_moment(self, K: Tensor) -> Tensor:
        root = (1 + 2 * K).sqrt()
        return 0.25 + (torch.atan2(K, root) + K * (3 + 5 * K) / ((1 + K) * root**3)) / (2 * math.pi)

    def _dual(self, pair: Pair) -> Tensor:
        d, w, _, n = _ingredients(pair)
        return pair.c * (0.25 + w / (2 * math.pi)) + n / (2 * math.pi * d.sqrt())

    def _dual_derivative(self, pair: Pair) -> Tensor:
        d, w, ratio, n = _ingredients(pair)
        root = d.sqrt()
        return 0.25 + (w + pair.c / root + 2 * pair.c * ratio / root + n * pair.c / (d * root)) / (2 * math.pi)


def _slope(z: Tensor) -> Tensor:
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return upper_tail(-z) + z * density


def _ingredients(pair: Pair) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """D, w, (1 - Ka Kb)/((1 + Ka)(1 + Kb)) and N of the closed forms."""
    d = pair.determinant(1.0, 1.0)
    w = torch.atan2(pair.c, d.sqrt())
    ab = pair.a * pair.b
    outer = (1 + pair.a) * (1 + pair.b)
    # N = Ka Kb + c^2 (1 - Ka Kb)/outer, regrouped so that large variances do not cancel.
    n = (ab * (1 + pair.a + pair.b) + pair.c**2 + ab * ab * pair.complement) / outer
    return d, w, (1 - ab) / outer, n


def gelu_tanh() -> Activation:
    r"""GELU's tanh approximation, :math:`\tfrac12 z[1 + \tanh(\sqrt{2/\pi}(z + 0.044715 z^3))]`."""
    return Activation(lambda z: functional.gelu(z, approximate="tanh"), name="gelu_tanh", derivative=_tanh_slope)


def _tanh_slope(z: Tensor) -> Tensor:
    t = torch.tanh(_ROOT * (z + _CUBE * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * _ROOT * (1 + 3 * _CUBE * z * z)


def _build(approximate: str = "none") -> Activation:
    return gelu_tanh() if approximate == "tanh" else Gelu()


register(("gelu",), _build, modules={nn.GELU: lambda m: _build(m.approximate)}, functions=(functional.gelu,))
register(("gelu_tanh", "gelu_new", "gelu_pytorch_tanh"), gelu_tanh)
