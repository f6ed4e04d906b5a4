"""Several draws at once give what one at a time gives; pairs, refusals, broken draws."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leadline
from leadline.measure import measure
from leadline.measure.redraw import Redrawer
from leadline.program import Program, trace
from leadline.theory.steps import rowed_steps
from measure.nets import NETS, dense, normalised
from refusals import refused


@functools.cache
def traced(name: str) -> tuple[nn.Module, Program]:
    model, batch = NETS[name]()
    return model, trace(model, batch)


@pytest.mark.parametrize("name", ["image", "residual", "normalised", "gpt2", "encoder"])
def test_batched_draws_equal_single_ones(name: str) -> None:
    model, program = traced(name)
    together = measure(model, program=program, draws=4, probes=2)
    alone = measure(model, program=program, draws=4, probes=2, batched=False)
    assert (together.batched, alone.batched) == (4, 1)
    assert together.single is None
    for one, two in zip(together.rows, alone.rows, strict=True):
        assert one.values.keys() == two.values.keys()
        for quantity, value in one.values.items():
            other = two.values[quantity]
            slack = 1e-7 if quantity == "spread" or "correlation" in quantity else 0.0
            assert value.value == pytest.approx(other.value, rel=2e-3, abs=slack), (one.step, quantity)


@pytest.mark.parametrize("name", NETS)
def test_there_is_a_row_for_every_step_that_has_one(name: str) -> None:
    model, program = traced(name)
    found = measure(model, program=program, draws=2)
    assert [(r.step, r.layer, r.op) for r in found.rows] == [(s.name, s.layer, s.op) for s in rowed_steps(program)]
    for row in found.rows:
        assert row.values["kernel"].value > 0
        assert all(math.isfinite(v.value) for v in row.values.values())
    assert found.nonfinite == {}


class Stubborn(nn.Module):
    """An operator without a batching rule that needs one: a boolean mask of the values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return torch.linalg.solve_triangular(torch.tril(z) + 3 * torch.eye(4), z, upper=False) + z.sort(0).values


def test_seeds_and_batches_do_not_depend_on_each_other() -> None:
    model, x = dense(width=16, depth=2), torch.randn(2, 32)
    one, two = (measure(model, x, draws=6, seed=3) for _ in range(2))
    assert one.to_dict() == two.to_dict()
    other = measure(model, x, draws=6, seed=4)
    assert other.rows[0].get("kernel") != one.rows[0].get("kernel")
    assert measure(Stubborn(), torch.randn(4, 4), draws=2).rows[0].get("kernel") > 0


def test_each_draw_has_its_own_dropout() -> None:
    model, x = nn.Sequential(nn.Linear(16, 64), nn.Dropout(0.5)), torch.randn(2, 16)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1.0)  # constants are kept, so that only the masks differ
    for batched in (True, False):
        found = measure(model, x, draws=8, batched=batched)
        assert found.rows[0].values["kernel"].error == pytest.approx(0, abs=1e-9)
        assert found.rows[1].values["kernel"].error > 0


def test_antithetic_draws_mirror_every_random_weight() -> None:
    model = nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 1, bias=False))
    nn.init.zeros_(model[0].bias)
    x = torch.randn(1, 8)
    plain = measure(model, x, draws=200)
    found = measure(model, x, draws=200, antithetic=True)
    first, relu = found.rows[0].values["kernel"], found.rows[1].values["kernel"]
    assert relu.value == pytest.approx(first.value / 2, rel=1e-5)  # relu(z)^2 + relu(-z)^2 = z^2
    assert first.error == pytest.approx(plain.rows[0].values["kernel"].error * math.sqrt(2), rel=0.25)
    exact = float(x.square().mean()) / 3
    assert abs(first.value - exact) < 4 * first.error


def test_probes_narrow_the_gradient() -> None:
    model, x = dense(width=32, depth=2), torch.randn(2, 32)
    few, many = (measure(model, x, draws=24, probes=p).rows[0].values["partial_jacobian"] for p in (1, 16))
    assert many.error < 0.6 * few.error
    assert abs(many.value - few.value) < 4 * few.error


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.exp(40 * self.first(x)))


