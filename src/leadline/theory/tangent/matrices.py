"""Mean tangent kernel of every layer over many inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.flow import Layers, gram_of, kernel_matrices

__all__ = ["tangent_matrices"]


@checked()
def tangent_matrices(layers: Layers, inputs: Tensor, K: Tensor | None = None) -> Tensor:
    r"""Infinite-width tangent kernel of every layer over m inputs.

    .. math:: \Theta^{(1)}_{ab} = \lambda_b + \lambda_W\, x_a\cdot x_b/n_0, \qquad
        \Theta^{(l+1)}_{ab} = \lambda_b + \lambda_W \langle\sigma_a\sigma_b\rangle
        + C_W \langle\sigma'_a\sigma'_b\rangle\, \Theta^{(l)}_{ab}

    Args:
        layers: activation, variances and learning rates.
        inputs: shape (m, n_0).
        K: kernels of every layer, as :func:`kernel_matrices` gives them; computed if None.

    Returns:
        Shape (L, m, m), units of z squared; dtype and device of the inputs.

    Raises:
        ValueError: the inputs are not a matrix, or the activation jumps.

    Source: Jacot et al. (2018); Roberts, Yaida and Hanin (2022), section 8.1.
    """
    K = kernel_matrices(layers, inputs) if K is None else K
    Theta = [layers.lambda_b[0] + layers.lambda_W[0] * gram_of(inputs)]
    for i in range(1, layers.depth):
        moment, slope = layers.activation.gram(K[i - 1]), layers.activation.gram_derivative(K[i - 1])
        Theta.append(layers.lambda_b[i] + layers.lambda_W[i] * moment + layers.C_W[i] * slope * Theta[-1])
    return torch.stack(Theta)
