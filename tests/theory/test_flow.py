"""Kernel flow of single inputs: references, exactness at any depth, speed, what is out of range, and laws."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leadline.activations import activation, origin_numbers
from leadline.theory.flow import Layers, asymptotic_kernel, kernel_flow, single_input_flow, spread_per_layer
from leadline.theory.flow.kernel import SecondMoment

F64 = torch.float64
LAWS = {"C_b": (0.1, 0.2, 0.05, 0.1), "C_W": (1.2, 1.4, 1.1, 1.3)}
NAMES = ["tanh", "relu", "gelu", "elu", "hardtanh", "sin", "erf", "sigmoid", "softsign", "mish"]


@pytest.mark.parametrize(
    ("name", "widths", "K", "V", "G1"),
    [
        ("tanh", [4, 12, 18, 12, 2], 0.42013500, 0.11371388, -0.043996439),
        ("gelu", [4, 16, 24, 16, 2], 0.27487603, 0.47814167, 0.16708364),
    ],
)
def test_reference_values_with_unequal_widths(name, widths, K, V, G1):
    flow = single_input_flow(Layers.of(name, widths=widths, **LAWS), 0.6675)
    for have, want in ((flow.K, K), (flow.V, V), (flow.G1, G1)):
        assert abs(float(have[-1]) - want) < 6e-9
    # negative control: widths that do not change are told apart
    other = single_input_flow(Layers.of(name, depth=4, **LAWS), 0.6675)
    assert abs(float(other.V[-1]) - V) > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("K", [1e-20, 1e-4, 0.3, 1.0, 7.0, 300.0])
def test_shared_nodes_are_as_exact_as_adaptive_quadrature(name, K):
    act = activation(name)
    have, want = SecondMoment(act)(K), float(act.second_moment(K))
    assert abs(have - want) <= 2e-13 * want


def test_a_function_that_grows_like_an_exponential_is_left_to_adaptive_quadrature():
    for name, K in (("exp", 2.0), ("exp", 40.0)):
        assert abs(SecondMoment(activation(name))(K) / float(activation(name).second_moment(K)) - 1) < 1e-9


@pytest.mark.parametrize("name", ["tanh", "gelu", "elu", "relu", "hardtanh"])
def test_deep_flow_is_the_iterated_map(name):
    act = activation(name)
    K, log_K = kernel_flow(act, [0.02] * 10_000, [1.3] * 10_000, torch.tensor([0.7, 2.0]))
    assert K.shape == (10_001, 2)
    rows = torch.tensor([0, 1, 10, 100, 1000, 9999])
    ok = K[rows] < 1e200
    want = 0.02 + 1.3 * act.second_moment(K[rows])
    assert torch.allclose(K[rows + 1][ok], want[ok], rtol=1e-12)
    assert torch.allclose(log_K[rows][ok], K[rows].log()[ok], rtol=1e-12)


@pytest.mark.parametrize("name", ["tanh", "sin", "erf", "arctan"])
def test_smooth_critical_kernel_at_depth_10000(name):
    """1/K grows as the two-term law says: the constant cancels between 3000 and 10000 layers."""
    act = activation(name)
    C_W = 1 / float(act.derivative(torch.zeros(1, dtype=F64)) ** 2)
    K, _ = kernel_flow(act, [0.0] * 9999, [C_W] * 9999, torch.tensor([1.0]))
    predicted = 1 / asymptotic_kernel(act, torch.tensor(10_000.0), (3000, float(K[2999])))
    n = origin_numbers(act)
    linear = 1 / float(K[2999, 0]) - 7000 * n.a1
    log = float(predicted) - linear
    # what is left out falls like ln l / l; negative control: without the logarithm the law is off by all of it
    assert abs(float(1 / K[-1, 0]) - float(predicted)) < 2e-3 * abs(log)
    assert abs(float(1 / K[-1, 0]) - linear) > 0.99 * abs(log) > 0.1


@pytest.mark.parametrize("name", ["elu", "softsign", "selu"])
def test_cusp_kernel_at_depth_10000(name):
    act = activation(name)
    n = origin_numbers(act)
    K, _ = kernel_flow(act, [0.0] * 9999, [1 / n.A2] * 9999, torch.tensor([1.0]))
    assert abs(float(K[-1, 0]) * 1e8 * n.cusp**2 / 4 - 1) < 0.003
    assert abs(float(asymptotic_kernel(act, torch.tensor(1e4), (3000, float(K[2999]))) / K[-1, 0]) - 1) < 1e-3


@pytest.mark.parametrize(("name", "C_W", "nu"), [("tanh", 1.0, 2 / 3), ("elu", 1.0, 2 / 3), ("relu", 2.0, 5.0)])
def test_spread_grows_by_nu_a_layer_at_criticality(name, C_W, nu):
    flow = single_input_flow(Layers.of(name, depth=5000, C_W=C_W), 1.0)
    assert abs(spread_per_layer(activation(name)) - nu) < 1e-12
    assert abs(float(flow.relative_V[-1]) / 5000 / nu - 1) < 2e-3
    assert abs(float(flow.relative_V[-1] - flow.relative_V[2499]) / 2500 / nu - 1) < 1e-3


def test_spread_at_a_half_stable_point():
    K = (3 + 17**0.5) / 2
    assert abs(spread_per_layer(activation("gelu"), K) - 4.904226) < 1e-6
    layers = Layers.of("gelu", depth=200, C_b=0.172922389, C_W=1.983058261)
    norm = (K - layers.C_b[0]) / layers.C_W[0]
    assert abs(float(single_input_flow(layers, norm).relative_V[-1]) / 199 - 4.904226) < 1e-3


def test_kernel_flow_costs_no_more_than_the_activation_on_the_same_nodes():
    act = activation("tanh")
    moment = SecondMoment(act)
    moment(0.7)
    z = torch.linspace(-5, 5, 2 * moment._table[0].size, dtype=F64)
    ratios = []
    for _ in range(3):
        start = time.perf_counter()
        kernel_flow(act, [0.0] * 10_000, [1.0] * 10_000, torch.tensor([0.7]))
        middle = time.perf_counter()
        for _ in range(10_000):
            act.fn(z)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    assert min(ratios) < 3, ratios


@pytest.mark.parametrize(("C_W", "C_b"), [(3.0, 0.1), (1.0, 0.0), (2.0, 0.0)])
def test_homogeneous_flow_keeps_its_scale_to_depth_10000(C_W, C_b):
    flow = single_input_flow(Layers.of("relu", depth=10_000, C_W=C_W, C_b=C_b), 1.0)
    growth = flow.log_K[-1] - flow.log_K[-2]
    assert abs(float(growth) - torch.tensor(C_W / 2).log()) < 1e-9
    assert abs(float(flow.relative_V[-1] - flow.relative_V[-2]) - 5) < 1e-6
    assert bool(torch.isfinite(flow.log_K).all())
    assert ("explodes" in flow.out_of_range) == (C_W == 3.0)
    assert ("vanishes" in flow.out_of_range) == (C_W == 1.0)


def test_exploding_gelu_becomes_linear_on_both_sides_and_says_so():
    flow = single_input_flow(Layers.of("silu", depth=5000, C_W=3.0, C_b=0.1), 1.0)
    assert "from layer" in flow.out_of_range
    assert "use log_K" in flow.out_of_range
    assert abs(float(flow.log_K[-1] - flow.log_K[-2]) - torch.tensor(1.5, dtype=F64).log()) < 1e-9
    assert abs(float(flow.relative_V[-1] - flow.relative_V[-2]) - 5) < 1e-6
    assert float(flow.chi_parallel[-1]) == pytest.approx(1.5)


def test_growth_faster_than_exponential_says_so():
    assert "faster than exponentially" in single_input_flow(Layers.of("exp", depth=50), 1.0).out_of_range
    assert single_input_flow(Layers.of("tanh", depth=50), 1.0).out_of_range == ""


def test_moments_of_the_output_to_first_order():
    flow = single_input_flow(Layers.of("gelu", widths=[4, 50, 60, 1], C_W=2.0, C_b=0.1), 1.0)
    assert torch.allclose(flow.moment(2), flow.mean_kernel)
    z4 = 3 * (flow.K**2 + (2 * flow.K * flow.G1 + flow.V) / flow.fan_in)
    assert torch.allclose(flow.moment(4), z4)
    kurtosis = flow.moment(4) / flow.moment(2) ** 2 - 3
    assert torch.allclose(kurtosis, flow.excess_kurtosis, atol=0.02)
    with pytest.raises(ValueError, match="give an even power"):
        flow.moment(3)


@given(st.sampled_from(["relu", "abs", "identity"]), st.floats(0.01, 100.0), st.floats(0.1, 4.0))
def test_two_slopes_are_homogeneous(name, scale, C_W):
    layers = Layers.of(name, depth=6, C_W=C_W)
    one, two = (single_input_flow(layers, k) for k in (1.0, scale))
    assert torch.allclose(two.K, scale * one.K, rtol=1e-12)
    assert torch.allclose(two.relative_V, one.relative_V, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_gives_the_same_to_its_digits(name):
    layers = Layers.of(name, depth=8, C_W=1.5, C_b=0.1)
    x = torch.tensor([[0.3, 1.0], [2.0, 0.7]])
    one, two = single_input_flow(layers, x), single_input_flow(layers, x.double())
    assert one.V.dtype == torch.float32
    assert one.V.shape == (8, 2, 2)
    for name in ("K", "V", "G1", "chi_parallel", "chi_perp"):
        assert torch.allclose(getattr(one, name).double(), getattr(two, name), rtol=2e-6, atol=1e-6), name


def test_inputs_are_independent_of_each_other():
    layers = Layers.of("gelu", depth=5, C_W=1.9, C_b=0.1)
    norms = torch.tensor([0.2, 3.0, 0.2, 11.0], dtype=F64)
    together = single_input_flow(layers, norms)
    for i, norm in enumerate(norms):
        alone = single_input_flow(layers, norm)
        assert torch.allclose(together.G1[:, i], alone.G1, rtol=1e-9, atol=1e-12)
        assert torch.allclose(together.V[:, i], alone.V, rtol=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Layers.of("tanh"), "depth=None, widths=None: give one of the two"),
        (lambda: Layers.of("tanh", depth=3, widths=[2, 2]), "give one of the two"),
        (lambda: Layers.of("tanh", depth=0), "at least 1 layer"),
        (lambda: Layers.of("tanh", widths=[3]), r"got widths \(3,\)"),
        (lambda: Layers.of("tanh", depth=3, C_W=[1.0]), "got 1 values of C_W for 3 layers"),
        (lambda: Layers.of("tanh", depth=3, C_b=-1.0), "not negative"),
        (lambda: single_input_flow(Layers.of("tanh", depth=3), -1.0), "got a kernel of -1"),
        (lambda: asymptotic_kernel(activation("gelu"), torch.tensor(9.0), (1, 1.0)), "does not fall like a power"),
        (lambda: spread_per_layer(activation("sigmoid")), "not critical at"),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_kernel_at_rest_stays_until_the_law_changes():
    C_W = [1.5] * 200 + [2.0] * 200
    K, _ = kernel_flow("tanh", [0.1] * 400, C_W, torch.ones(1, dtype=torch.float64))
    second, _ = kernel_flow("tanh", [0.1] * 200, [2.0] * 200, K[200])
    assert K.shape == (401, 1)
    assert torch.allclose(K[201:], second[1:], rtol=1e-14)
    assert float(K[200]) == pytest.approx(float(K[199]), rel=1e-15)
    assert float(K[201]) > 1.1 * float(K[200])
    flat, _ = kernel_flow("sign", [0.1] * 50, [1.0] * 50, torch.ones(1, dtype=torch.float64))
    assert flat[1:].flatten().tolist() == pytest.approx([1.1] * 50, rel=1e-12)