def test_draws_that_overflow_are_counted_and_left_out() -> None:
    model, x = Overflowing(), 3 * torch.ones(2, 4)
    found = measure(model, x, draws=24)
    first, exp = found.rows[0], found.rows[1]
    assert exp.op == "pointwise"
    assert 0 < found.nonfinite["exp"] < 24
    assert first.step not in found.nonfinite
    assert found.nonfinite_changes[first.step] >= found.nonfinite["exp"]
    assert math.isfinite(exp.get("kernel"))
    everywhere = measure(model, 1000 * torch.ones(2, 4), draws=2)
    assert everywhere.to_dict()["rows"][1]["kernel"] == {"measured": None, "stderr": None}


def test_small_gradients_do_not_vanish() -> None:
    layers = [nn.Linear(16, 16) for _ in range(16)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.25 * 3e-3)
        nn.init.zeros_(layer.bias)
    found = measure(nn.Sequential(*layers), torch.randn(2, 16), draws=4)
    assert 0 < found.rows[0].get("partial_jacobian") < 1e-60  # below the smallest number of single precision


def test_half_precision_is_measured_in_double() -> None:
    model, x = dense(width=64, depth=2).bfloat16(), torch.randn(2, 32, dtype=torch.bfloat16)
    found = measure(model, x, draws=16)
    kernel = found.rows[0].values["kernel"]
    exact = 1.5 * float(x.double().square().mean()) + 0.1
    assert abs(kernel.value - exact) < 4 * kernel.error + 0.05 * exact  # the law is read from few entries
    assert "chi_parallel" in found.rows[2].values


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    measure(dense(width=16, depth=1), torch.randn(2, 32), draws=5, progress=lambda a, b: told.append((a, b)))
    assert told[-1] == (5, 5)
    assert [a for a, _ in told] == sorted(a for a, _ in told)


def test_refusals() -> None:
    model, x = normalised(), torch.randn(8, 16)
    with refused("draws=1", "at least 2"):
        measure(model, x, draws=1)
    with refused("probes=0", "at least 1"):
        measure(model, x, probes=0)
    with refused("draws=3 with antithetic=True", "even"):
        measure(model, x, draws=3, antithetic=True)
    program = trace(model, x)
    with refused("not the one that the Program was traced with", "trace the model"):
        measure(model, x + 1, program=program)
    assert len(measure(model, x, program=program, draws=2).rows) == len(rowed_steps(program))


def test_stated_laws_are_drawn_from() -> None:
    model, x = dense(width=256, depth=1), torch.randn(2, 32)
    program = trace(model, x, law={"0": {"C_W": 6.0, "C_b": 0.0}})
    found = measure(model, x, program=program, draws=16)
    kernel = found.rows[0].values["kernel"]
    assert abs(kernel.value - 6 * float(x.square().mean())) < 4 * kernel.error
    assert found.routes is not None
    assert found.routes.routes["0.weight"].way == "law"
    assert isinstance(Redrawer(model).report.routes, dict)


_QUIET = """
import sys
import torch
from leadline.measure import measure

class Unbatched(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)
    def forward(self, x):
        z = self.layer(x)
        return z * torch.histc(z.detach(), 4).sum()  # has no batching rule

found = measure(Unbatched(), torch.randn(3, 8), draws=3)
assert (found.batched, found.single) == (3, None)
print("and now aloud", file=sys.stderr, flush=True)
torch.func.vmap(torch.ops.aten.histc.default)(torch.randn(3, 8))
"""


def test_advice_about_batching_rules_stays_off_the_terminal() -> None:
    where = str(Path(leadline.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", _QUIET],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": where},
    )
    assert done.returncode == 0, done.stderr
    before, _, after = done.stderr.partition("and now aloud")
    assert "performance drop" not in before
    assert "performance drop" in after  # outside a measurement the process warns as before
