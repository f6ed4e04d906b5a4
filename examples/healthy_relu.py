"""A ReLU network that trains: He initialization, and wide enough for its depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def build() -> tuple[nn.Module, Tensor]:
    """Return the network and a batch of eight standard Gaussian inputs."""
    torch.manual_seed(0)
    width, depth = 256, 10
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        # A ReLU halves the second moment, so weights of variance 2/fan_in keep it; a bias would add to it.
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    # Nothing follows the output layer that would halve its signal: variance 1/fan_in.
    readout = nn.Linear(width, 10)
    nn.init.normal_(readout.weight, std=width**-0.5)
    nn.init.zeros_(readout.bias)
    layers.append(readout)
    return nn.Sequential(*layers), torch.randn(8, width)
