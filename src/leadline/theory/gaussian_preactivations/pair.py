"""An activation and a law of weights that make a Gaussian pre-activation from Gaussian inputs at any width."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from leadline.activations import Activation
from leadline.gaussian.arguments import checked
from leadline.theory.gaussian_preactivations.amplitude import amplitude_quantile

__all__ = ["GaussianPair", "gaussian_pair"]

_REACH = 9.0
_CELLS = 1800
_DEGREE = 140
_CLOSEST = 2.03


@dataclass(frozen=True)
class GaussianPair:
    r"""Weights of a symmetric Weibull law and the odd activation phi for which W phi(X) is standard normal.

    .. math:: P(|W| > t) = e^{-t^\theta},\qquad \phi(x) = \mathrm{sign}(x)\,F_Y^{-1}(2\Phi(|x|) - 1),\qquad
              W\phi(X) \sim N(0, 1)\ \text{for}\ X \sim N(0, 1)

    So :math:`n^{-1/2}\sum_j W_{ij}\phi(x_j)` is exactly normal at any n if the x_j are independent. In a deep network
    they are not: units of a layer share their inputs. Near theta = 2, where phi is bounded, this matters little down to
    width 3; at theta of 5 or more narrow networks drift from Gaussian like any others.

    Attributes:
        theta: shape of the law, 2 or more; inf for the identity with weights of +-1.
        activation: phi.
    Source: Wolinski & Arbel (2022), Gaussian pre-activations in neural networks: myth or reality?; phi by its moments'
        inverse in place of a fitted table.
    """

    theta: float
    activation: Activation = field(repr=False)

    @property
    def C_W(self) -> float:
        r"""Variance of W, Gamma(1 + 2/theta); weights are W/sqrt(fan-in), and the kernel stays at 1."""
        return math.gamma(1 + 2 / self.theta) if math.isfinite(self.theta) else 1.0

    @cached_property
    def chi_perp(self) -> float:
        """C_W <phi'^2>_1: 1 for the identity, more for every other theta, so that close inputs part."""
        return self.C_W * float(self.activation.derivative_moment(1.0))

    def correlation(self, rho: Tensor) -> Tensor:
        """Correlation of two inputs one layer on, from their correlation rho; any shape."""
        return self.C_W * self.activation.dual(1.0, rho, 1.0)

    def sample_weights(self, fan_out: int, fan_in: int, generator: torch.Generator) -> Tensor:
        """Draw a layer's weights, already divided by the root of the fan-in.

        Args:
            fan_out: rows.
            fan_in: columns.
            generator: of the draws.
        Returns:
            float64, shape (fan_out, fan_in), on the generator's device.
        """
        shape = (fan_out, fan_in)
        options = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        sign = 2.0 * (torch.rand(shape, **options) < 0.5) - 1  # type: ignore[call-overload]
        if math.isinf(self.theta):
            return sign / math.sqrt(fan_in)
        size = -torch.log1p(-torch.rand(shape, **options))  # type: ignore[call-overload]
        return sign * size ** (1 / self.theta) / math.sqrt(fan_in)


@checked(infinite=("theta",))
def gaussian_pair(theta: float) -> GaussianPair:
    """The pair of a given Weibull shape.

    Args:
        theta: 2 (the closed form sqrt(2) sin(pi (Phi(x) - 1/2))), or 2.03 or more; inf is the identity.
    Returns:
        The pair; its activation is tabulated (seconds of work) unless a closed form is known: to 1e-9 for theta of 3 or
        more, to 1e-7 at 2.03, where phi turns sharply.
    Raises:
        ValueError: theta is less than 2, where no activation makes the product normal, or between 2 and 2.03.

    >>> pair = gaussian_pair(2.0)
    >>> round(pair.C_W, 12), round(pair.C_W * pair.activation.second_moment(1.0).item(), 9)
    (1.0, 1.0)
    """
    if not theta >= 2:
        raise ValueError(f"theta must be 2 or more, got {theta}; tails of W fatter than normal leave no room for phi")
    if 2 < theta < _CLOSEST:
        raise ValueError(
            f"phi of theta={theta:g} turns too sharply for its table; take 2 itself, or {_CLOSEST} or more"
        )
    if math.isinf(theta):
        return GaussianPair(theta, Activation(lambda z: z, name="phi(inf)", derivative=torch.ones_like))
    if theta == 2:
        return GaussianPair(theta, Activation(_sine, name="phi(2)", derivative=_sine_slope))
    return GaussianPair(theta, _tabulated(theta))


def _sine(x: Tensor) -> Tensor:
    return math.sqrt(2) * torch.sin(0.5 * math.pi * torch.erf(x / math.sqrt(2)))


def _sine_slope(x: Tensor) -> Tensor:
    angle = 0.5 * math.pi * torch.erf(x / math.sqrt(2))
    return math.sqrt(math.pi) * torch.cos(angle) * torch.exp(-0.5 * x * x)


def _tabulated(theta: float) -> Activation:
    """Cubic Hermite interpolant on a grid of |x| with the slopes of a Chebyshev fit; a power law beyond the grid."""
    # phi(x)/x is smooth and even
    nodes = np.sqrt((1 - np.cos(np.pi * (np.arange(_DEGREE) + 0.5) / _DEGREE)) / 2) * _REACH
    fit = chebyshev.chebfit(2 * (nodes / _REACH) ** 2 - 1, amplitude_quantile(theta, nodes) / nodes, _DEGREE - 1)
    grid = np.linspace(0, _REACH, _CELLS + 1)
    t = 2 * (grid / _REACH) ** 2 - 1
    ratio, slope_t = chebyshev.chebval(t, fit), chebyshev.chebval(t, chebyshev.chebder(fit))
    value = torch.from_numpy(ratio * grid)
    slope = torch.from_numpy(ratio + grid * slope_t * 4 * grid / _REACH**2)
    h, power = _REACH / _CELLS, 1 - 2 / theta

    def locate(x: Tensor) -> tuple[Tensor, ...]:
        size = x.detach().abs().clamp_max(_REACH)
        i = (size / h).long().clamp_max(_CELLS - 1)
        v, d = (a.to(x.dtype).to(x.device) for a in (value, slope))
        return v[i], v[i + 1], h * d[i], h * d[i + 1], i.to(x.dtype) * h

    def fn(x: Tensor) -> Tensor:
        a, b, da, db, start = locate(x)
        inside = x.abs().clamp_max(_REACH)
        u = (inside - start) / h
        cubic = a + u * (da + u * (3 * (b - a) - 2 * da - db + u * (2 * (a - b) + da + db)))
        return torch.sign(x) * cubic * (x.abs() / _REACH).clamp_min(1.0) ** power

    def derivative(x: Tensor) -> Tensor:
        a, b, da, db, start = locate(x)
        u = (x.abs().clamp_max(_REACH) - start) / h
        inside = (da + u * (2 * (3 * (b - a) - 2 * da - db) + 3 * u * (2 * (a - b) + da + db))) / h
        beyond = float(value[-1]) * power / _REACH * (x.abs() / _REACH).clamp_min(1.0) ** (power - 1)
        return torch.where(x.abs() <= _REACH, inside, beyond)

    return Activation(fn, name=f"phi({theta:g})", derivative=derivative, precision=1e-11)
