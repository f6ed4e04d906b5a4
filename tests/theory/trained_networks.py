"""Many real networks of one law, trained at once by full-batch rules, with the gradients written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from leadline.theory.flow import Layers


@dataclass
class Networks:
    """N networks of a law; ``antithetic`` pairs share hidden layers and have opposite outputs."""

    layers: Layers
    count: int
    seed: int
    antithetic: bool = False
    W: list[Tensor] = field(init=False)
    b: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        options = {"generator": generator, "dtype": torch.float64}
        widths, N = self.layers.widths, self.count // (2 if self.antithetic else 1)
        self.W, self.b = [], []
        for layer, (n_in, n) in enumerate(pairwise(widths)):
            W = torch.randn(N, n, n_in, **options) * (self.layers.C_W[layer] / n_in) ** 0.5
            b = torch.randn(N, n, 1, **options) * self.layers.C_b[layer] ** 0.5
            if self.antithetic:
                sign = -1 if layer == self.layers.depth - 1 else 1
                W, b = torch.cat([W, sign * W]), torch.cat([b, sign * b])
            self.W.append(W)
            self.b.append(b)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Layer inputs, pre-activations of hidden layers, output (N, outputs, m)."""
        h, hidden, z = [x.T.expand(len(self.W[0]), -1, -1)], [], None
        for layer, (W, b) in enumerate(zip(self.W, self.b), start=1):
            z = torch.baddbmm(b, W, h[-1])
            if layer < self.layers.depth:
                hidden.append(z)
                h.append(self.layers.activation.fn(z))
        return h, hidden, z

    def gradients(self, x: Tensor, error: Callable[[Tensor], Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(layer, gradient of W, gradient of b) from the errors at the outputs, last layer first."""
        h, hidden, z = self.forward(x)
        delta = error(z)
        for i in reversed(range(self.layers.depth)):
            above = self.W[i].mT @ delta if i else None
            yield i, delta @ h[i].mT, delta.sum(-1, keepdim=True)
            if above is not None:
                delta = above * self.layers.activation.derivative(hidden[i - 1])


def train(
    networks: Networks,
    x: Tensor,
    Y: Tensor,
    steps: Sequence[int],
    rate: float,
    *,
    decay: float = 0.0,
    whiten: Tensor | None = None,
    tensor: Callable[[int, Tensor], Tensor | float] | None = None,
) -> Tensor:
    """Train on the first rows of x and return outputs at all of x after each number of steps, (T, N, m).

    ``whiten`` multiplies the errors; ``tensor(i, like)`` multiplies a layer's weight learning rates.
    """
    M, layers = len(Y), networks.layers
    P = torch.eye(M, dtype=x.dtype) if whiten is None else whiten
    speed: dict[tuple[int, str], Tensor] = {}
    extra = [1.0 if tensor is None else tensor(i, W) for i, W in enumerate(networks.W)]
    found = []
    for step in range(max(steps) + 1):
        if step in steps:
            found.append(networks.forward(x)[2][:, 0])
        if step == max(steps):
            break
        for i, gW, gb in networks.gradients(x[:M], lambda z: (z - Y) @ P):
            n = layers.widths[i]
            for kind, parameter, gradient in (
                ("W", networks.W[i], gW * extra[i] * (layers.lambda_W[i] / n)),
                ("b", networks.b[i], gb * layers.lambda_b[i]),
            ):
                move = speed.get((i, kind), 0.0) * decay - rate * gradient
                if decay:
                    speed[i, kind] = move
                parameter += move
    return torch.stack(found)
