"""A deep tanh network whose signal dies: forty layers with PyTorch's default initialization."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def build() -> tuple[nn.Module, Tensor]:
    """Return the network and a batch of eight standard Gaussian inputs."""
    torch.manual_seed(0)
    width, depth = 128, 40
    layers: list[nn.Module] = []
    for _ in range(depth):
        # nn.Linear draws its weights with variance 1/(3 fan_in). tanh needs 1/fan_in to carry a signal on,
        # so every layer loses about two thirds of it; the biases, equal for all inputs, are what is left.
        layers += [nn.Linear(width, width), nn.Tanh()]
    layers.append(nn.Linear(width, 10))
    return nn.Sequential(*layers), torch.randn(8, width)
