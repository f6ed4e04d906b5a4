"""A mixture of experts is one step of a Program, and is drawn as a whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from leadline.measure import measure
from leadline.program import trace
from leadline.theory import predict

WIDTH, EXPERTS, TOKENS = 96, 4, 5


class Experts(nn.Module):
    """Tokens sorted by expert, as implementations for speed have it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) * WIDTH**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(0, 1)
        weight, chosen = self.gate(h).softmax(-1).topk(2)
        order = chosen.flatten().argsort()
        token, expert = order // 2, chosen.flatten()[order]
        out = (h[token, None] @ self.up[expert])[:, 0].relu() * weight.flatten()[order, None]
        return torch.zeros_like(h).index_add(0, token, out).view(x.shape)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.experts, self.leave = nn.Linear(8, WIDTH), Experts(), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.leave(h + self.experts(h))


X = torch.randn(2, TOKENS, 8, generator=torch.Generator().manual_seed(0))


def _network() -> Network:
    torch.manual_seed(0)
    net = Network()
    nn.init.normal_(net.enter.weight, std=8**-0.5)
    return net


def test_the_part_that_chooses_is_one_step() -> None:
    program = trace(_network(), X)
    ops = [s.op for s in program.steps]
    assert ops.count("routed") == 1
    assert not {"topk", "argsort", "sort", "index_add", "index"} & set(ops)
    (step,) = [s for s in program.steps if s.op == "routed"]
    assert step.layer == "experts"
    assert [[a.kind for a in dim] for dim in step.layout] == [["sample"], ["site"], ["channel"]]


def test_its_figures_are_those_of_redrawn_networks() -> None:
    net = _network()
    program = trace(net, X)
    prediction, measurement = predict(program), measure(net, X, draws=24, seed=1, program=program)
    assert list(prediction.drawn) == [s.name for s in program.steps if s.op == "routed"]
    measured = {r.step: r.values for r in measurement.rows}
    seen = compared = 0
    for row in prediction.rows:
        for quantity in ("kernel", "partial_jacobian"):
            mine, theirs = row.values.get(quantity), measured[row.step].get(quantity)
            if mine is None or theirs is None:
                continue
            allowed = 4 * math.hypot(mine.error, theirs.error) + 0.03 * theirs.value
            assert abs(mine.value - theirs.value) < allowed, (row.op, quantity, mine, theirs)
            compared += 1
            seen += abs(1.5 * mine.value - theirs.value) > allowed
    assert seen > compared / 2  # figures that are half as large again would not pass


def test_a_choice_of_fixed_values_is_left_alone() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.dense(x.sort(-1).values)

    assert [s.op for s in trace(Sorted(), X).steps] == ["linear"]
