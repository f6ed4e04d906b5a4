"""Plans of weights: what each place asks for, what drawn networks say of it, what is left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import leadline as ll
from leadline.measure import measure
from leadline.program import Program
from leadline.theory import predict
from leadline.theory.criticality import critical_point
from leadline.tune.init_critical import Tunings, held_kernel
from leadline.tune.init_design import Plan, branch_factors, full_plan, residual_plan
from leadline.tune.init_places import find_places
from leadline.tune.recipe import ParameterLaw
from tune.planned import FEATURES, Gated, Images, Residual, batch, chain, planned, rows, seeded


@pytest.mark.parametrize(
    "act", ["tanh", "gelu", *(pytest.param(a, marks=pytest.mark.slow) for a in ("silu", "sin", "erf"))]
)
def test_a_deep_smooth_chain_holds_its_kernel_and_its_differences(act: str) -> None:
    depth, x = 20, batch(4, FEATURES)
    program, _, _, plan = planned(chain(act, depth), x / x.square().mean(1, keepdim=True).sqrt())
    prediction = predict(plan.stated(program))
    kernels = rows(prediction)
    assert plan.laws["8.weight"].kind == "orthogonal"
    assert plan.laws["8.bias"] == ParameterLaw("constant", 0.0)
    # inputs of one size: the kernel comes back layer after layer, and the outputs have a variance of one
    assert all(k == pytest.approx(kernels[0], rel=1e-3) for k in kernels[:-1])
    assert kernels[-1] == pytest.approx(1, rel=1e-3)
    # differences in direction grow by no more than 1.5 over the whole chain, and nearly as much as they may in one way
    activation = ll.activation(program.step(next(s.name for s in program.steps if s.op == "pointwise")).fn)
    K, C_W = torch.tensor(kernels[0], dtype=torch.float64), plan.laws["8.weight"].C_W
    across = float(C_W * activation.derivative_moment(K)) ** depth
    along = float(C_W * activation.second_moment_slope(K)) ** depth
    assert 1.4 < max(across, along) <= 1.5 * (1 + 1e-6)
    # a critical point lets finite differences fade, or the kernel: over as many layers it keeps less of them
    point = critical_point(activation)
    state = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)

    def lost(K: float, C_W: float, C_b: float) -> tuple[float, float]:
        """Change of correlation, and of the kernel in logarithm."""
        G = K * state
        for _ in range(depth):
            G = C_W * activation.gram(G) + C_b
        return abs(float(G[0, 1] / G[0, 0]) - 0.5), abs(math.log(float(G[0, 0]) / K))

    assert point.C_W is not None
    assert point.C_b is not None
    held, critical = lost(kernels[0], C_W, 0.0), lost(point.K or 1.0, point.C_W, point.C_b)
    assert held[0] < 0.16
    assert held[1] < 0.01
    assert sum(critical) > 4 * sum(held)


@pytest.mark.parametrize("act", ["relu", "selu"])
def test_a_chain_with_a_kink_gets_its_critical_point(act: str) -> None:
    program, _, _, plan = planned(chain(act, 9), batch(4, FEATURES))
    point = critical_point(ll.activation(program.step(next(s.name for s in program.steps if s.op == "pointwise")).fn))
    hidden = plan.laws["8.weight"]
    assert hidden.kind == "orthogonal"
    assert pytest.approx(point.C_W, rel=1e-9) == hidden.C_W
    kernels = rows(predict(plan.stated(program)))
    assert kernels[0] == pytest.approx(point.K or 1.0, rel=1e-6)


@pytest.mark.parametrize("act", ["relu", "selu", "softplus", nn.Softshrink()])
def test_without_a_line_through_zero_no_kernel_is_held(act: str | nn.Module) -> None:
    assert held_kernel(ll.activation(act), 20) is None


def test_a_held_kernel_falls_as_the_inverse_of_depth() -> None:
    few, many = held_kernel(ll.activation("gelu"), 50), held_kernel(ll.activation("gelu"), 500)
    assert few is not None
    assert many is not None
    assert few.K is not None
    assert many.K is not None
    assert 9.2 < few.K / many.K < 10.8


def test_a_shallow_chain_is_drawn_gaussian() -> None:
    plan = planned(chain("tanh", 4), batch(4, FEATURES))[3]
    assert {law.kind for law in plan.laws.values()} == {"gaussian", "constant"}


def test_the_input_scale_is_folded_into_the_first_layer() -> None:
    x = batch(4, FEATURES)
    one, large = (planned(chain("gelu", 4), s * x)[3].laws["0.weight"].C_W for s in (1.0, 100.0))
    assert one / large == pytest.approx(1e4, rel=1e-5)


def test_without_a_bias_the_kernel_is_held_where_gradients_nearly_are() -> None:
    layers = [m for _ in range(6) for m in (nn.Linear(32, 32, bias=False), nn.GELU())]
    program, _, _, plan = planned(nn.Sequential(*layers, nn.Linear(32, 5)), batch(4, 32))
    kernels = rows(predict(plan.stated(program)))
    assert max(kernels[:-1]) / min(kernels[:-1]) == pytest.approx(1, abs=1e-3)
    tuning = Tunings().of(ll.activation("gelu"), bias=False)
    assert tuning is not None
    K = torch.tensor(tuning.K, dtype=torch.float64)
    assert tuning.C_W * float(ll.activation("gelu").second_moment(K)) == pytest.approx(tuning.K, rel=1e-9)
    assert abs(math.log(tuning.C_W * float(ll.activation("gelu").derivative_moment(K)))) < 0.03
    # at the critical point's own kernel the same would be further from 1
    K = torch.tensor(critical_point("gelu").K, dtype=torch.float64)
    act = ll.activation("gelu")
    assert abs(math.log(float(K / act.second_moment(K) * act.derivative_moment(K)))) > 0.045


@pytest.mark.parametrize("shared", [False, True])
def test_branches_are_scaled_by_how_their_sum_adds(shared: bool) -> None:
    depth = 12
    model = seeded(lambda: Residual(depth, shared=shared))
    program = ll.trace(model, batch())
    places = find_places(program)
    factors = branch_factors(places)
    assert len(places.branches) == depth
    wanted = 1 / depth if shared else depth**-0.5
    assert [f for f, _ in factors.values()] == pytest.approx([wanted] * (1 if shared else depth))
    plan = residual_plan(program, places, frozenset())
    assert set(plan.laws) == set(factors)
    # drawn networks: the stream grows to about e with the factor, and by orders of magnitude without
    stream = [s.name for s in program.steps if s.op == "add"]

    def growth(p: Program) -> float:
        found = measure(model, program=p, draws=16, seed=1)
        return found.row(stream[-1]).values["kernel"].value / found.row("stem").values["kernel"].value

    assert 1.2 < growth(plan.stated(program)) < 12
    assert growth(program) > 100


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_branches_of_normalised_streams(norm: str) -> None:
    program = ll.trace(seeded(lambda: Residual(6, norm=norm)), batch())
    places = find_places(program)
    assert [b.normed for b in places.branches] == [norm == "pre"] * 6
    assert [b.parameter for b in places.branches] == [f"down.{i}.weight" for i in range(6)]
    plan = full_plan(program, places, predict(program), frozenset())
    found = predict(plan.stated(program))
    shares = [found.row(b.end or "").get("kernel") for b in places.branches]
    streams = [found.row(places.through(b.stream).name).get("kernel") for b in places.branches]  # type: ignore[union-attr]
    unit = streams[0] if norm == "pre" else 1.0
    assert shares[1:] == pytest.approx([unit / 6] * 5, rel=0.02)


def test_a_branch_behind_a_norm_has_no_end() -> None:
    class Normed(Residual):
        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            for i in range(self.depth):
                h = h + self.norms[i](self.down[i](torch.relu(self.up[i](h))))  # type: ignore[index]
            return self.head(h)

    places = find_places(ll.trace(seeded(lambda: Normed(3, norm="inside")), batch()))
    assert [(b.end, b.obstacle) for b in places.branches] == [(None, "a norm")] * 3


@pytest.mark.slow
def test_delta_orthogonal_kernels_only_where_they_fit() -> None:
    x = batch(2, 1, 8, 8)
    kinds = {
        name: planned(seeded(lambda m=make: m()), x)[3].laws["layers.5.weight"].kind
        for name, make in {
            "fits": lambda: Images(9, 16, nn.Tanh()),
            "few channels": lambda: Images(9, 8, nn.Tanh()),
            "stride": lambda: Images(9, 16, nn.Tanh(), stride=2),
            "shallow": lambda: Images(6, 16, nn.Tanh()),
        }.items()
    }
    assert kinds == {
        "fits": "delta_orthogonal",
        "few channels": "gaussian",
        "stride": "gaussian",
        "shallow": "gaussian",
    }


@pytest.mark.slow
def test_padding_is_made_up_for() -> None:
    """Gaussian kernels on 8 x 8 pixels lose a seventh of the signal a layer to zero padding."""
    program, _, _, plan = planned(seeded(lambda: Images(7, 32, nn.ReLU())), batch(2, 1, 8, 8))
    C_W = plan.laws["layers.4.weight"].C_W
    assert C_W > 2.2
    held = rows(predict(plan.stated(program)), "conv")
    he = {f"layers.{i}.weight": ParameterLaw("gaussian", (2 / 288) ** 0.5, fan_in=288) for i in range(1, 7)}
    lost = rows(predict(Plan("he", {**plan.laws, **he}).stated(program)), "conv")
    assert max(held) / min(held) < 1.3
    assert max(lost) / min(lost) > 1.8


def test_gates_land_on_one_and_so_do_drawn_networks() -> None:
    """For inputs of one length: a gate multiplies sizes, so that its mean over others is larger."""
    model = seeded(lambda: Gated(2))
    x = batch()
    x = x * (FEATURES / x.square().sum(1, keepdim=True)).sqrt()
    program, _, _, plan = planned(model, x)
    candidate = plan.stated(program)
    assert [predict(candidate).row(f"downs.{i}").get("kernel") for i in (0, 1)] == pytest.approx([1, 1], rel=0.02)
    down = measure(model, program=candidate, draws=32, seed=0).row("downs.0").values["kernel"]
    assert abs(down.value - 1) < 4 * down.error + 6 / 64
    # as it is, the gates multiply what is small
    assert measure(model, program=program, draws=4, seed=0).row("downs.0").values["kernel"].value < 0.1


def test_frozen_weights_stay_and_the_rest_is_planned_around_them() -> None:
    model = chain("tanh", 9)
    plan = planned(model, batch(4, FEATURES), frozenset({"4.weight", "4.bias"}))[3]
    assert "4.weight" not in plan.laws
    assert "2.weight" in plan.laws
