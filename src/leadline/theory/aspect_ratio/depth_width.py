"""Depth against width of one network: its spread, what its outputs share, and the guide r*."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leadline.gaussian.arguments import checked
from leadline.theory.aspect_ratio.growth import aspect_ratio, product_spread, spread_rate
from leadline.theory.aspect_ratio.information import (
    mutual_information,
    mutual_information_series,
    optimal_aspect_ratio,
)

__all__ = ["DepthWidth", "depth_and_width"]


@dataclass(frozen=True)
class DepthWidth:
    """What the effective theory says of a network's depth over width.

    Attributes:
        nu: growth of the relative spread per unit of depth over width.
        ratio: r, the sum of 1/n_l over hidden layers.
        outputs: n_L.
        spread: relative variance of the scale from seed to seed, the product of the layers' factors.
        information_series: mutual information of the two halves of the outputs to third order in nu r, nats;
            None for a single output.
        information: the same, exact for a log-normal scale; None for a single output.
        guide: r*, an order of magnitude only.
    """

    nu: float
    ratio: float
    outputs: int
    spread: float
    information_series: float | None
    information: float | None
    guide: float

    @property
    def log_variance(self) -> float:
        """Variance nu r of the logarithm of the scale."""
        return self.nu * self.ratio

    def __str__(self) -> str:
        """The numbers in one sentence."""
        factor = math.exp(math.sqrt(self.log_variance))
        return (
            f"depth/width {self.ratio:.3g} with nu {self.nu:.3g}: from seed to seed the scale of the outputs is off by a "
            f"factor of about {factor:.2g}; the guide r* is {self.guide:.2g}, an order of magnitude and no optimum to tune to"
        )


@checked()
def depth_and_width(
    obj: object,
    hidden_widths: Sequence[int],
    outputs: int,
    *,
    K: float | None = None,
    residual: float = 0.0,
    nu: float | None = None,
) -> DepthWidth:
    """Depth against width of a critical network.

    Args:
        obj: anything that :func:`leadline.activations.activation` takes.
        hidden_widths: n_l of every hidden layer.
        outputs: n_L, number of output neurons.
        K: critical kernel of a half-stable activation, units of z squared.
        residual: gamma of z' = b + W sigma(z) + gamma z.
        nu: the rate, where it is known; by default from :func:`spread_rate`.
    Returns:
        The numbers; ``str`` of them is a sentence.
    Raises:
        ValueError: a width or the number of outputs is not positive, or the activation is not critical.
    Source: Roberts, Yaida & Hanin (2022), epilogue and appendix A.

    >>> print(depth_and_width("relu", [512] * 10, 10))
    depth/width 0.0195 with nu 5: from seed to seed the scale of the outputs is off by a factor of about 1.4; ...
    """
    rate = spread_rate(obj, K=K, residual=residual) if nu is None else float(nu)
    ratio, guide = aspect_ratio(hidden_widths), optimal_aspect_ratio(rate, outputs)
    series = exact = None
    if outputs > 1:
        half = outputs // 2
        series = float(mutual_information_series(rate * ratio, half, outputs - half))
        exact = float(mutual_information(rate * ratio, half, outputs - half))
    return DepthWidth(rate, ratio, outputs, product_spread(rate, hidden_widths), series, exact, guide)
