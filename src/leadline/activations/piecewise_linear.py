"""Identity, ReLU, leaky ReLU, PReLU, RReLU and |z|: a_plus z on one side of 0, a_minus z on the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from leadline.activations.base import Activation
from leadline.activations.pair import Pair
from leadline.activations.registry import register
from leadline.gaussian import HalfSpaceTerm

__all__ = ["PiecewiseLinear"]


class PiecewiseLinear(Activation):
    r"""Two slopes meeting at 0.

    .. math:: \langle\sigma_a\sigma_b\rangle = a_+a_- K_{ab} + (a_+-a_-)^2 \sqrt{K_{aa}K_{bb}}\,
              [\sin\theta + (\pi-\theta)\cos\theta]/2\pi, \qquad
              \langle\sigma'_a\sigma'_b\rangle = a_+a_- + (a_+-a_-)^2 (\pi-\theta)/2\pi

    Args:
        plus, minus: the slopes for z > 0 and for z < 0.
        name: how reports call it.
    Source: Cho & Saul, Kernel Methods for Deep Learning (2009), section 2.

    >>> import torch
    >>> one = torch.tensor(1.0, dtype=torch.float64)
    >>> round(PiecewiseLinear(1.0, 0.0).dual(one, 0 * one, one).item(), 4)
    0.1592
    """

    def __init__(self, plus: float, minus: float, name: str | None = None) -> None:
        self.plus, self.minus = float(plus), float(minus)
        bend = self.plus - self.minus
        self.half_space_terms = (HalfSpaceTerm(self.minus, power=1), HalfSpaceTerm(bend, power=1, noise=0.0))
        super().__init__(
            self._evaluate,
            name=name or _name(self.plus, self.minus),
            kinks=() if self.plus == self.minus else (0.0,),
            derivative=lambda z: self.minus + (self.plus - self.minus) * (z > 0).to(z.dtype),
        )

    def _evaluate(self, z: Tensor) -> Tensor:
        return self.plus * z.clamp_min(0) + self.minus * z.clamp_max(0)

    @property
    def slopes(self) -> tuple[float, float]:
        """(a_plus, a_minus)."""
        return self.plus, self.minus

    def _power(self, p: int) -> float:
        return (self.plus**p + self.minus**p) / 2

    def _mean(self, K: Tensor) -> Tensor:
        return (self.plus - self.minus) * (K / (2 * math.pi)).sqrt()

    def _second_moment(self, K: Tensor) -> Tensor:
        return self._power(2) * K

    def _second_moment_slope(self, K: Tensor) -> Tensor:
        return torch.full_like(K, self._power(2))

    def _second_moment_curvature(self, K: Tensor) -> Tensor:
        return torch.zeros_like(K)

    def _value_curvature(self, K: Tensor) -> Tensor:
        return torch.zeros_like(K)

    def _derivative_moment(self, K: Tensor) -> Tensor:
        return torch.full_like(K, self._power(2))

    def _derivative_mean(self, K: Tensor) -> Tensor:
        return torch.full_like(K, self._power(1))

    def _fourth_moment(self, K: Tensor) -> Tensor:
        return 3 * self._power(4) * K * K

    def _dual(self, pair: Pair) -> Tensor:
        linear, kink = self.plus * self.minus, (self.plus - self.minus) ** 2
        if kink == 0:
            return linear * pair.c
        shape = pair.complement.sqrt() + (math.pi - pair.angle) * pair.rho
        return linear * pair.c + kink / (2 * math.pi) * (pair.a.sqrt() * pair.b.sqrt()) * shape

    def _dual_derivative(self, pair: Pair) -> Tensor:
        linear, kink = self.plus * self.minus, (self.plus - self.minus) ** 2
        return linear + kink / (2 * math.pi) * (math.pi - pair.angle)


def _name(plus: float, minus: float) -> str:
    known = {(1.0, 1.0): "identity", (1.0, 0.0): "relu", (1.0, -1.0): "abs"}
    return known.get((plus, minus)) or (f"leaky_relu({minus:g})" if plus == 1 else f"linear({plus:g},{minus:g})")


def _from_slopes(fn: Callable[[Tensor], Tensor]) -> Activation | None:
    plus, minus = (float(v) for v in fn(torch.tensor([1.0, -1.0], dtype=torch.float64)) * torch.tensor([1.0, -1.0]))
    return PiecewiseLinear(plus, minus) if math.isfinite(plus) and math.isfinite(minus) else None


def _leaky(negative_slope: float = 0.01, inplace: bool = False) -> Activation:
    return PiecewiseLinear(1.0, negative_slope)


def _randomised(
    lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Activation:
    return PiecewiseLinear(1.0, (lower + upper) / 2)


def _prelu(module: nn.PReLU) -> Activation:
    if module.weight.numel() != 1:
        raise ValueError(
            f"PReLU has {module.weight.numel()} slopes, one activation has one; pass a "
            "functools.partial(torch.nn.functional.leaky_relu, negative_slope=...) for each channel"
        )
    return PiecewiseLinear(1.0, float(module.weight.detach()))


register(
    ("identity", "linear"),
    lambda: PiecewiseLinear(1, 1),
    template=False,
    modules={nn.Identity: lambda _: PiecewiseLinear(1, 1)},
)
register(
    ("relu",),
    lambda inplace=False: PiecewiseLinear(1, 0),
    template=_from_slopes,
    modules={nn.ReLU: lambda _: PiecewiseLinear(1, 0)},
    functions=(functional.relu, torch.relu, torch.relu_, Tensor.relu),
)
register(("abs",), lambda: PiecewiseLinear(1, -1), template=False, functions=(torch.abs, Tensor.abs))
register(
    ("leaky_relu",),
    _leaky,
    template=False,
    modules={nn.LeakyReLU: lambda m: _leaky(m.negative_slope)},
    functions=(functional.leaky_relu,),
)
register(
    ("rrelu",),
    _randomised,
    template=False,
    modules={nn.RReLU: lambda m: _randomised(m.lower, m.upper)},
    functions=(functional.rrelu, torch.rrelu),
)
register(("prelu",), lambda: PiecewiseLinear(1, 0.25), template=False, modules={nn.PReLU: _prelu})
