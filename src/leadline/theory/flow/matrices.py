"""The kernel of every layer over many inputs, as the prior of a wide network has it."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.flow.layers import Layers

__all__ = ["gram_of", "kernel_matrices"]


@checked()
def kernel_matrices(layers: Layers, inputs: Tensor) -> Tensor:
    r"""Infinite-width kernel of every layer over m inputs.

    .. math:: K^{(1)}_{ab} = C_b + C_W\, x_a\cdot x_b/n_0, \qquad
        K^{(l+1)}_{ab} = C_b + C_W \langle\sigma_a\sigma_b\rangle_{K^{(l)}}

    Args:
        layers: activation and variances; of the widths only the number of layers counts.
        inputs: shape (m, n_0).

    Returns:
        Shape (L, m, m), units of z squared; dtype and device of the inputs.

    Raises:
        ValueError: the inputs are not a matrix.

    Source: Neal (1996); Lee et al. (2018); Roberts, Yaida and Hanin (2022), section 4.2.
    """
    K = [layers.C_b[0] + layers.C_W[0] * gram_of(inputs)]
    for C_b, C_W in zip(layers.C_b[1:], layers.C_W[1:]):
        K.append(C_b + C_W * layers.activation.gram(K[-1]))
    return torch.stack(K)


@checked()
def gram_of(inputs: Tensor) -> Tensor:
    """Gram matrix x_a · x_b / n_0 of inputs.

    Args:
        inputs: floats of shape (m, n_0).

    Returns:
        Shape (m, m).

    Raises:
        ValueError: the inputs are not a matrix of floats.
    """
    if inputs.ndim != 2 or not inputs.dtype.is_floating_point:
        raise ValueError(
            f"got inputs of shape {tuple(inputs.shape)} and {inputs.dtype}: give floats of shape (m, n_0)."
        )
    return inputs @ inputs.mT / inputs.shape[1]
