"""The posterior of a network from its layers: kernels, vertices and corrections in one call."""

from __future__ import annotations

from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.bayes.finite_width import FiniteWidthPosterior, finite_width_posterior
from leadline.theory.flow import Layers, gram_of, many_input_flow

__all__ = ["network_posterior"]


@checked(nan=("inputs", "Y"))
def network_posterior(layers: Layers, inputs: Tensor, Y: Tensor, noise: float) -> FiniteWidthPosterior:
    r"""Posterior of a network given data, with its corrections in one over the width of the last hidden layer.

    Args:
        layers: widths, activation and variances; ratios of widths are kept.
        inputs: m inputs, data first, shape (m, n_0). Their number is small: V has an entry for every two pairs.
        Y: targets at the first M inputs, shape (M,) or (M, outputs), units of z.
        noise: variance of the noise on every target, units of z squared.

    Returns:
        The posterior at infinite width and its corrections; ``at`` the width ``layers.fan_in[-1]``.

    Raises:
        ValueError: shapes do not fit, or the flow has no vertex for these inputs.

    Source: Roberts, Yaida and Hanin (2022), chapter 6.
    """
    flow = many_input_flow(layers, gram_of(inputs))
    return finite_width_posterior(flow.K[-1], flow.vertex[-1], flow.G1[-1], Y, noise)
