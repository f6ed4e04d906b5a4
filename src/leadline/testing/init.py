"""Explicit init laws for the networks of the cases, and the same laws as a statement that ``trace`` takes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["gaussian_", "orthogonal_", "stated", "weighted"]

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d


def weighted(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Dense and convolutional layers by qualified name.

    Args:
        model: any module.

    Yields:
        Name and layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            yield name, module


def _fan_in(layer: Layer) -> int:
    weight = layer.weight
    if isinstance(layer, nn.ConvTranspose2d):
        return weight.shape[0] * weight[0, 0].numel() // layer.groups
    return weight[0].numel()


def gaussian_(model: nn.Module, C_W: float, C_b: float = 0.0, *, seed: int = 0) -> nn.Module:
    r"""Draw every dense and convolutional layer anew, in place.

    .. math:: W_{ij} \sim N(0, C_W / \text{fan-in}), \qquad b_i \sim N(0, C_b)

    Args:
        model: the module; its other parameters stay.
        C_W: weight variance times fan-in.
        C_b: bias variance.
        seed: of the draw; the global generator is left alone.

    Returns:
        The module itself.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in weighted(model):
            layer.weight.normal_(0.0, math.sqrt(C_W / _fan_in(layer)), generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0.0, math.sqrt(C_b), generator=generator)
    return model


def orthogonal_(model: nn.Module, gain: float = 1.0, *, seed: int = 0) -> nn.Module:
    """Make every dense layer a random (semi-)orthogonal matrix times a gain, biases zero, in place.

    Args:
        model: the module.
        gain: factor on the matrix.
        seed: of the draw.

    Returns:
        The module itself.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in weighted(model):
            nn.init.orthogonal_(layer.weight, gain, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
    return model


def stated(model: nn.Module, C_W: float, C_b: float = 0.0) -> dict[str, dict[str, float]]:
    """The law of :func:`gaussian_` as the ``law`` argument of :func:`leadline.program.trace`.

    Args:
        model: the module.
        C_W: weight variance times fan-in, of every dense and convolutional layer.
        C_b: bias variance, where there is a bias.

    Returns:
        ``{module name: {"C_W": …, "C_b": …}}``; embeddings, which :func:`gaussian_` leaves to torch, have variance 1.
    """
    laws = {name: {"C_W": C_W} if layer.bias is None else {"C_W": C_W, "C_b": C_b} for name, layer in weighted(model)}
    # torch's own law of a table, which has a fan-in of one
    return laws | {name: {"C_W": 1.0} for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
