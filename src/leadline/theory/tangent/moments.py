"""Moments of an activation and its first three derivatives under one Gaussian: what the recursions read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.activations.moments import autodiff
from leadline.gaussian import expectation

__all__ = ["Bends", "Moments", "bends", "moments", "slope_activation", "slope_jumps"]

Pointwise = Callable[[Tensor], Tensor]

_NEAR = 1e-9
_SAME = 1e-6


@dataclass(frozen=True)
class Moments:
    r"""Expectations at z ~ N(0, K), each of the shape of K; s, s', s'' are the activation and its derivatives.

    Args:
        K: variances, units of z squared.
        g: <s^2>.
        d, d1, d2: <s'^2> and its first two derivatives in K.
        d4: <s'^4>.
        var_d: <s'^4> - <s'^2>^2.
        cov: <s^2 s'^2> - <s^2><s'^2>.
        bend: <s s'^2 s''>.
    """

    K: Tensor
    g: Tensor
    d: Tensor
    d1: Tensor
    d2: Tensor
    d4: Tensor
    var_d: Tensor
    cov: Tensor
    bend: Tensor

    def at(self, layer: int) -> Moments:
        """The same with every field taken at one index of its first axis."""
        return Moments(**{name: value[layer] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Bends:
    """Expectations with second and third derivatives: <s''^2>, <s'^2 s''^2> and <s'^3 s'''>, of the shape of K."""

    square: Tensor
    mixed: Tensor
    third: Tensor

    def at(self, layer: int) -> Bends:
        """The same with every field taken at one index of its first axis."""
        return Bends(**{name: value[layer] for name, value in vars(self).items()})


def slope_jumps(activation: Activation) -> tuple[float, ...]:
    """Kinks at which the first derivative jumps (not those where only the second does).

    Args:
        activation: the activation.

    Returns:
        Their places, units of z.
    """
    found = []
    for kink in activation.kinks:
        step = _NEAR * (1 + abs(kink))
        low, high = activation.derivative(torch.tensor([kink - step, kink + step], dtype=torch.float64)).tolist()
        if abs(high - low) > _SAME * (1 + max(abs(low), abs(high))):
            found.append(kink)
    return tuple(found)


def slope_activation(activation: Activation) -> Activation:
    """The derivative of an activation as an activation, so that its moments are moments of s'.

    Args:
        activation: continuous.

    Returns:
        s', which jumps where the activation has a corner.

    Raises:
        ValueError: the activation itself jumps.
    """
    if activation.jumps:
        raise ValueError(
            f"{activation.name} jumps at {', '.join(f'{j:g}' for j in activation.jumps)}, so that its tangent kernel "
            "is infinite: use a continuous activation."
        )
    slope = Activation(
        activation.derivative,
        name=f"{activation.name}'",
        kinks=activation.kinks,
        jumps=slope_jumps(activation),
        precision=max(activation.precision, 1e-16),
    )
    terms = activation.half_space_terms
    if terms is not None and all(t.noise in (None, 0.0) for t in terms):
        slope.half_space_terms = tuple(
            dataclasses.replace(t, coefficient=t.coefficient * t.power, power=t.power - 1) for t in terms if t.power
        )
    return slope


@torch.no_grad()
def moments(activation: Activation, K: Tensor) -> Moments:
    r"""Moments of s and s' for every variance, by closed forms where the activation has them.

    .. math:: \langle s s'^2 s''\rangle = \tfrac13\left(\langle z s s'^3\rangle/K - \langle s'^4\rangle\right)

    is used where s' jumps: the limit of ever sharper smooth corners.

    Args:
        activation: continuous.
        K: variances, any shape, units of z squared.

    Returns:
        The moments, in the dtype and on the device of K.

    Raises:
        ValueError: the activation jumps, or a variance is negative.
    """
    slope = slope_activation(activation)
    if activation.slopes is not None:
        return _of_slopes(*activation.slopes, K)
    f, df = activation.fn, activation.derivative
    # what both sides share at z = 0 is taken out, or small variances would be lost in it
    zero = torch.zeros(1, dtype=torch.float64)
    f0, d0 = float(f(zero).to(torch.float64)) ** 2, float(df(zero).to(torch.float64)) ** 2

    def mean(h: Pointwise) -> Tensor:
        return expectation(h, K, kinks=activation.kinks, rtol=activation.rtol).value

    g = activation.second_moment(K)
    square = mean(lambda z: f(z) ** 2 - f0) if f0 else g
    rest = mean(lambda z: df(z) ** 2 - d0)
    return Moments(
        K=K,
        g=g,
        d=activation.derivative_moment(K),
        d1=slope.second_moment_slope(K),
        d2=slope.second_moment_curvature(K),
        d4=slope.fourth_moment(K),
        var_d=mean(lambda z: (df(z) ** 2 - d0) ** 2) - rest**2,
        cov=mean(lambda z: (f(z) ** 2 - f0) * (df(z) ** 2 - d0)) - square * rest,
        bend=_bend(activation, slope, K, mean),
    )


def _bend(activation: Activation, slope: Activation, K: Tensor, mean: Callable[[Pointwise], Tensor]) -> Tensor:
    f, df = activation.fn, activation.derivative
    if slope.jumps:
        return (mean(lambda z: z * f(z) * df(z) ** 3) / K - slope.fourth_moment(K)) / 3
    return mean(lambda z: f(z) * df(z) ** 2 * slope.derivative(z))


def _of_slopes(plus: float, minus: float, K: Tensor) -> Moments:
    one = torch.ones_like(K)
    two, four = (plus**2 + minus**2) / 2, (plus**4 + minus**4) / 2
    spread = four - two**2
    return Moments(
        K=K, g=two * K, d=two * one, d1=0 * K, d2=0 * K, d4=four * one, var_d=spread * one, cov=spread * K, bend=0 * K,
    )  # fmt: skip


@torch.no_grad()
def bends(activation: Activation, K: Tensor) -> Bends:
    r"""Moments with second and third derivatives, which exist where s' does not jump.

    .. math:: \langle s'^3 s'''\rangle = \langle z s'^3 s''\rangle/K - 3\langle s'^2 s''^2\rangle

    is used where s'' jumps.

    Args:
        activation: with a continuous derivative (ELU and softsign have one, ReLU has not).
        K: variances, any shape, units of z squared.

    Returns:
        The moments, in the dtype and on the device of K.

    Raises:
        ValueError: s' jumps.
    """
    slope = slope_activation(activation)
    if slope.jumps:
        raise ValueError(
            f"{activation.name} has a corner at {', '.join(f'{j:g}' for j in slope.jumps)}, where <s''^2> diverges, so "
            "that R, S, T and U do not exist: use an activation with a continuous derivative, or leave them out."
        )
    df, bend = activation.derivative, slope.derivative

    def mean(h: Pointwise) -> Tensor:
        return expectation(h, K, kinks=activation.kinks, rtol=activation.rtol).value

    mixed = mean(lambda z: (df(z) * bend(z)) ** 2)
    if activation.kinks:
        third = mean(lambda z: z * df(z) ** 3 * bend(z)) / K - 3 * mixed
    else:
        third = mean(lambda z: df(z) ** 3 * autodiff(bend, z))
    return Bends(mean(lambda z: bend(z) ** 2), mixed, third)
