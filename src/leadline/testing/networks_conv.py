"""Convolutional networks of the cases."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from leadline.testing.networks import ACTIVATIONS

__all__ = ["ConcatNet", "cnn", "separable"]


def cnn(
    channels: int,
    *,
    act: str = "relu",
    n_in: int = 3,
    n_out: int = 64,
    layers: tuple[dict[str, Any], ...],
    pool: str = "flatten",
    pixels: int = 8,
    norm: str = "",
    between: str = "",
) -> nn.Sequential:
    """Convolutions, each followed by norm (if any) and activation, then a pool and a read-out.

    Args:
        channels: of every hidden layer.
        act: one of :data:`ACTIVATIONS`.
        n_in: channels of the image.
        n_out: units of the read-out.
        layers: keyword arguments of each ``nn.Conv2d`` beside its channels (``kernel_size`` is 3 unless given).
        pool: "flatten" or "global" (average over all pixels).
        pixels: side of the image at the end, needed to flatten.
        norm: "", "group" or "batch".
        between: "", "max" or "avg": a 2 x 2 pool after the first activation.

    Returns:
        The network, with torch's own init.
    """
    modules: list[nn.Module] = []
    for number, options in enumerate(layers):
        modules.append(nn.Conv2d(n_in if number == 0 else channels, channels, **{"kernel_size": 3, **options}))
        if norm == "group":
            modules.append(nn.GroupNorm(4, channels))
        elif norm == "batch":
            modules.append(nn.BatchNorm2d(channels))
        modules.append(ACTIVATIONS[act]())
        if number == 0 and between:
            modules.append(nn.MaxPool2d(2) if between == "max" else nn.AvgPool2d(2))
    if pool == "global":
        modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_out)]
    else:
        modules += [nn.Flatten(), nn.Linear(channels * pixels * pixels, n_out)]
    return nn.Sequential(*modules)


def separable(
    channels: int,
    depth: int,
    *,
    n_in: int = 3,
    n_out: int = 64,
    padding_mode: Literal["zeros", "circular"] = "zeros",
    norm: bool = False,
) -> nn.Sequential:
    """A 1 x 1 entry, blocks of a depthwise 3 x 3 and a pointwise 1 x 1 convolution and a ReLU, pool and read-out.

    Args:
        channels: of every hidden layer.
        depth: number of blocks.
        n_in: channels of the image.
        n_out: units of the read-out.
        padding_mode: of the depthwise convolutions.
        norm: batch norm after each pointwise convolution.

    Returns:
        The network, with torch's own init.
    """
    modules: list[nn.Module] = [nn.Conv2d(n_in, channels, 1), nn.ReLU()]
    for _ in range(depth):
        modules += [
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, padding_mode=padding_mode),
            nn.Conv2d(channels, channels, 1),
        ]
        modules += [nn.BatchNorm2d(channels)] if norm else []
        modules.append(nn.ReLU())
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_out))


class ConcatNet(nn.Module):
    """One scale down and up again by a transposed convolution, the skip concatenated (a small U-Net)."""

    def __init__(self, channels: int, *, skip: bool = True) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.mix = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(channels, 64, 1)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """64 values a pixel; without ``skip`` the first half is the second again."""
        one = self.enter(x).relu()
        two = self.up(self.down(one).relu())
        return self.leave(self.mix(torch.cat([two, one if self.skip else two], 1)).relu())
