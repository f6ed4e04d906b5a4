"""Activations shaped with the width, so that depth and width can grow together without collapsing the inputs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from leadline.activations.base import Activation
from leadline.activations.piecewise_linear import PiecewiseLinear
from leadline.activations.resolve import activation
from leadline.gaussian.arguments import checked

__all__ = ["Shaped", "shape", "shape_relu"]


class Shaped(Activation):
    r"""An activation stretched by the root of the width about a point of its own.

    .. math:: s(x) = S f(x/S),\quad S = a\sqrt n,\quad f(x) = [\sigma(x_0 + x) - \sigma(x_0)]/\sigma'(x_0)

    Args:
        base: sigma.
        width: n, hidden units of a layer.
        a: stretch in units of the root of the width; the smaller, the more nonlinear.
        center: x_0, the point that becomes the origin, units of z.
    Raises:
        ValueError: width or a is not positive, or sigma has a kink or no slope at ``center``.
    """

    def __init__(self, base: Activation, width: int, a: float, center: float) -> None:
        _check_width(width)
        if not (math.isfinite(a) and a > 0):
            raise ValueError(f"a must be a positive number, got {a}; 1 is the usual choice")
        if any(abs(k - center) < 1e-9 for k in base.kinks):
            raise ValueError(
                f"{base.name} has a kink at center={center:g}, where its shape has no slope; "
                "choose another center, or shape_relu for two slopes that meet at 0"
            )
        self.base, self.width, self.a, self.center = base, width, float(a), float(center)
        at = torch.tensor(self.center, dtype=torch.float64)
        self._origin, self._slope = float(base.fn(at)), float(base.derivative(at))
        if not math.isfinite(self._slope) or abs(self._slope) < 1e-12:
            raise ValueError(f"{base.name} has slope {self._slope:g} at center={center:g}; choose another center")
        self.scale = self.a * math.sqrt(width)
        super().__init__(
            self._evaluate,
            name=f"shaped {base.name}",
            kinks=[self.scale * (k - self.center) for k in base.kinks],
            jumps=[self.scale * (k - self.center) for k in base.jumps],
            derivative=lambda x: base.derivative(self.center + x / self.scale) / self._slope,
            # the difference from the value at the center is rounded at the size of that value
            precision=base.precision * max(1.0, self.scale * abs(self._origin / self._slope)),
        )

    def _evaluate(self, x: Tensor) -> Tensor:
        return (self.base.fn(self.center + x / self.scale) - self._origin) * (self.scale / self._slope)

    @property
    def origin_derivatives(self) -> tuple[float, float]:
        """f''(0) and f'''(0) of the unstretched f, which set the drift of the covariance."""

        def shifted(x: Tensor) -> Tensor:
            return (self.base.fn(self.center + x) - self._origin) / self._slope

        right, _ = Activation(shifted, name="f", precision=self.base.precision).taylor(3)
        return float(right[2]), float(right[3])


@checked()
def shape(obj: Any, width: int, *, a: float = 1.0, center: float = 0.0) -> Shaped:
    r"""Shape a smooth activation for a network whose depth grows with its width.

    .. math:: s(x) = S f(x/S),\quad S = a\sqrt n,\quad f(x) = [\sigma(x_0 + x) - \sigma(x_0)]/\sigma'(x_0)

    At any other power of n than the root the limit of depth and width growing together is trivial: the network
    becomes linear, or its inputs collapse.

    Args:
        obj: anything that :func:`leadline.activations.activation` takes.
        width: n, hidden units of a layer.
        a: stretch in units of the root of the width; the smaller, the more nonlinear.
        center: x_0, the point of sigma that becomes the origin, units of z.
    Returns:
        The shaped activation; call it on a tensor in place of sigma.
    Raises:
        ValueError: width or a is not positive, or sigma has a kink or no slope at ``center``.
    Source: Li, Nica & Roy, The Neural Covariance SDE (2022), section 3.

    >>> s = shape("tanh", width=100)
    >>> round(s(torch.tensor(10.0, dtype=torch.float64)).item(), 6)  # 10 tanh(1)
    7.615942
    """
    return Shaped(activation(obj), width, a, center)


@checked()
def shape_relu(width: int, *, c_plus: float = 0.0, c_minus: float = -1.0) -> PiecewiseLinear:
    r"""Two slopes within one over the root of the width of 1: the shaped ReLU.

    .. math:: s(x) = (1 + c_+/\sqrt n)\max(x, 0) + (1 + c_-/\sqrt n)\min(x, 0)

    Args:
        width: n, hidden units of a layer.
        c_plus: bend of the right half.
        c_minus: bend of the left half.
    Returns:
        The shaped activation; for torch alone it is ``LeakyReLU`` with negative slope minus/plus, times plus.
    Raises:
        ValueError: width is not positive.
    Source: Li, Nica & Roy, The Neural Covariance SDE (2022), section 3.

    >>> shape_relu(width=100, c_minus=-1.0).slopes
    (1.0, 0.9)
    """
    _check_width(width)
    root = math.sqrt(width)
    return PiecewiseLinear(1 + c_plus / root, 1 + c_minus / root, name=f"shaped relu({c_plus:g},{c_minus:g})")


def _check_width(width: int) -> None:
    if width < 1:
        raise ValueError(f"width must be 1 or more, got {width}; pass the number of hidden units of a layer")
