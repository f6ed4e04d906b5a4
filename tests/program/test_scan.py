"""A recurrence that decays by the exponential of a learned rate is one step of a Program, and is drawn as a whole."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadline.measure import measure
from leadline.program import trace
from leadline.theory import predict

WIDTH, STATES, TOKENS = 96, 4, 5


class Selective(nn.Module):
    """h_t = exp(-rate dt_t) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t, times a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(WIDTH, 2 * WIDTH)
        self.step = nn.Linear(WIDTH, WIDTH)
        self.mix = nn.Linear(WIDTH, 2 * STATES)
        self.log_rate = nn.Parameter(torch.arange(1.0, STATES + 1).log().repeat(WIDTH, 1))
        self.leave = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.enter(x).chunk(2, -1)
        h = F.silu(h)
        dt, (b, c) = F.softplus(self.step(h)), self.mix(h).chunk(2, -1)
        decay = torch.exp(-torch.exp(self.log_rate) * dt[..., None])
        state, out = torch.zeros(x.shape[0], WIDTH, STATES), []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + (dt * h)[:, t, :, None] * b[:, t, None]
            out.append((state @ c[:, t, :, None])[..., 0])
        return self.leave(torch.stack(out, 1) * F.silu(gate))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mixer, self.norm = nn.Embedding(20, WIDTH), Selective(), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return self.head(self.norm(h + self.mixer(h)))


X = torch.randint(20, (2, TOKENS), generator=torch.Generator().manual_seed(0))


def test_the_recurrence_is_one_step_between_its_layers() -> None:
    torch.manual_seed(0)
    program = trace(Network(), X)
    (step,) = [s for s in program.steps if s.op == "scan"]
    assert step.layer == "mixer"
    assert [[a.kind for a in dim] for dim in step.layout] == [["sample"], ["site"], ["channel"]]
    layers = [s.layer for s in program.steps if s.weighted]
    assert layers == ["embed", "mixer.enter", "mixer.step", "mixer.mix", "mixer.leave", "head"]


def test_its_figures_are_those_of_redrawn_networks() -> None:
    torch.manual_seed(0)
    net = Network()
    program = trace(net, X)
    prediction, measurement = predict(program), measure(net, X, draws=24, seed=1, program=program)
    measured = {r.step: r.values for r in measurement.rows}
    seen = compared = 0
    for row in prediction.rows:
        mine, theirs = row.values["kernel"], measured[row.step].get("kernel")
        assert math.isfinite(mine.value)
        if theirs is None:
            continue
        allowed = 4 * math.hypot(mine.error, theirs.error) + 0.05 * theirs.value
        assert abs(mine.value - theirs.value) < allowed, (row.op, row.layer, mine, theirs)
        compared += 1
        seen += abs(1.5 * mine.value - theirs.value) > allowed
    assert seen >= compared / 2  # figures that are half as large again would not pass


def test_other_exponentials_are_left_alone() -> None:
    class Positive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.exp(-self.one(x).square()))

    ops = [s.op for s in trace(Positive(), torch.ones(2, 8)).steps]
    assert ops == ["linear", "pointwise", "linear"]
