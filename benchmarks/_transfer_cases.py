"""Networks and sizes of the transfer benchmark, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Pre-norm residual blocks on a stream, without a factor on the branches."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)


class Attention(nn.Module):
    """Four heads, whose dimension grows with the width."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-LN transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Sixteen tokens of 2 x 2 pixels, a learnt position each, pre-LN blocks, the mean of the tokens."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(4, width), nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unflatten(1, (4, 2, 4, 2)).transpose(2, 3).flatten(3).flatten(1, 2)
        h = self.embed(tokens) + self.position
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h).mean(1))


def critical(model: nn.Sequential) -> nn.Module:
    """Weights of variance 2/fan-in, as ReLU has it, the output's 1/fan-in; biases 0."""
    layers = [m for m in model if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        C_W = 1 if layer is layers[-1] else 2
        nn.init.normal_(layer.weight, std=(C_W / layer.weight[0].numel()) ** 0.5)
        nn.init.zeros_(layer.bias)
    return model


def mlp_torch(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else 64, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def mlp(width: int, depth: int) -> nn.Module:
    return critical(mlp_torch(width, depth))


def cnn(width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for i in range(depth):
        layers += [nn.Conv2d(width if i else 1, width, 3, stride=2 if i < 2 else 1, padding=1), nn.ReLU()]
    return critical(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)))


@dataclass(frozen=True)
class Transfer:
    """One family of networks that grow.

    ``grows``: "width" or "depth". ``sizes``: from the base up. ``other``: depth where the width grows, else the width.
    ``start``: rate around which the grid begins at the base.
    """

    name: str
    build: Callable[[int, int], nn.Module]
    grows: str
    sizes: tuple[int, ...]
    other: int
    optimizer: str
    start: float
    steps: int = 60
    batch: int = 64
    seeds: int = 5

    def network(self, size: int) -> nn.Module:
        return self.build(size, self.other) if self.grows == "width" else self.build(self.other, size)


WIDE, NARROW, DEEP = (64, 128, 256, 512, 1024), (64, 128, 256, 512), (4, 8, 16, 32)
CASES = (
    Transfer("mlp", mlp, "width", WIDE, 3, "adam", 1.6e-2),
    Transfer("mlp-sgd", mlp, "width", WIDE, 3, "sgd", 0.25),
    Transfer("torch-mlp", mlp_torch, "width", WIDE, 3, "adam", 4e-3),
    Transfer("torch-mlp-sgd", mlp_torch, "width", WIDE, 3, "sgd", 0.25),
    Transfer("cnn", cnn, "width", NARROW, 3, "adam", 4e-3),
    Transfer("transformer", Transformer, "width", NARROW, 2, "adam", 4e-3),
    Transfer("residual-depth", Residual, "depth", DEEP, 64, "adam", 2e-3),
    Transfer("transformer-depth", Transformer, "depth", DEEP, 64, "adam", 2e-3),
)
# the everyday subset: minutes on one core
QUICK = {"mlp": (64, 128, 256, 512), "torch-mlp": (64, 128, 256, 512), "residual-depth": (4, 8, 16, 32)}
QUICK_STEPS = 40


def digits() -> tuple[Tensor, Tensor]:
    """The first 1200 digits, centred and scaled."""
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)[:1200]
    return (x - x.mean(0)) / x.std(), torch.tensor(data.target)[:1200]
