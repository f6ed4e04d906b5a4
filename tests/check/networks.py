"""Small real networks, one a fault, each beside a control that has it not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES, WIDTH = 32, 64


def mlp(depth: int, act: type[nn.Module], C_W: float | None, *, width: int = WIDTH, C_b: float = 0.0) -> nn.Sequential:
    """Dense layers with a given law; None: PyTorch's own."""
    layers: list[nn.Module] = []
    fan = FEATURES
    for _ in range(depth):
        linear = nn.Linear(fan, width)
        if C_W is not None:
            nn.init.normal_(linear.weight, std=(C_W / fan) ** 0.5)
            nn.init.normal_(linear.bias, std=C_b**0.5) if C_b else nn.init.zeros_(linear.bias)
        layers += [linear, act()]
        fan = width
    return nn.Sequential(*layers, nn.Linear(fan, 10))


class Stream(nn.Module):
    """A residual network with the norm nowhere, before or after."""

    def __init__(self, depth: int, norm: str, gain: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        for block in self.blocks:
            nn.init.normal_(block.weight, std=gain * (2 / WIDTH) ** 0.5)
            nn.init.zeros_(block.bias)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) if norm else nn.Identity() for _ in range(depth))
        self.norm, self.head = norm, nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            if self.norm == "post":
                h = norm(h + torch.relu(block(h)))
            else:
                h = h + torch.relu(block(norm(h)))
        return self.head(h)


class Attention(nn.Module):
    """Attentions in a row, with or without skips."""

    def __init__(self, depth: int, skip: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.MultiheadAttention(WIDTH, 4, batch_first=True) for _ in range(depth))
        for layer in self.layers:
            nn.init.normal_(layer.out_proj.weight, std=WIDTH**-0.5)
        self.stem, self.head, self.skip = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, 10), skip

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for layer in self.layers:
            y = layer(h, h, h, need_weights=False)[0]
            h = h + y if self.skip else y
        return self.head(h)


class Tokens(nn.Module):
    """An embedding, pre-LN blocks and a head."""

    def __init__(self, std: float, depth: int = 4) -> None:
        super().__init__()
        self.emb = nn.Embedding(100, WIDTH)
        nn.init.normal_(self.emb.weight, std=std)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth + 1))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(depth)
        )
        self.head = nn.Linear(WIDTH, 100)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.emb(ids)
        for block, norm in zip(self.blocks, self.norms, strict=False):
            h = h + block(norm(h))
        return self.head(self.norms[-1](h))


class Pooled(nn.Module):
    """A layer that is built and never called, and a tied one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.pooler = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES), nn.Linear(8, 8)
        self.fc2.weight = self.fc1.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))


def shifted_bias(model: nn.Sequential, value: float) -> nn.Sequential:
    """The same network with this bias before each nonlinearity."""
    for module in model[:-1]:
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.bias, value)
    return model


def scaled_head(model: nn.Sequential, factor: float) -> nn.Sequential:
    """The same network with larger weights in its last layer."""
    with torch.no_grad():
        model[-1].weight.mul_(factor)
    return model


def batch(scale: float = 1.0, shift: float = 0.0, rows: int = 8) -> Tensor:
    return scale * torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(5)) + shift


def tokens() -> Tensor:
    return torch.randint(100, (2, 8), generator=torch.Generator().manual_seed(5))


def sequence() -> Tensor:
    return torch.randn(2, 8, FEATURES, generator=torch.Generator().manual_seed(5))
