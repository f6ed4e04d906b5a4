"""The mean tangent kernel as a sum over layers: what each layer's biases and weights add to the last one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.flow import Layers, gram_of, kernel_matrices, single_input_flow

__all__ = ["LayerContributions", "layer_contributions", "layer_contributions_between"]


@dataclass(frozen=True)
class LayerContributions:
    """What each layer adds to the mean tangent kernel of the last layer, shape (L, ...) each.

    Args:
        bias: of the layer's biases.
        weight: of its weights.
    """

    bias: Tensor
    weight: Tensor

    @property
    def total(self) -> Tensor:
        """The mean tangent kernel of the last layer."""
        return (self.bias + self.weight).sum(0)

    @property
    def share(self) -> Tensor:
        """Part of each layer in the total; the shares of all layers sum to 1."""
        return (self.bias + self.weight) / self.total


@checked()
def layer_contributions(layers: Layers, norm: Tensor | float) -> LayerContributions:
    r"""Contributions of every layer to the last mean tangent kernel, for one input at a time.

    .. math:: \Theta^{(L)} = \sum_l \left(\lambda_b^{(l)} + \lambda_W^{(l)}\langle s^2\rangle_{K^{(l-1)}}\right)
        \prod_{m=l}^{L-1}\chi_\perp^{(m)}

    with |x|^2/n_0 in place of <s^2> at l = 1.

    Args:
        layers: widths, activation, variances and learning rates.
        norm: |x|^2/n_0 of an input; any shape.

    Returns:
        Contributions, shape (L, ...).

    Raises:
        ValueError: a norm is negative, or the activation jumps.

    Source: Roberts, Yaida and Hanin (2022), chapter 9.

    >>> parts = layer_contributions(Layers.of("relu", depth=4, C_W=2.0), 1.0)
    >>> parts.share.tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    flow = single_input_flow(layers, norm)
    if layers.activation.jumps:
        raise ValueError(
            f"{layers.activation.name} jumps, so that its tangent kernel is infinite: use a continuous one."
        )
    x = torch.as_tensor(norm, dtype=flow.K.dtype, device=flow.K.device)
    moment = torch.cat([x[None], layers.activation.second_moment(flow.K[:-1])])
    return _contributions(layers, moment, flow.chi_perp)


@checked()
def layer_contributions_between(layers: Layers, inputs: Tensor) -> LayerContributions:
    r"""Contributions of every layer to the last mean tangent kernel between m inputs.

    As :func:`layer_contributions` with :math:`\langle s_as_b\rangle` for <s^2> and :math:`\langle s'_as'_b\rangle` for
    <s'^2>.

    Args:
        layers: widths, activation, variances and learning rates.
        inputs: shape (m, n_0).

    Returns:
        Contributions, shape (L, m, m), dtype and device of the inputs.

    Raises:
        ValueError: the inputs are not a matrix, or the activation jumps.

    Source: Roberts, Yaida and Hanin (2022), chapter 9.
    """
    K = kernel_matrices(layers, inputs)
    moment = torch.cat([gram_of(inputs)[None], layers.activation.gram(K[:-1])])
    chi = torch.tensor(layers.C_W[1:], dtype=K.dtype, device=K.device)[:, None, None]
    return _contributions(layers, moment, chi * layers.activation.gram_derivative(K[:-1]))


def _contributions(layers: Layers, moment: Tensor, chi: Tensor) -> LayerContributions:
    shape = (-1, *(1,) * (moment.ndim - 1))
    bias, weight = (
        torch.tensor(v, dtype=moment.dtype, device=moment.device).reshape(shape)
        for v in (layers.lambda_b, layers.lambda_W)
    )
    after = torch.cat([chi, torch.ones_like(moment[:1])]).flip(0).cumprod(0).flip(0)
    return LayerContributions(bias * after, weight * moment * after)
