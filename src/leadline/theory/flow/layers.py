"""The layers of a perceptron as the theory sees them: widths, one activation, variances and learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leadline.activations import Activation, activation
from leadline.gaussian.arguments import checked

__all__ = ["Layers"]


@dataclass(frozen=True)
class Layers:
    r"""Initialization and training hyperparameters of L dense layers with one activation between them.

    .. math:: z^{(1)}_i = b_i + \sum_j W_{ij} x_j, \quad z^{(l+1)}_i = b_i + \sum_j W_{ij}\sigma(z^{(l)}_j), \quad
        E\,b^2 = C_b^{(l)},\ E\,W^2 = C_W^{(l)}/n_{l-1}

    Learning rates are :math:`\lambda_b^{(l)}` for biases and :math:`\lambda_W^{(l)}/n_{l-1}` for weights, times a
    global one that is left out.

    Args:
        activation: sigma.
        widths: n_0 (inputs), n_1, …, n_L (outputs).
        C_b: bias variance of each layer, units of z squared.
        C_W: fan-in times the weight variance of each layer.
        lambda_b: bias learning rate of each layer.
        lambda_W: fan-in times the weight learning rate of each layer.

    Raises:
        ValueError: the numbers of layers do not agree, or a number is negative or not finite.

    >>> Layers.of("tanh", depth=3, width=64, C_W=1.0).ratios
    (0.0, 1.0)
    """

    activation: Activation
    widths: tuple[int, ...]
    C_b: tuple[float, ...]
    C_W: tuple[float, ...]
    lambda_b: tuple[float, ...]
    lambda_W: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            shown = self.widths[:6]
            raise ValueError(f"got widths {shown}: give two or more (inputs first, outputs last), each at least 1.")
        if any(n != int(n) for n in self.widths):
            raise ValueError(f"got widths {self.widths[:6]}: give whole numbers of neurons.")
        for name in ("C_b", "C_W", "lambda_b", "lambda_W"):
            values = getattr(self, name)
            if len(values) != self.depth:
                raise ValueError(f"got {len(values)} values of {name} for {self.depth} layers: give one a layer.")
            if not all(math.isfinite(v) and v >= 0 for v in values):
                raise ValueError(f"got {name} = {values[:6]}: give finite numbers that are not negative.")

    @classmethod
    @checked()
    def of(
        cls,
        nonlinearity: Any,
        *,
        depth: int | None = None,
        width: int = 1,
        widths: Sequence[int] | None = None,
        C_b: float | Sequence[float] = 0.0,
        C_W: float | Sequence[float] = 1.0,
        lambda_b: float | Sequence[float] = 1.0,
        lambda_W: float | Sequence[float] = 1.0,
    ) -> Layers:
        """Layers from plain values: one number for all layers, or one a layer.

        Args:
            nonlinearity: anything that :func:`leadline.activations.activation` takes.
            depth: number of dense layers L, all widths then being ``width``.
            width: of every layer where ``widths`` is not given; coefficients of 1/n do not depend on it.
            widths: n_0, n_1, …, n_L, in place of ``depth`` and ``width``.
            C_b: bias variance, units of z squared.
            C_W: fan-in times the weight variance.
            lambda_b: bias learning rate.
            lambda_W: fan-in times the weight learning rate.

        Returns:
            The layers.

        Raises:
            ValueError: neither or both of ``depth`` and ``widths`` are given, or the numbers do not fit together.
        """
        if (depth is None) == (widths is None):
            raise ValueError(f"got depth={depth}, widths={widths}: give one of the two.")
        if depth is not None and depth < 1:
            raise ValueError(f"got depth={depth}: a network has at least 1 layer.")
        sizes = tuple(widths) if widths is not None else (width,) * ((depth or 0) + 1)
        each = [_each(v, len(sizes) - 1) for v in (C_b, C_W, lambda_b, lambda_W)]
        return cls(activation(nonlinearity), sizes, *each)

    @property
    def depth(self) -> int:
        """Number of dense layers L."""
        return len(self.widths) - 1

    @property
    def ratios(self) -> tuple[float, ...]:
        r"""r_l of the steps l -> l+1, l = 1 … L-1: n_l / n_{l-1}, and 0 for l = 1, whose law does not fluctuate."""
        w = self.widths
        return tuple(0.0 if i == 1 else w[i] / w[i - 1] for i in range(1, self.depth))

    @property
    def fan_in(self) -> tuple[int, ...]:
        """n_{l-1} of each layer: what a coefficient of 1/n at layer l is divided by."""
        return self.widths[:-1]

    def first_kernel(self, gram: Tensor | float) -> Tensor:
        """K^(1) = C_b + C_W times x_a · x_b / n_0.

        Args:
            gram: x_a · x_b / n_0 (for one input the mean square of its entries), any shape.

        Returns:
            Shape, dtype and device of ``gram``; a number gives a float64 tensor.
        """
        given = gram if isinstance(gram, Tensor) else torch.tensor(gram, dtype=torch.float64)
        return self.C_b[0] + self.C_W[0] * given


def _each(value: float | Sequence[float], depth: int) -> tuple[float, ...]:
    if isinstance(value, Sequence):
        return tuple(float(v) for v in value)
    return (float(value),) * depth
