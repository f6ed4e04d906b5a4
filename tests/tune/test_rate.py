"""Stable rates on quadratics and networks, edges by training, batch scaling, the recommendation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from leadline.measure.curvature import Objective, top_curvature
from leadline.program import UserError
from leadline.tune import (
    UpdateRule,
    catapult_window,
    gradient_noise,
    layer_rates,
    learning_rate,
    measure_edge,
    predict_edge,
    rate_at_batch,
    stability,
    stable_rate,
)
from leadline.tune.rate_predict import preconditioner
from leadline.tune.rate_run import make_optimizer

CURVATURES = torch.tensor([0.3, 1.1, 2.7], dtype=torch.float64)
RULES = [
    UpdateRule("sgd"), UpdateRule("sgd", decay=0.4), UpdateRule("momentum", beta=0.9), UpdateRule("momentum", beta=0.5),
    UpdateRule("nesterov", beta=0.9), UpdateRule("adam"), UpdateRule("adam", beta=0.5), UpdateRule("adamw", decay=0.3),
]  # fmt: skip


def _growth(rule: UpdateRule, rate: float, steps: int = 600) -> float:
    """How far torch's own optimizer leaves the minimum of a quadratic, with Adam's second moment held fixed."""
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = make_optimizer(rule, [weights], rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * CURVATURES * weights.square()).sum().backward()
        if rule.adaptive:  # P = 1, whatever the gradients
            state = optimizer.state[weights]
            if not state:
                state |= {"step": torch.tensor(1e9), "exp_avg": torch.zeros(3, dtype=torch.float64)}
            state["exp_avg_sq"] = (1 - (1 - rule.beta2) * weights.grad.square()).div(rule.beta2).detach()
        optimizer.step()
        if float(weights.detach().abs().max()) > 1e6:
            break
    return float(weights.detach().abs().max())


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_closed_form_is_where_a_quadratic_becomes_unstable(rule: UpdateRule) -> None:
    rate = stable_rate(rule, float(CURVATURES.max()))
    assert _growth(rule, 0.97 * rate) < 1
    assert _growth(rule, 1.03 * rate) > 100


def test_flat_and_hollow_losses_have_no_edge() -> None:
    assert stable_rate(UpdateRule("sgd"), 0.0) == math.inf
    assert stable_rate(UpdateRule("adam"), -1.0) == math.inf
    assert stable_rate(UpdateRule("adamw", decay=0.5), -1.0) == 4.0


def _regression() -> Objective:
    generator = torch.Generator().manual_seed(1)
    model = nn.Linear(6, 2).double()
    x, y = (torch.randn(20, n, generator=generator, dtype=torch.float64) for n in (6, 2))
    return Objective(model, x, "mse", y)


@pytest.mark.parametrize("rule", [UpdateRule("sgd"), UpdateRule("momentum"), UpdateRule("nesterov")], ids=str)
def test_a_linear_model_breaks_at_its_stable_rate(rule: UpdateRule) -> None:
    objective = _regression()
    predicted = stability(objective, rule, tolerance=1e-6, products=40).rate
    found = measure_edge(objective, rule, predicted, steps=200, span=4, refinements=4)
    # 200 steps are not for ever: a rate a little above the edge has not lost all it gained
    assert found.low / 1.03 < predicted < found.high * 1.03
    assert not found.open


def _linear_net(layers: int, width: int, seed: int) -> Objective:
    """Layers in a row, one input and one output, the target 0."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [1, *[width] * (layers - 1), 1]
    model = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)]).double()
    with torch.no_grad():
        for module in model:
            std = module.in_features**-0.5
            module.weight.normal_(0, std, generator=generator)
    return Objective(model, torch.ones(1, 1, dtype=torch.float64), "mse", torch.zeros(1, 1, dtype=torch.float64))


