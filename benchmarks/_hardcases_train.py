"""Train many copies of one network at once: every seed at every learning rate, batched by ``torch.func.vmap``.

Layers of 64 units cost a processor hardly more for twenty copies than for one. The copies share nothing: each has its
own weights, its own buffers, its own group in torch's Adam.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Copy", "Trained", "train"]

_LAST = 20


@dataclass(frozen=True)
class Copy:
    """One run: initial weights, the stream of batches it sees, its learning rate."""

    model: nn.Module
    batches: Tensor
    rate: float


@dataclass(frozen=True)
class Trained:
    """``loss`` and ``accuracy`` on all training samples, ``held_loss`` and ``held_accuracy`` on the held-out ones.

    ``first``: loss of the first batch. ``last``: mean over the last twenty batches. Losses are infinite where a run left
    the numbers.
    """

    first: float
    last: float
    loss: float
    accuracy: float
    held_loss: float
    held_accuracy: float


def train(
    copies: Sequence[Copy],
    data: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    device: str = "cpu",
) -> list[Trained]:
    """Train copies of one architecture with Adam.

    Args:
        copies: with batches of one shape (steps, batch).
        data: training x and y, held-out x and y.
        device: to train on.

    Returns:
        What became of each.
    """
    x, y, held_x, held_y = (part.to(device) for part in data)
    template = copies[0].model.to(device).train()
    names = [n for n, _ in template.named_parameters()]
    shapes = [p.shape for p in template.parameters()]
    sizes = [s.numel() for s in shapes]
    # one vector a copy is a parameter of torch's Adam, in a group of its own
    rows = [torch.cat([p.detach().flatten() for p in c.model.parameters()]).to(device).requires_grad_() for c in copies]
    buffers = {
        n: torch.stack([dict(c.model.named_buffers())[n].to(device) for c in copies])
        for n, _ in template.named_buffers()
    }
    optimizer = torch.optim.Adam([{"params": [r], "lr": c.rate} for r, c in zip(rows, copies, strict=True)], fused=True)
    indices = torch.stack([c.batches for c in copies], 1).to(device)

    def forward(weights: dict[str, Tensor], kept: dict[str, Tensor], inputs: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the others have no batching rule
            return functional_call(template, (weights, kept), (inputs,))

    def weights() -> dict[str, Tensor]:
        pieces = torch.stack(rows).split(sizes, 1)
        return {n: p.view(len(copies), *s) for n, p, s in zip(names, pieces, shapes, strict=True)}

    every = vmap(forward, in_dims=(0, 0, 0), randomness="error")
    losses: list[Tensor] = []
    for index in indices:
        logits = every(weights(), buffers, x[index])
        each = nn.functional.cross_entropy(logits.flatten(0, 1), y[index].flatten(), reduction="none")
        each = each.view(len(copies), -1).mean(1)
        losses.append(each.detach())
        optimizer.zero_grad(set_to_none=True)
        each.sum().backward()
        optimizer.step()
    template.eval()
    with torch.no_grad():
        final = weights()
        shared = vmap(forward, in_dims=(0, 0, None), randomness="error")
        found = [_score(torch.cat([shared(final, buffers, p) for p in a.split(200)], 1), b) for a, b in ((x, y), (held_x, held_y))]  # fmt: skip
    path = torch.stack(losses)
    numbers = [path[0], path[-_LAST:].mean(0), *found[0], *found[1]]
    return [Trained(*(_finite(float(n[i])) for n in numbers)) for i in range(len(copies))]


def _score(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss and accuracy of each copy, from logits of shape (copies, samples, classes)."""
    loss = nn.functional.cross_entropy(logits.transpose(1, 2), y.expand(len(logits), -1), reduction="none").mean(1)
    return loss, (logits.argmax(-1) == y).float().mean(1)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
