"""Dense networks of the cases, as plain ``torch.nn`` modules; the constructors draw nothing of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS",
    "Erf",
    "PostNormMLP",
    "PreNormMLP",
    "ReluAfterAdd",
    "Sin",
    "SwiGLU",
    "TiedHead",
    "WrittenRMSNorm",
    "mlp",
]


class Erf(nn.Module):
    """The error function."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every entry."""
        return torch.erf(x)


class Sin(nn.Module):
    """The sine."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every entry."""
        return torch.sin(x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "erf": Erf,
    "sin": Sin,
    "sigmoid": nn.Sigmoid,
    "selu": nn.SELU,
}


def mlp(
    widths: Sequence[int], act: str = "relu", *, norm: Callable[[int], nn.Module] | None = None, dropout: float = 0.0
) -> nn.Sequential:
    """A chain of dense layers: each but the last followed by norm (if any), activation and dropout (if any).

    Args:
        widths: of the input, the hidden layers and the output.
        act: one of :data:`ACTIVATIONS`.
        norm: from a width to a module.
        dropout: probability.

    Returns:
        The network, with torch's own init.
    """
    layers: list[nn.Module] = []
    for number, (n_in, n_out) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(n_in, n_out))
        if number == len(widths) - 2:
            break
        if norm is not None:
            layers.append(norm(n_out))
        layers.append(ACTIVATIONS[act]())
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


class WrittenRMSNorm(nn.Module):
    """Root-mean-square norm written out, as many models have it."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the root of the mean square over channels."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class _Branch(nn.Module):
    def __init__(
        self, width: int, hidden: int, act: str, norm: Callable[[int], nn.Module], scale: float, gain: bool
    ) -> None:
        super().__init__()
        self.norm = norm(width)
        self.up, self.act, self.down = nn.Linear(width, hidden), ACTIVATIONS[act](), nn.Linear(hidden, width)
        self.scale = scale
        self.gain = nn.Parameter(torch.full((width,), scale)) if gain else None

    def branch(self, x: Tensor) -> Tensor:
        """What is added to the stream."""
        h = self.down(self.act(self.up(x)))
        if self.gain is not None:
            return self.gain * h
        return h if self.scale == 1.0 else self.scale * h


class _PreNormBlock(_Branch):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.norm(x))


class _PostNormBlock(_Branch):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.branch(x))


class _ResidualMLP(nn.Module):
    block: type[_Branch]

    def __init__(
        self,
        n_in: int,
        width: int,
        depth: int,
        n_out: int,
        *,
        act: str = "relu",
        scale: float = 1.0,
        gain: bool = False,
        hidden: int | None = None,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        last_norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(n_in, width)
        self.blocks = nn.Sequential(*(self.block(width, hidden or width, act, norm, scale, gain) for _ in range(depth)))
        self.norm = nn.Identity() if last_norm is None else last_norm(width)
        self.head = nn.Linear(width, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Enter, run the blocks, read out."""
        return self.head(self.norm(self.blocks(self.enter(x))))


class PreNormMLP(_ResidualMLP):
    """Blocks x + scale * W act(W norm(x)); ``gain`` makes the scale a learned vector (LayerScale)."""

    block = _PreNormBlock


class PostNormMLP(_ResidualMLP):
    """Blocks norm(x + scale * W act(W x))."""

    block = _PostNormBlock


class ReluAfterAdd(nn.Module):
    """h <- relu(W h + h): the sum's terms are dependent, and so is every later step on them."""

    def __init__(self, n_in: int, width: int, depth: int, n_out: int) -> None:
        super().__init__()
        self.enter = nn.Linear(n_in, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Enter, add and rectify, read out."""
        h = self.enter(x).relu()
        for layer in self.layers:
            h = (layer(h) + h).relu()
        return self.head(h)


class SwiGLU(nn.Module):
    """W (silu(V x) * U x), once or more, between an entry and a read-out."""

    def __init__(self, n_in: int, width: int, depth: int, n_out: int, *, gate: bool = True) -> None:
        super().__init__()
        self.enter = nn.Linear(n_in, width)
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.ups = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.downs = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, n_out)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Enter, gate, read out; without ``gate`` the product lacks its nonlinearity."""
        h = self.enter(x)
        for gate, up, down in zip(self.gates, self.ups, self.downs, strict=True):
            h = down((nn.functional.silu(gate(h)) if self.gate else 0.5 * gate(h)) * up(h))
        return self.head(h)


class TiedHead(nn.Module):
    """Token embedding, two dense layers on a skip, and the embedding again as the read-out."""

    def __init__(self, vocabulary: int, width: int, act: str = "gelu") -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)
        self.up, self.act, self.down = nn.Linear(width, width), ACTIVATIONS[act](), nn.Linear(width, width)
        self.last = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of every token."""
        h = self.embed(ids)
        h = h + self.down(self.act(self.up(self.norm(h))))
        return nn.functional.linear(self.last(h), self.embed.weight)