@pytest.mark.parametrize("layers", [2, 3])
def test_wide_linear_layers_survive_up_to_four_over_the_curvature(layers: int) -> None:
    ratios = []
    for seed in range(4):
        objective = _linear_net(layers, 400 // layers, seed)
        top = top_curvature(
            objective.model, *objective.args, loss="mse", targets=objective.targets, kind="ggn", tolerance=1e-6
        )
        edge = measure_edge(objective, UpdateRule("sgd"), 2 / top.value, steps=150, span=4, refinements=4)
        ratios.append(edge.value / catapult_window(top.value, layers)[0])
    mean = sum(ratios) / len(ratios)
    assert mean == pytest.approx(1, abs=0.05)
    # neither the stable rate nor, with three layers, the upper end of the window
    assert abs(mean - 0.5) > 0.3
    assert abs(mean - 1.5) > 0.3


def test_equal_weights_in_a_row_survive_up_to_twice_their_number_over_the_curvature() -> None:
    for layers in (2, 3, 5):
        model = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(layers)]).double()
        for module in model:
            nn.init.constant_(module.weight, 0.8)
        zero = torch.zeros(1, 1, dtype=torch.float64)
        objective = Objective(model, torch.ones_like(zero), "mse", zero)
        top = top_curvature(model, *objective.args, loss="mse", targets=zero, kind="ggn", tolerance=1e-9)
        edge = measure_edge(objective, UpdateRule("sgd"), 2 / top.value, refinements=8)
        assert edge.value == pytest.approx(catapult_window(top.value, layers)[1], rel=0.01)
    with pytest.raises(ValueError, match="at least two layers"):
        catapult_window(1.0, 1)


def _classifier(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3)).double()
    x = torch.randn(48, 8, dtype=torch.float64)
    return model, x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def test_adams_preconditioner_is_torchs_and_its_curvature_the_dense_one() -> None:
    model, x, y = _classifier()
    objective, rule = Objective(model, x, "cross_entropy", y), UpdateRule("adam")
    there, P = preconditioner(objective, rule, steps=7, rate=1e-3, floor=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(7):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    expected = [
        (optimizer.state[p]["exp_avg_sq"] / (1 - 0.999**7)).sqrt().reshape(-1) + 1e-8 for p in model.parameters()
    ]
    assert torch.allclose(P, torch.cat(expected), rtol=1e-9)
    assert all(torch.equal(there.weights[n], p.detach()) for n, p in model.named_parameters())

    found = stability(objective, rule, steps=7, tolerance=1e-7, products=400)
    _, floored = preconditioner(objective, rule, steps=7)

    def loss(vector: Tensor) -> Tensor:
        return there.value(dict(zip(there.names, there.split(vector), strict=True)))

    start = there.flatten(list(there.weights.values()))
    dense = torch.autograd.functional.hessian(loss, start) * floored.rsqrt()[:, None] * floored.rsqrt()
    assert found.curvature.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-6)
    assert found.rate == pytest.approx(38 / found.curvature.value)


def test_short_runs_stand_for_long_ones_and_the_smooth_edge_is_below() -> None:
    model, x, y = _classifier()
    objective = Objective(model, x, "mse", nn.functional.one_hot(y, 3).double())
    guess = stability(objective, UpdateRule("sgd")).rate
    long = measure_edge(objective, UpdateRule("sgd"), guess)
    short = predict_edge(objective, UpdateRule("sgd"), guess)
    assert 1 / 1.5 < short.value / long.value < 1.5
    assert short.passes < long.passes
    smooth = measure_edge(objective, UpdateRule("sgd"), guess, hold="smooth")
    assert smooth.value <= long.value
    below = [r for r in long.runs if r.rate <= long.low]
    assert any(r.held for r in below)
    assert all(not r.held for r in long.runs if r.rate >= long.high)


def test_layers_are_measured_by_their_own_blocks() -> None:
    model, x, y = _classifier()
    objective = Objective(model, x, "cross_entropy", y)
    found = layer_rates(objective, tolerance=1e-8, products=200)
    J = torch.autograd.functional.jacobian(
        lambda v: objective.output(dict(zip(objective.names, objective.split(v), strict=True))),
        objective.flatten(list(objective.weights.values())),
    )
    p = objective.output().detach().softmax(-1)
    bend = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    at = 0
    for layer in found:
        size = sum(objective.weights[n].numel() for n in layer.parameters)
        block = J[:, :, at : at + size]
        ggn = torch.einsum("mcp,mcd,mdq->pq", block, bend, block) / len(x)
        assert layer.curvature == pytest.approx(float(torch.linalg.eigvalsh(ggn)[-1]), rel=1e-6)
        at += size
    assert math.prod(layer.relative for layer in found) == pytest.approx(1)
    products = [layer.relative * layer.curvature for layer in found]
    assert max(products) == pytest.approx(min(products))


