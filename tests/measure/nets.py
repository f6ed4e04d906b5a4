"""Small networks of every kind that a measurement must read, with the laws that their initializers draw."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STANDARD = {"C_W": 1 / 3}  # torch's own: uniform on +-1/sqrt(fan_in), weight and bias


def stated(model: nn.Module) -> dict[str, dict[str, float]]:
    """The law of torch's initializers: what is read from few entries has an error of its own."""
    law = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            fan = module.weight[0].numel()
            law[name] = STANDARD if module.bias is None else STANDARD | {"C_b": 1 / (3 * fan)}
    return law


def dense(C_W: float = 1.5, C_b: float = 0.1, *, width: int = 256, depth: int = 4) -> nn.Sequential:
    """A tanh network with Gaussian weights."""
    sizes = [32, *[width] * depth, 16]
    layers: list[nn.Module] = []
    for fan, out in itertools.pairwise(sizes):
        layer = nn.Linear(fan, out)
        nn.init.normal_(layer.weight, std=(C_W / fan) ** 0.5)
        nn.init.normal_(layer.bias, std=C_b**0.5)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Image(nn.Module):
    """Strides, padding, groups, max pooling, a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 64, 3, padding=1)
        self.second = nn.Conv2d(64, 64, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(64, 64, 3, groups=2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.head(F.max_pool2d(torch.tanh(self.grouped(x)), 2).flatten(1))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Residual(nn.Module):
    """Pre-norm residual blocks."""

    def __init__(self, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(16, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class PostActivation(nn.Module):
    """relu(x + f(x)): a nonlinearity of something that is not Gaussian."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(16, width), nn.Linear(width, 8)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = F.relu(x + layer(x))
        return self.head(x)


class Gated(nn.Module):
    """A SwiGLU unit beside an RMSNorm, scaled."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(16, width), nn.RMSNorm(width)
        self.gate, self.up = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return 0.5 * self.down(F.silu(self.gate(x)) * self.up(x)) + self.norm(x)


def normalised(*, dropout: float = 0.2) -> nn.Sequential:
    """BatchNorm and dropout in train mode."""
    return nn.Sequential(
        nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Dropout(dropout), nn.Linear(64, 8),
    )  # fmt: skip


def gpt2(**more: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Two blocks of GPT-2 and a batch of token ids."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 200, "n_positions": 32}
    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**(sizes | off | more))).eval()
    return model, {"input_ids": torch.randint(0, 200, (2, 10)), "use_cache": False}


NETS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "dense": lambda: (dense(width=64), torch.randn(2, 32)),
    "image": lambda: (Image(), torch.randn(2, 16, 8, 8)),
    "residual": lambda: (Residual(64), torch.randn(3, 16)),
    "post_activation": lambda: (PostActivation(), torch.randn(3, 16)),
    "gated": lambda: (Gated(), torch.randn(3, 16)),
    "normalised": lambda: (normalised(dropout=0.0), torch.randn(8, 16)),
    "gpt2": gpt2,
    "encoder": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True), 2).eval(),
        torch.randn(2, 6, 32),
    ),
    "lstm": lambda: (nn.LSTM(8, 32, batch_first=True), torch.randn(2, 5, 8)),
}
