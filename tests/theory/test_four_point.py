"""The four-point vertex and the kernel correction: references, exact cases, ensembles, correlators, the action."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leadline.activations import activation
from leadline.measure.ensemble import ensemble
from leadline.theory.deep_linear import linear_vertex
from leadline.theory.flow import (
    Layers,
    connected_four_point,
    effective_action,
    four_index,
    four_point,
    many_input_flow,
    single_input_flow,
)
from leadline.theory.flow.joint import input_pairs, product_covariance
from leadline.theory.flow.pairs import _direct, _series
from theory.flow_ensembles import chain_of, drawn, entries, extrapolated

F64 = torch.float64


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows if len(rows) > 1 else rows[0], dtype=F64)


def gram_of(m: int, seed: int = 1, n_0: int = 6) -> Tensor:
    x = torch.randn(m, n_0, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return x @ x.T / n_0


def test_reference_values_of_two_inputs():
    tanh = many_input_flow(Layers.of("tanh", depth=5, C_b=0.1, C_W=1.5), tensor([1, 0.4], [0.4, 0.6]))
    assert torch.allclose(entries(tanh.K[-1]), tensor([0.54365096, 0.39276721, 0.53526565]), atol=6e-9, rtol=0)
    V = [[0.2014472, 0.1548345, 0.0778899], [0.1548345, 0.3423917, 0.1552841], [0.0778899, 0.1552841, 0.1986484]]
    assert torch.allclose(tanh.V[-1], tensor(*V), atol=6e-8, rtol=0)
    assert torch.allclose(entries(tanh.G1[-1]), tensor([-0.095855, -0.026957, -0.100152]), atol=6e-7, rtol=0)
    relu = many_input_flow(Layers.of("relu", depth=5, C_W=2.0), tensor([1, 0.5], [0.5, 1.5]))
    assert torch.allclose(entries(relu.K[-1]), tensor([2.0, 1.8515645, 3.0]), atol=6e-8, rtol=0)
    V = [[80, 60.91955, 54.06540], [60.91955, 67.34536, 91.37933], [54.06540, 91.37933, 180]]
    assert torch.allclose(relu.V[-1], tensor(*V), atol=6e-6, rtol=0)
    assert torch.allclose(entries(relu.G1[-1]), tensor([0.0, -1.432336, 0.0]), atol=6e-7, rtol=0)


@pytest.mark.parametrize("name", ["tanh", "gelu", "relu", "elu", "hardtanh"])
@pytest.mark.parametrize(("a", "rho", "b"), [(0.5, 0.3, 0.8), (1.0, 0.9, 0.6), (3.0, -0.8, 2.0)])
def test_series_and_quadrature_give_the_same_derivatives(name, a, rho, b):
    act = activation(name)
    series, good = _series(act, tensor([a]), tensor([rho]), tensor([b]), 1024)
    assert bool(good)
    for key, value in _direct(act, a, rho, b).items():
        assert float(series[key]) == pytest.approx(float(value), rel=1e-10, abs=1e-11), key


@pytest.mark.parametrize("name", ["tanh", "relu", "softsign"])
@pytest.mark.parametrize("rho", [0.4, 0.995])
def test_derivatives_are_those_of_the_mean_product(name, rho):
    act, a, b, step = activation(name), 0.5, 0.8, 1e-4
    c = rho * math.sqrt(a * b)
    d = _direct(act, a, rho, b)

    def F(da: float, dc: float, db: float) -> float:
        return float(act.dual(*(tensor([v]) for v in (a + da * step, c + dc * step, b + db * step)), rtol=1e-13))

    def second(one: tuple[int, int, int], two: tuple[int, int, int]) -> float:
        corners = [(s, t, s * t) for s in (1, -1) for t in (1, -1)]
        return sum(w * F(*(s * x + t * y for x, y in zip(one, two))) for s, t, w in corners) / (4 * step**2)

    exact = {"cc": d[2, 2], "ac": d[3, 1] / 2, "aa": d[4, 0] / 4, "ab": d[2, 2] / 4, "bc": d[1, 3] / 2}
    axes = {"a": (1, 0, 0), "c": (0, 1, 0), "b": (0, 0, 1)}
    for key, want in exact.items():
        have = second(axes[key[0]], axes[key[1]])
        assert have == pytest.approx(float(want), rel=3e-3 if rho > 0.9 else 3e-5, abs=2e-5), key


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "hardtanh"])
def test_equal_inputs_are_one_input(name):
    layers = Layers.of(name, widths=[4, 20, 30, 25, 1], C_W=1.7, C_b=0.1)
    many = many_input_flow(layers, torch.full((2, 2), 0.8, dtype=F64))
    one = single_input_flow(layers, 0.8)
    for have, want in ((many.K, one.K), (many.G1, one.G1)):
        assert torch.allclose(have, want[:, None, None].expand_as(have), rtol=1e-9, atol=1e-12)
    assert torch.allclose(many.V, one.V[:, None, None].expand_as(many.V), rtol=1e-9)
    assert torch.allclose(many.spread[:, 0], one.spread, rtol=1e-9)


def test_two_inputs_that_come_together_become_one():
    layers = Layers.of("tanh", depth=4, C_W=1.5, C_b=0.1)
    close = many_input_flow(layers, tensor([1.0, 1 - 1e-7], [1 - 1e-7, 1.0]))
    one = single_input_flow(layers, 1.0)
    assert torch.allclose(close.G1[:, 0, 1], one.G1, atol=1e-5)
    assert torch.allclose(close.V[:, 1, 1], one.V, atol=1e-5)


def test_multiples_of_an_input_scale_in_a_homogeneous_network():
    layers = Layers.of("relu", depth=5, C_W=2.0)
    x = tensor([1.0, 0.3, -0.5], [0.2, -1.0, 0.4])
    x = torch.cat([x, 3 * x[:1]])
    flow = many_input_flow(layers, x @ x.T / 3)
    V = flow.vertex[-1]
    assert torch.allclose(V[2, 2, 2, 2], 81 * V[0, 0, 0, 0], rtol=1e-12)
    assert torch.allclose(V[0, 2, 1, 2], 9 * V[0, 0, 1, 0], rtol=1e-12)
    assert torch.allclose(flow.G1[-1, 1, 2], 3 * flow.G1[-1, 0, 1], rtol=1e-12)


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_inputs_may_be_permuted(name):
    layers, gram = Layers.of(name, depth=4, C_W=1.8, C_b=0.05), gram_of(3)
    order = [2, 0, 1]
    one, two = (
        many_input_flow(layers, gram),
        many_input_flow(layers, gram[order][:, order]),
    )
    index = torch.tensor(order)
    assert torch.allclose(one.K[:, index][:, :, index], two.K, rtol=1e-8)
    error = four_index(one.V_error + two.V_error, 3)
    moved = one.vertex[:, index][:, :, index][:, :, :, index][:, :, :, :, index]
    assert bool(((moved - two.vertex).abs() <= 4 * error + 1e-8).all())
    assert bool(((one.G1[:, index][:, :, index] - two.G1).abs() <= 0.02).all())


@settings(max_examples=15)
@given(st.integers(2, 5), st.integers(0, 300), st.sampled_from(["tanh", "relu", "gelu", "sin", "abs"]))
def test_kernels_and_vertices_stay_positive_semidefinite_and_symmetric(m, seed, name):
    flow = many_input_flow(Layers.of(name, depth=4, C_W=1.7, C_b=0.03), gram_of(m, seed))
    for K in flow.K:
        assert float(torch.linalg.eigvalsh(K)[0]) > -1e-10 * float(K.diagonal().max())
    for V, error in zip(flow.V, flow.V_error):
        assert torch.equal(V, V.T)
        slack = 6 * float(error.norm()) + 1e-10 * float(V.diagonal().max())
        assert float(torch.linalg.eigvalsh(V)[0]) >= -slack


def test_single_precision_gives_the_same_to_its_digits():
    layers, gram = Layers.of("gelu", depth=5, C_W=1.9, C_b=0.1), gram_of(2)
    one, two = many_input_flow(layers, gram.float()), many_input_flow(layers, gram)
    assert one.V.dtype == one.G1.dtype == torch.float32
    for have, want in ((one.K, two.K), (one.V, two.V), (one.G1, two.G1)):
        assert torch.allclose(have.double(), want, rtol=1e-5, atol=1e-5)


def test_four_distinct_inputs_of_a_linear_layer_follow_wick():
    K = gram_of(4)
    act = activation("identity")
    value, error = product_covariance(act, K, K)
    a, b = input_pairs(4)
    exact = K[a[:, None], a] * K[b[:, None], b] + K[a[:, None], b] * K[b[:, None], a]
    assert bool(((value - exact).abs() <= error + 1e-12).all())
    assert float((error / exact.diagonal().max()).max()) < 1e-9
    assert not bool(((value - 1.01 * exact).abs() <= error + 1e-12).all())  # negative control: one per cent


def test_linear_networks_have_their_exact_vertex_in_the_limit():
    layers = Layers.of("identity", widths=[5, 10_000, 20_000, 10_000, 1], C_W=1.2)
    gram = gram_of(3)
    V = linear_vertex(gram, layers.widths, 1.2)
    flow = many_input_flow(layers, gram)
    slack = 5 * four_index(flow.V_error[-1], 3) + 3e-4 * V.max()
    assert bool(((flow.vertex[-1] - V).abs() <= slack).all())
    narrow = linear_vertex(gram, (5, 100, 200, 100, 1), 1.2)  # negative control: far from the limit
    assert bool(((flow.vertex[-1] - narrow).abs() > slack).any())


ENSEMBLES = [
    ("tanh", 1, 16, 60_000),
    ("gelu", 1, 24, 60_000),
    ("relu", 2, 24, 40_000),
    ("tanh", 2, 16, 40_000),
]


@pytest.mark.parametrize(("name", "m", "n", "networks"), ENSEMBLES)
def test_vertex_and_correction_are_those_of_finite_networks(name, m, n, networks):
    compare(name, m, n, networks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "m", "n", "networks"),
    [("tanh", 3, 24, 100_000), ("gelu", 2, 32, 200_000), ("erf", 2, 24, 200_000), ("relu", 3, 32, 100_000)],
)
def test_vertex_and_correction_of_more_inputs(name, m, n, networks):
    compare(name, m, n, networks)


def compare(name: str, m: int, n: int, networks: int) -> None:
    laws = {"C_b": (0.1, 0.2, 0.05, 0.1), "C_W": (1.2, 1.4, 1.1, 1.3)}
    x = torch.randn(m, 4, generator=torch.Generator().manual_seed(2), dtype=F64)
    found = []
    for size in (n, 2 * n):
        layers = Layers.of(name, widths=[4, size, 3 * size // 2, size, 2], **laws)
        found.append((drawn(layers, x, networks, seed=size), layers))
    layers = found[0][1]
    flow = many_input_flow(layers, x @ x.T / 4)
    moments = [f[0][0].layers[-1].kernel for f in found]
    V, V_error = extrapolated(moments[0].vertex, moments[1].vertex, (moments[0].vertex_error, moments[1].vertex_error))
    shifts = [(f[0][1] * size, f[0][2] * size) for f, size in zip(found, (n, 2 * n))]
    G1, G1_error = extrapolated(shifts[0][0], shifts[1][0], (shifts[0][1], shifts[1][1]))
    G1_error = G1_error + 1e-9  # ReLU's one-input correction is 0 draw by draw
    V_error = (V_error**2 + flow.V_error[-1] ** 2).sqrt()

    def worst_V(predicted: Tensor) -> float:
        return float(((V - predicted).abs() / V_error).max())

    def worst_G1(predicted: Tensor) -> float:
        return float(((G1 - predicted).abs() / G1_error).max())

    assert worst_V(flow.V[-1]) < 4
    assert worst_G1(entries(flow.G1[-1])) < 4
    # negative controls: the last layer's own fluctuation alone; the half of the curvature forgotten
    own = product_covariance(layers.activation, flow.K[-2], layers.activation.gram(flow.K[-2]))
    assert worst_V(laws["C_W"][-1] ** 2 * own[0]) > 6
    assert worst_G1(2 * entries(flow.G1[-1])) > 6
    assert worst_G1(torch.zeros_like(G1)) > 6


def test_kurtosis_of_the_output_is_the_spread_predicted():
    layers = Layers.of("tanh", widths=[3, 400, 400, 400, 1], C_W=1.5, C_b=0.05)
    x = tensor([[1.0, -0.5, 0.3]])
    found, _, _ = drawn(layers, x, 20_000, seed=4)
    flow = single_input_flow(layers, float(x.square().mean()))
    kurtosis = found.layers[-1].kernel
    miss = abs(float(kurtosis.excess_kurtosis[0]) - float(flow.excess_kurtosis[-1]))
    assert miss < 4 * float(kurtosis.excess_kurtosis_error[0])
    shallow = float(flow.excess_kurtosis[-2])  # negative control: a layer less
    assert abs(float(kurtosis.excess_kurtosis[0]) - shallow) > 10 * float(kurtosis.excess_kurtosis_error[0])


def test_connected_correlators_are_those_of_drawn_neurons():
    layers = Layers.of("gelu", widths=[4, 60, 60, 3], C_W=2.0, C_b=0.1)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    flow = many_input_flow(layers, x @ x.T / 4)
    seen = []
    ensemble(chain_of(layers), x, 100_000, seed=0, callback=lambda i, _, z: seen.append(z) if i == 3 else None)
    z = torch.cat(seen)
    cases = [
        ((0, 0, 1, 1), (0, 1, 0, 1)),
        ((0, 1, 0, 1), (0, 0, 0, 0)),
        ((0, 1, 1, 0), (0, 0, 1, 1)),
        ((0, 0, 1, 2), (0,) * 4),
    ]
    for neurons, inputs in cases:
        product = torch.stack([z[:, i, a] for i, a in zip(neurons, inputs)]).prod(0)
        error = float(product.std()) / len(z) ** 0.5
        args = (flow.K[-1], flow.G1[-1], flow.vertex[-1], 60, neurons, inputs)
        assert abs(float(product.mean()) - float(four_point(*args))) < 4 * error, neurons
    # negative control: neurons 0 and 1 are uncorrelated in Gaussian theory, their squares are not
    square = z[:, 0, 0] ** 2 * z[:, 1, 0] ** 2
    gaussian = float(flow.K[-1, 0, 0] + flow.G1[-1, 0, 0] / 60) ** 2
    assert abs(float(square.mean()) - gaussian) > 8 * float(square.std()) / len(z) ** 0.5


def test_correlators_take_four_of_each():
    V = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="got 3 neurons and 4 inputs"):
        connected_four_point(V, 10, (0, 0, 0), (0,) * 4)


@pytest.mark.parametrize("neurons", [1, 2, 3])
def test_density_of_the_action_has_the_moments_of_the_flow(neurons):
    flow = single_input_flow(Layers.of("gelu", widths=[4, 30, 30, neurons], C_W=2.0, C_b=0.2), 1.0)
    K, G1, V, n = flow.K[-1], flow.G1[-1], flow.V[-1], 30
    action = effective_action(K, G1, V, n, neurons)
    assert float(action.g) == pytest.approx(float(1 / K - G1 / n / K**2 + (neurons + 2) * V / (2 * n * K**3)))
    assert float(action.v) == pytest.approx(float(V / n / K**4))
    axis = torch.linspace(-9, 9, 61, dtype=F64) * float(K) ** 0.5
    z = torch.cartesian_prod(*[axis] * neurons).reshape(-1, neurons, 1)
    weight = action.density(z) * float(axis[1] - axis[0]) ** neurons
    first = z[:, 0, 0]
    assert float(weight.sum()) == pytest.approx(1, abs=1e-10)
    assert float((weight * first**2).sum()) == pytest.approx(float(flow.moment(2)[-1]), rel=1e-9)
    assert float((weight * first**4).sum()) == pytest.approx(float(flow.moment(4)[-1]), rel=1e-9)
    assert float((weight * first**6).sum()) == pytest.approx(float(flow.moment(6)[-1]), rel=1e-8)
    if neurons > 1:
        cross = float((weight * first**2 * z[:, 1, 0] ** 2).sum())
        assert cross == pytest.approx(float(K**2 + (2 * K * G1 + V) / n), rel=1e-9)
        # negative control: the coupling of one neuron is wrong for more: g runs with their number
        wrong = effective_action(K, G1, V, n, 1)
        assert abs(float(wrong.g - action.g)) > 0.1 * float(V / n / K**3)


def test_density_of_two_inputs_has_their_moments():
    flow = many_input_flow(Layers.of("tanh", widths=[2, 40, 40, 1], C_W=1.5, C_b=0.1), tensor([1, 0.4], [0.4, 0.6]))
    K, G1, V = flow.K[-1], flow.G1[-1], flow.vertex[-1]
    action = effective_action(K, G1, V, 40)
    axis = torch.linspace(-8, 8, 321, dtype=F64)
    z = torch.cartesian_prod(axis, axis).reshape(-1, 1, 2)
    weight = action.density(z) * float(axis[1] - axis[0]) ** 2
    assert float(weight.sum()) == pytest.approx(1, abs=1e-9)
    a, b = z[:, 0, 0], z[:, 0, 1]
    assert float((weight * a * b).sum()) == pytest.approx(float(K[0, 1] + G1[0, 1] / 40), rel=1e-8)
    for inputs in ((0, 0, 1, 1), (0, 1, 1, 1), (0, 0, 0, 1)):
        have = float((weight * torch.stack([(a, b)[i] for i in inputs]).prod(0)).sum())
        assert have == pytest.approx(float(four_point(K, G1, V, 40, (0,) * 4, inputs)), rel=1e-8)
    # the action itself, where its density is still near: exp(-S) up to a constant, to second order in 1/n
    near = z[z.abs().amax(dim=(1, 2)) < 0.7]
    ratio = (action.density(near) / torch.exp(-action(near))).log()
    assert float(ratio.max() - ratio.min()) < 0.01
    assert float(action(near).max() - action(near).min()) > 0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: many_input_flow(Layers.of("tanh", depth=3), torch.ones(2, 3)), r"shape \(2, 3\)"),
        (lambda: many_input_flow(Layers.of("relu", depth=500, C_W=3.0), torch.eye(2)), "it explodes or vanishes"),
        (lambda: many_input_flow(Layers.of("tanh", depth=3), tensor([1.0, 0.0], [0.0, 0.0])), "is 0 at layer 1"),
        (lambda: many_input_flow(Layers.of("sign", depth=3), torch.eye(2)), "no derivatives: it jumps"),
        (
            lambda: many_input_flow(Layers.of("abs", depth=4), tensor([1.0, -1.0], [-1.0, 1.0])),
            "parallel or antiparallel",
        ),
        (lambda: effective_action(torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2, 2, 2), 9), "kernel is singular"),
        (lambda: effective_action(torch.ones(2, 2), torch.ones(2), torch.ones(2, 2, 2, 2), 9), "shapes"),
    ],
)
def test_what_has_no_answer_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