def test_gradient_noise_of_single_samples_is_the_covariance_trace() -> None:
    objective = _regression()
    found = gradient_noise(objective, groups=20)
    weights, bias = objective.weights["weight"], objective.weights["bias"]
    x, y = objective.args[0], objective.targets
    error = x @ weights.T + bias - y  # the mean over two outputs takes the 2 of the square
    single = torch.cat([torch.einsum("mi,mj->mij", error, x).flatten(1), error], 1)
    assert found.trace == pytest.approx(float(single.var(0).sum()), rel=1e-12)
    assert found.signal == pytest.approx(float(single.mean(0).square().sum()) - found.trace / 20, rel=1e-12)
    # groups of two estimate the same number, and not half of it
    coarse = gradient_noise(objective, groups=10).trace
    assert 0.6 < coarse / found.trace < 1.6


def test_the_rate_follows_the_batch_up_to_the_critical_one() -> None:
    assert rate_at_batch(0.1, 8, 16, 1e9) == pytest.approx(0.2)
    assert rate_at_batch(0.1, 8, 32, 1e9, adaptive=True) == pytest.approx(0.2)
    assert rate_at_batch(0.1, 1000, 4000, 1.0) == pytest.approx(0.1, rel=1e-2)
    assert rate_at_batch(rate_at_batch(0.1, 8, 64, 30.0), 64, 8, 30.0) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="got batches 0 and 8"):
        rate_at_batch(0.1, 0, 8, 1.0)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_the_recommended_rate_trains_and_the_module_is_left_alone(name: str) -> None:
    model, x, y = _classifier()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    found = learning_rate(model, x, "cross_entropy", y, optimizer=name)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    optimizer = make_optimizer(found.rule, model.parameters(), found.rate)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    assert max(losses) == losses[0]
    assert losses[-1] < 0.5 * losses[0]
    # ten times less learns much less in the same steps
    assert found.to_dict()["rate"] == found.rate
    assert found.at_batch(found.batch) == pytest.approx(found.rate)


def test_rates_of_layers_become_parameter_groups() -> None:
    model, x, y = _classifier()
    found = learning_rate(model, x, "cross_entropy", y, optimizer="sgd", per_layer=True, warmup=False)
    groups = found.param_groups(model)
    assert [len(g["params"]) for g in groups] == [2, 2, 2]
    assert len({g["lr"] for g in groups}) == 3
    torch.optim.SGD(groups, lr=1.0)
    with pytest.raises(UserError, match=r"no trainable parameter '0\.weight'"):
        found.param_groups(nn.ModuleDict({"a": nn.Linear(2, 2)}))


class SignDescent(torch.optim.Optimizer):
    """An optimizer of a user's own, whose steps have one size."""

    def __init__(self, weights: object, lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad.sign()


def test_any_optimizer_is_tuned_by_trial() -> None:
    model, x, y = _classifier()
    found = learning_rate(model, x, "cross_entropy", y, optimizer=SignDescent, warmup=False)
    assert found.stability is None
    assert 1e-4 < found.rate < 0.3
    with pytest.raises(UserError, match="no closed form"):
        learning_rate(model, x, "cross_entropy", y, optimizer=SignDescent, trial=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "lion"}, "no edge that follows from curvature"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"optimizer": UpdateRule("adam"), "per_layer": True}, "leave per_layer out"),
        ({"targets": None}, "needs the targets"),
    ],
)
def test_what_cannot_be_used_is_refused(change: dict[str, object], said: str) -> None:
    model, x, y = _classifier()
    with pytest.raises(UserError, match=said):
        learning_rate(model, x, **{"targets": y, **change})


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="beta=1"):
        UpdateRule("momentum", beta=1.0)
    with pytest.raises(UserError, match="weight decay"):
        UpdateRule("adamw", decay=-1.0)
    objective = _regression()
    with pytest.raises(UserError, match="no criterion"):
        measure_edge(objective, UpdateRule("sgd"), 0.1, hold="fast")
    with pytest.raises(UserError, match="guess=0"):
        measure_edge(objective, UpdateRule("sgd"), 0.0)


def test_a_loss_that_cannot_fall_is_refused() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    objective = Objective(model, torch.ones(3, 2, dtype=torch.float64), "mse", torch.zeros(3, 1))
    with pytest.raises(UserError, match="no learning rate lowers"):
        measure_edge(objective, UpdateRule("sgd"), 0.1, steps=3)
