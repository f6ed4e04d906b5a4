"""Networks whose weights are planned, and what is read off a plan."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

import leadline as ll
from leadline.program import Program
from leadline.testing.networks import mlp
from leadline.theory import Prediction, predict
from leadline.tune.init_design import Plan, full_plan
from leadline.tune.init_places import Places, find_places

FEATURES = 24


def batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*(shape or (8, FEATURES)), generator=torch.Generator().manual_seed(seed))


def seeded(make: type[nn.Module] | object, *args: object, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*args)  # type: ignore[operator, no-any-return]


def chain(act: str, depth: int, width: int = 32) -> nn.Module:
    return seeded(mlp, [FEATURES, *[width] * depth, 5], act)


class Residual(nn.Module):
    """A stream with dense branches; one pair of weights for all blocks where they are shared."""

    def __init__(self, depth: int, *, shared: bool = False, norm: str = "", width: int = 32) -> None:
        super().__init__()
        count = 1 if shared else depth
        self.stem, self.head = nn.Linear(FEATURES, width), nn.Linear(width, 5)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
        for layer in (*self.up, *self.down):
            nn.init.normal_(layer.weight, std=(2 / width) ** 0.5)
            nn.init.zeros_(layer.bias)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth)) if norm else None
        self.norm, self.depth = norm, depth

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for i in range(self.depth):
            up, down = self.up[i % len(self.up)], self.down[i % len(self.down)]
            inner = self.norms[i](h) if self.norms is not None and self.norm == "pre" else h
            y = down(torch.relu(up(inner)))
            h = self.norms[i](h + y) if self.norms is not None and self.norm == "post" else h + y
        return self.head(h)


class Images(nn.Module):
    def __init__(self, depth: int, channels: int, act: nn.Module, *, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        sizes = [1, *[channels] * depth]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, kernel, padding=kernel // 2, stride=stride if i else 1)
            for i, (a, b) in enumerate(pairwise(sizes))
        )
        self.act, self.head = act, nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x.mean((2, 3)))


class Gated(nn.Module):
    """A chain of gated units without norms, whose second moments multiply."""

    def __init__(self, depth: int, width: int = 64) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(FEATURES, width), nn.Linear(width, 5)
        self.gates, self.ups, self.downs = (
            nn.ModuleList(nn.Linear(width, width) for _ in range(depth)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for gate, up, down in zip(self.gates, self.ups, self.downs, strict=True):
            h = down(nn.functional.silu(gate(h)) * up(h))
        return self.head(h)


def planned(
    model: nn.Module, x: Tensor, frozen: frozenset[str] = frozenset()
) -> tuple[Program, Places, Prediction, Plan]:
    program = ll.trace(model, x)
    places, base = find_places(program), predict(program)
    return program, places, base, full_plan(program, places, base, frozen)


def rows(prediction: Prediction, op: str = "linear") -> list[float]:
    return [r.get("kernel") or 0.0 for r in prediction.rows if r.op == op]
