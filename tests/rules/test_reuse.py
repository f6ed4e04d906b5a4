"""Weights that several steps use: looped blocks and twin branches, against drawn networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadline.measure import measure
from leadline.program import Program, trace
from leadline.rules import context
from leadline.testing.agreement import assert_agree, comparisons
from leadline.theory import Prediction, predict

WIDTH, IN = 256, 16


def batch(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Looped(nn.Module):
    """One block used again and again on a residual stream."""

    def __init__(self, loops: int, *, norm: bool = True, second: bool = True) -> None:
        super().__init__()
        self.enter, self.a, self.out = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 16)
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
        self.b = nn.Linear(WIDTH, WIDTH) if second else nn.Identity()
        self.loops = loops

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for _ in range(self.loops):
            h = h + 0.5 * self.b(torch.tanh(self.a(self.norm(h))))
        return self.out(h)


class LoopedAttention(nn.Module):
    """One pre-norm attention block, three times."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv = nn.Linear(IN, WIDTH), nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.o, self.norm, self.out = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for _ in range(3):
            z = self.norm(h)
            q, k, v = (f(z).unflatten(-1, (4, -1)).transpose(1, 2) for f in self.qkv)
            h = h + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.out(h)


class LoopedConv(nn.Module):
    """One convolution, three times."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.conv = nn.Conv2d(3, 96, 3, padding=1), nn.Conv2d(96, 96, 3, padding=1)
        self.out = nn.Linear(96 * 25, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for _ in range(3):
            h = h + self.conv(torch.relu(h))
        return self.out(h.flatten(1))


class Twins(nn.Module):
    """Two halves of the input through one encoder; their difference counts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(IN, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.out = nn.Linear(WIDTH, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(x[:, :IN]) - self.encoder(x[:, IN:]))


class TwinTokens(nn.Module):
    """Two sequences through one embedding and one layer; their product counts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.out = nn.Embedding(12, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 16)

    def forward(self, ids: Tensor) -> Tensor:
        a, b = (torch.tanh(self.layer(self.embed(part))) for part in ids.chunk(2, 1))
        return self.out((a * b).mean(1))


class Tied(nn.Module):
    """A tied autoencoder on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.encode, self.out = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, 320), nn.Linear(WIDTH, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.out(h + torch.tanh(F.linear(torch.tanh(self.encode(h)), self.encode.weight.T)))


def law(program: Program) -> dict[str, dict[str, float]]:
    """C_W 1.3, C_b 0.05 in every layer with weights, so that no law is read."""
    weighted = {s.layer for s in program.steps if s.weighted and s.layer and s.op != "embedding"}
    return {layer: {"C_W": 1.3, "C_b": 0.05} for layer in weighted} | {"embed": {"C_W": 1.0}}


NETS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "looped": lambda: (Looped(3), batch(3, IN)),
    "looped, no norm": lambda: (Looped(3, norm=False), batch(3, IN)),
    "looped, one layer a branch": lambda: (Looped(2, norm=False, second=False), batch(3, IN)),
    "looped attention": lambda: (LoopedAttention(), batch(2, 4, IN)),
    "looped convolution": lambda: (LoopedConv(), batch(2, 3, 5, 5)),
    "tied autoencoder": lambda: (Tied(), batch(3, IN)),
    "twins": lambda: (Twins(), torch.cat([batch(2, IN), batch(2, IN) + 0.3 * batch(2, IN, seed=2)], 1)),
    "twin tokens": lambda: (TwinTokens(), torch.tensor([[1, 2, 3, 1, 5, 3], [0, 2, 9, 9, 2, 0]])),
}


def sides(name: str, draws: int = 64) -> tuple[Prediction, Callable[[], object]]:
    torch.manual_seed(0)
    net, x = NETS[name]()
    program = trace(net, x)
    stated = {k: v for k, v in law(program).items() if any(s.layer == k for s in program.steps)}
    program = trace(net, x, law=stated)
    return predict(program), lambda: measure(net, program=program, draws=draws, seed=3)


@pytest.mark.parametrize("name", NETS)
def test_one_weight_in_several_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, measured = sides(name)
    measurement = measured()
    assert not prediction.drawn
    assert_agree(prediction, measurement, precise=False)
    # the control: each use with weights of its own
    monkeypatch.setattr(context, "weights_in_several_steps", lambda program: frozenset())
    independent, _ = sides(name)
    worst = max(c.excess for c in comparisons(independent, measurement))
    assert worst > 2.0


def test_a_weight_that_comes_back_twice_has_no_rule_and_says_so() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.layer = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.layer(torch.tanh(self.layer(self.enter(x)))))
            return F.linear(h, self.layer.weight.T)

    found = predict(trace(Twice(), batch(2, IN)))
    assert list(found.drawn.values()) == ["its weight is that of several earlier steps, transposed"]
