r"""An activation in its affine wrap, and what the kernel of such a one is at a unit variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.activations import Activation

__all__ = ["LocalMap", "Wrap", "local_map", "wrapped"]

_STEP = 1e-4


@dataclass(frozen=True)
class Wrap:
    r"""Constants around a nonlinearity.

    .. math:: \phi(x) = \gamma\,(\sigma(a x + b) + d + e x)

    Attributes:
        a, b: scale and shift of the input.
        gamma, d: scale and shift of the output.
        skip: e, share of the input that is added; only functions of two slopes have any.
    """

    a: float = 1.0
    b: float = 0.0
    gamma: float = 1.0
    d: float = 0.0
    skip: float = 0.0

    def __call__(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """phi(x) of a nonlinearity, entry by entry."""
        return self.after(fn(self.before(x)), x)

    def before(self, x: Tensor) -> Tensor:
        """What the nonlinearity is given."""
        return x if self.a == 1 and self.b == 0 else self.a * x + self.b

    def after(self, y: Tensor, x: Tensor) -> Tensor:
        """What becomes of the nonlinearity's value y at the input x."""
        if self.d:
            y = y + self.d
        if self.skip:
            y = y + self.skip * x
        return y if self.gamma == 1 else self.gamma * y

    def scaled(self, kernel: float) -> Wrap:
        """The same for inputs of another variance than one, brought to one first."""
        root = 1 / math.sqrt(kernel)
        return Wrap(self.a * root, self.b, self.gamma, self.d, self.skip * root)


def wrapped(act: Activation, wrap: Wrap) -> Activation:
    """An activation in its wrap.

    Args:
        act: the nonlinearity.
        wrap: the constants; ``a`` is not zero.

    Returns:
        phi, with the kinks where they come to lie.
    """
    a, b = wrap.a, wrap.b

    def slope(x: Tensor) -> Tensor:
        return wrap.gamma * (a * act.derivative(a * x + b) + wrap.skip)

    return Activation(
        lambda x: wrap(act.fn, x),
        name=f"reshaped {act.name}",
        kinks=[(k - b) / a for k in act.kinks],
        jumps=[(k - b) / a for k in act.jumps],
        derivative=slope,
        precision=act.precision * max(1.0, abs(wrap.gamma * wrap.d)),
    )


@dataclass(frozen=True)
class LocalMap:
    r"""What one nonlinearity does to kernels near a variance of one.

    Attributes:
        mean: <phi>.
        second: Q(1) = <phi^2>.
        size_slope: Q'(1), how far a departure of the variance from one is handed on.
        slope: C'(1) = <phi'^2>/Q(1), how far a departure of the correlation from one is handed on.
        at_zero: C(0) = <phi>^2/Q(1), correlation that inputs of none come out with.
    """

    mean: float
    second: float
    size_slope: float
    slope: float
    at_zero: float


def local_map(phi: Activation) -> LocalMap:
    """Kernel maps of an activation at a unit variance.

    Args:
        phi: the activation.

    Returns:
        The numbers.

    Raises:
        ValueError: it jumps, so that <phi'^2> is infinite.
    """
    one = torch.tensor(1.0, dtype=torch.float64)
    mean, second = float(phi.mean(one)), float(phi.second_moment(one))
    slope = float(phi.derivative_moment(one)) / second
    return LocalMap(mean, second, float(phi.second_moment_slope(one)), slope, mean * mean / second)
