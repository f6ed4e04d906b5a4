"""Deep linear networks: exact moments at any width against drawn weights, closed products and each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leadline.theory.deep_linear import (
    linear_correlator,
    linear_kernel_moment,
    linear_moment,
    linear_vertex,
    pairing_weights,
)

F64 = torch.float64
ONE = torch.ones(1, 1, dtype=F64)


def outputs(x: Tensor, widths: list[int], C_W: list[float], C_b: list[float], networks: int) -> Tensor:
    """Outputs (networks, neurons, inputs) of networks drawn weight by weight."""
    generator = torch.Generator().manual_seed(3)
    h = x.T.expand(networks, -1, -1)
    for n_in, n, w, b in zip(widths, widths[1:], C_W, C_b):
        W = torch.randn(networks, n, n_in, generator=generator, dtype=F64) * (w / n_in) ** 0.5
        h = W @ h + torch.randn(networks, n, 1, generator=generator, dtype=F64) * b**0.5
    return h


CASES = [
    ((0, 0, 0, 0), (0, 0, 1, 1)),
    ((0, 1, 0, 1), (0, 0, 1, 1)),
    ((0, 1, 1, 2), (0, 1, 1, 0)),
    ((0, 0, 1, 1, 2, 2), (0, 0, 0, 0, 1, 1)),
    ((0, 1, 0, 1, 2, 0), (0, 0, 1, 1, 0, 0)),
]


@pytest.mark.parametrize("bias", [False, True])
def test_moments_are_those_of_networks_narrower_than_their_inputs(bias):
    widths, C_W = [4, 3, 5, 2, 2], [1.2, 0.9, 1.1, 1.3]
    C_b = [0.3, 0.1, 0.2, 0.1] if bias else [0.0] * 4
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    z = outputs(x, widths, C_W, C_b, 400_000)
    gram = x @ x.T / 4
    wide = [4, 3000, 5000, 2000, 2]
    told_apart = 0
    for inputs, neurons in CASES:
        product = torch.stack([z[:, i, a] for a, i in zip(inputs, neurons)]).prod(0)
        mean, error = float(product.mean()), float(product.std()) / len(z) ** 0.5
        exact = float(linear_moment(gram, inputs, neurons, widths, C_W, C_b))
        assert abs(mean - exact) < 4 * error, (inputs, neurons)
        told_apart += abs(mean - float(linear_moment(gram, inputs, neurons, wide, C_W, C_b))) > 6 * error
    assert told_apart >= 3  # negative control: wide networks' moments


@settings(max_examples=12)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 4), st.floats(0.2, 3.0))
def test_one_input_follows_the_closed_product(hidden, order, C_W):
    widths = [3, *hidden, 1]
    K = C_W ** (len(hidden) + 1)
    double_factorial = {1: 1, 2: 3, 3: 15, 4: 105}[order]
    want = double_factorial * K**order * linear_kernel_moment(hidden, order)
    have = linear_moment(ONE, [0] * (2 * order), [0] * (2 * order), widths, C_W)
    assert float(have) == pytest.approx(want, rel=1e-10)


def test_order_does_not_matter_and_odd_moments_vanish():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    gram = x @ x.T / 4
    one = linear_moment(gram, (0, 1, 2, 0, 1, 1), (0, 1, 0, 0, 1, 0), [4, 6, 5, 2], 1.3, 0.1)
    two = linear_moment(gram, (1, 1, 0, 0, 1, 2), (0, 1, 0, 0, 1, 0), [4, 6, 5, 2], 1.3, 0.1)
    assert torch.allclose(one, two, rtol=1e-12)
    assert float(linear_moment(gram, (0, 1, 1), (0, 0, 0), [4, 6, 5, 2])) == 0.0


def test_vertex_is_the_connected_part_of_four_points():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(5), dtype=F64)
    gram, widths, C_W = x @ x.T / 4, [4, 7, 3, 9, 2], [1.2, 0.9, 1.1, 1.3]
    V = linear_vertex(gram, widths, C_W)
    for inputs in ((0, 0, 0, 0), (0, 1, 1, 2), (0, 1, 2, 1)):
        connected = linear_correlator(gram, inputs, (0, 0, 1, 1), widths, C_W)
        assert float(connected) == pytest.approx(float(V[inputs]) / 9, rel=1e-10)
    assert float(V[0, 0, 0, 0]) == pytest.approx(9 * float(closed_variance(gram, widths, C_W)), rel=1e-10)


def closed_variance(gram: Tensor, widths: list[int], C_W: list[float]) -> Tensor:
    """K^2 (prod (1 + 2/n) - 1), the closed form for one input."""
    K = gram[0, 0] * torch.tensor(C_W, dtype=F64).prod()
    return K**2 * (linear_kernel_moment(widths[1:-1], 2) - 1)


@pytest.mark.parametrize(("points", "power"), [(4, 1), (6, 2), (8, 3)])
def test_connected_correlators_fall_by_one_power_of_width_for_each_pair(points, power):
    """Of neurons that are equal in pairs: the 2m-point correlator is of order n^(1-m)."""
    neurons = [i // 2 for i in range(points)]
    sizes = [abs(float(linear_correlator(ONE, [0] * points, neurons, [3, n, n, points]))) for n in (200, 400)]
    assert sizes[0] / sizes[1] == pytest.approx(2**power, rel=0.03)


def test_six_point_weights_reduce_to_wick_at_infinite_width():
    gram = torch.tensor([[1.0, 0.3], [0.3, 0.8]], dtype=F64)
    weights = pairing_weights(gram, (0, 0, 1, 1, 0, 1), [3, 10**7, 10**7, 1])
    for pairing, weight in weights.items():
        inputs = (0, 0, 1, 1, 0, 1)
        want = torch.stack([gram[inputs[p], inputs[q]] for p, q in pairing]).prod()
        assert float(weight) == pytest.approx(float(want), rel=1e-5)
    assert len(weights) == 15


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: linear_moment(ONE, [0] * 12, [0] * 12, [3, 4, 1]), "got 12 points"),
        (lambda: linear_moment(ONE, [0] * 4, [0] * 2, [3, 4, 1]), "4 inputs and 2 neurons"),
        (lambda: linear_moment(ONE, [0] * 2, [0] * 2, [3, 4, 1], [1.0]), "got 1 values of C_W for 2 layers"),
        (lambda: linear_kernel_moment([3], -2), "order=-2"),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
