"""What is measured on one network equals what is computed by hand on it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from leadline.measure import Measurement, measure
from leadline.measure.points import choose_pairs, to_channels
from leadline.program import trace
from measure.nets import dense, gpt2


def value(measurement: Measurement, step: str, name: str) -> float:
    found = next(r for r in measurement.rows if r.step == step).get(name)
    if found is None:
        raise AssertionError(f"{step} has no {name}")
    return found


class Small(nn.Module):
    """One output, so that one probe gives its gradient exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 6, 3, padding=1), nn.LayerNorm(6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        h = torch.tanh(z) * 1.5
        return self.head(self.norm(h.mean((2, 3)))).sum(0)


@pytest.fixture(scope="module")
def small() -> tuple[Small, Tensor, Measurement]:
    torch.manual_seed(3)
    model, x = Small().double(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    return model, x, measure(model, x, draws=0)


def test_moments_by_hand(small: tuple[Small, Tensor, Measurement]) -> None:
    model, x, found = small
    z = model.conv(x).detach()
    M = torch.einsum("acij,bckl->aijbkl", z, z).reshape(32, 32) / 6
    assert value(found, "conv2d", "kernel") == pytest.approx(float(M.diagonal().mean()))
    assert value(found, "conv2d", "peak") == pytest.approx(float(M.diagonal().max().sqrt()))
    C = M / (M.diagonal()[:, None] * M.diagonal()[None, :]).sqrt()
    between = C[:16, 16:].diagonal().mean()
    inside = torch.stack([C[:16, :16], C[16:, 16:]])
    within = (inside.sum() - 32) / (2 * 16 * 15)
    assert value(found, "conv2d", "correlation") == pytest.approx(float(between))
    assert value(found, "conv2d", "site_correlation") == pytest.approx(float(within))
    kernel, error = found.kernel("conv2d")
    torch.testing.assert_close(kernel, M)
    assert error.isnan().all()


def test_gradients_by_hand(small: tuple[Small, Tensor, Measurement]) -> None:
    model, x, found = small
    bend = torch.zeros(2, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    hook = model.conv.register_forward_hook(lambda *a: a[2] + bend)
    model(x).backward()
    hook.remove()
    assert value(found, "conv2d", "partial_jacobian") == pytest.approx(float(bend.grad.square().sum()))
    for step, layer in (("conv2d", model.conv), ("linear", model.head)):
        share = sum(float(p.grad.square().sum()) for p in layer.parameters())
        assert value(found, step, "tangent_kernel") == pytest.approx(share)
    model.zero_grad()


def test_the_gradient_of_several_outputs_is_their_average() -> None:
    model, x = dense(width=12, depth=1).double(), torch.randn(3, 32, dtype=torch.float64)
    jacobian = jacrev(lambda z: model[2](model[1](z)))(model[0](x).detach())
    exact = float(jacobian.detach().square().sum() / jacobian[..., 0, 0].numel())
    found = measure(model, x, draws=0, probes=200).row("0").values["partial_jacobian"]
    assert abs(found.value - exact) < 4 * found.error
    assert found.error < 0.05 * exact


def test_susceptibilities_by_hand() -> None:
    model, x = dense(width=40, depth=2).double(), torch.randn(2, 32, dtype=torch.float64)
    found = measure(model, x, draws=0, probes=100)
    z = model[0](x).detach()
    (out, tangent) = torch.func.jvp(lambda z: model[2](model[1](z)), (z,), (z,))
    parallel = (out * tangent).mean() / z.square().mean()
    assert value(found, "linear_1", "chi_parallel") == pytest.approx(float(parallel))
    slope = torch.func.jvp(torch.tanh, (z,), (z,))[1]
    assert value(found, "tanh", "chi_parallel") == pytest.approx(
        float((torch.tanh(z) * slope).mean() / z.square().mean())
    )
    jacobian = jacrev(lambda z: model[2](model[1](z)))(z)
    perp = found.row("2").values["chi_perp"]
    assert abs(perp.value - float(jacobian.detach().square().sum() / out.numel())) < 4 * perp.error
    assert value(found, "tanh", "chi_perp") == pytest.approx(float((1 - torch.tanh(z) ** 2).square().mean()))


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_flat_units_by_hand(name: str) -> None:
    fn = getattr(torch, name)
    model = nn.Sequential(nn.Linear(8, 50), nn.Tanh() if name == "tanh" else nn.ReLU(), nn.Linear(50, 3))
    nn.init.normal_(model[0].weight, std=1.0)
    x = torch.randn(20, 8)
    z = model[0](x).detach()
    slope = torch.func.jvp(fn, (z,), (torch.ones_like(z),))[1]
    exact = float((slope < 0.01).float().mean())
    assert 0.1 < exact < 0.9
    assert value(measure(model, x, draws=0), name, "flat_fraction") == pytest.approx(exact, abs=1e-6)


class Tied(nn.Module):
    """One matrix, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))[:, :1].sum(0)


def test_each_use_of_a_tied_weight_has_its_own_gradient() -> None:
    model, x = Tied().double(), torch.randn(2, 5, dtype=torch.float64)
    one, two = (nn.Linear(5, 5, dtype=torch.float64) for _ in range(2))
    for layer in (one, two):
        layer.load_state_dict(model.layer.state_dict())
    two(torch.tanh(one(x)))[:, :1].sum().backward()
    found = measure(model, x, draws=0)
    for step, layer in (("linear", one), ("linear_1", two)):
        share = sum(float(p.grad.square().sum()) for p in layer.parameters())
        assert value(found, step, "tangent_kernel") == pytest.approx(share)


def test_a_computed_weight_has_the_gradient_of_what_was_computed() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(6, 1)).double()
    x = torch.randn(1, 6, dtype=torch.float64)
    found = measure(model, x, draws=0)
    assert value(found, "linear", "tangent_kernel") == pytest.approx(float(x.square().sum()) + 1)


def test_the_mean_over_redrawn_networks_by_hand() -> None:
    from leadline.measure.redraw import Redrawer

    model, x = dense(width=24, depth=2), torch.randn(2, 32)
    program = trace(model, x)
    found = measure(model, program=program, draws=10, seed=7)
    redrawer = Redrawer(model, laws=program.laws)
    kernels = []
    for seed in range(7, 17):
        out = functional_call(model, redrawer.draw(seed), x)
        kernels.append(out @ out.T / out.shape[1])
    stack = torch.stack(kernels).double()
    mean, error = found.kernel("linear_2")
    torch.testing.assert_close(mean, stack.mean(0), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(error, stack.std(0) / math.sqrt(10), rtol=1e-4, atol=1e-7)
    row = found.row("4").values["kernel"]
    each = stack.diagonal(dim1=1, dim2=2).mean(1)
    assert row.value == pytest.approx(float(each.mean()), rel=1e-5)
    assert row.error == pytest.approx(float(each.std() / math.sqrt(10)), rel=1e-4)


def test_pairs_of_many_points_stand_for_all() -> None:
    model, x = nn.Conv2d(16, 64, 3, padding=1), torch.randn(3, 16, 16, 16)
    found = measure(model, x, draws=0).rows[0].values
    z = model(x).detach().double()
    h = z / z.square().mean(1, keepdim=True).sqrt()
    one, two, three = (h[i].reshape(64, -1) for i in range(3))
    between = torch.stack([(a * b).mean(0).mean() for a, b in ((one, two), (one, three), (two, three))]).mean()
    assert found["correlation"].value == pytest.approx(float(between), abs=1e-6)  # few enough to take them all
    assert found["correlation"].error == 0.0
    n = one.shape[1]
    within = sum(float(((g.T @ g / 64).sum() - n) / (n * (n - 1))) for g in (one, two, three)) / 3
    site = found["site_correlation"]
    assert 0 < site.error < 0.01
    assert abs(site.value - within) < 4 * site.error


def test_all_steps_of_a_transformer_have_the_layout_of_their_values() -> None:
    model, batch = gpt2()
    program = trace(model, batch)
    for step in program.steps:
        first = step.node.meta["val"]
        first = first[0] if isinstance(first, (tuple, list)) else first
        pairs = choose_pairs([(a.kind, a.size) for a in step.points])
        h = to_channels(torch.zeros(first.shape), step.layout)
        assert h.shape == (step.width, pairs.points)


def test_the_slope_of_a_chain_is_that_of_all_its_operators() -> None:
    model, batch = gpt2()
    program = trace(model, batch)
    step = next(s for s in program.steps if s.op == "pointwise" and len(s.members) > 4)
    z = torch.linspace(-3, 3, 50)
    torch.testing.assert_close(step.fn(z), F.gelu(z, approximate="tanh"))
    assert value(measure(model, program=program, draws=0), step.name, "flat_fraction") == 0.0
