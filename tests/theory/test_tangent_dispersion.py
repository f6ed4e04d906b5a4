"""Second moments of the tangent kernel of deep ReLU networks, against other recursions and drawn networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from leadline.theory.flow import Layers
from leadline.theory.tangent import relu_dispersion, relu_dispersion_limit, tangent_flow


def weights_only(depth: int, width: int) -> float:
    return relu_dispersion(Layers.of("relu", depth=depth, width=width, C_W=2.0, lambda_b=0.0)).ratio


def polynomial_recursion(n: int, L: int) -> float:
    """E H^2/(E H)^2 for one width, C_W = 2 and weights alone, by a recursion in powers of 1/n (up to 2^-n)."""
    R, Q, P = [12 / n**2], [2 / n], [1.0]
    for _ in range(L - 1):
        r, q, p = R[-1], Q[-1], P[-1]
        R.append((1 + 5 / n) * r)
        Q.append(r + (1 - 1 / n) * q)
        P.append(r + 2 * (1 - 2 / n) * q + (1 + 1 / n - 4 / n**2) * p)
    total = 0.0
    for m in range(1, L + 1):
        N, M = Q[L - m], P[L - m]
        total += (1 + 5 / n) ** (m - 1) * M
        for k in range(m - 1, 0, -1):
            N, M = (1 + 5 / n) * N, N + (1 - 1 / n) * M
            total += 2 * (1 + 5 / n) ** (k - 1) * M
    return total / L**2


def factorised(n: int, hidden: int) -> float:
    """As if signal and gradient through a common layer were one factor 1 + 1/n + 4/n^2: right to first order in 1/n."""
    FF, k4 = 1 + 5 / n, 3 / (n + 2)
    BB, FB, hF, hB, hh = (1 + k4) * (1 + 2 / n), 1 + 1 / n + 4 / n**2, (1 + 1 / n) / 2, (1 + k4) / 2, (1 + k4) / 4
    v1, v2 = 2.0, 4 * (1 + 2 / n)
    total = FF**hidden * 4.0
    for m in range(1, hidden + 1):
        total += 4 * FF ** (m - 1) * hh * BB ** (hidden - m) * v2
        total += 2 * 4 * FF ** (m - 1) * hF * FB ** (hidden - m) * v1
        for k in range(1, m):
            total += 2 * 4 * FF ** (k - 1) * hF * FB ** (m - k - 1) * hB * BB ** (hidden - m) * v2
    return total / (2.0 * (hidden + 1)) ** 2


def drawn(layers: Layers, norm: float, count: int, seed: int) -> Tensor:
    """H of drawn networks, from gradients written out; (N, 2): with all rates, and the weights' part alone."""
    generator = torch.Generator().manual_seed(seed)
    n = layers.widths
    W = [
        torch.randn(count, b, a, generator=generator, dtype=torch.float64) * (C / a) ** 0.5
        for a, b, C in zip(n, n[1:], layers.C_W)
    ]
    s = torch.full((count, n[0], 1), norm**0.5, dtype=torch.float64)
    signals, gates = [s], []
    for w in W[:-1]:
        z = w @ s
        s = z.clamp_min(0)
        signals.append(s)
        gates.append((z > 0).to(s))
    delta = torch.ones(count, 1, 1, dtype=torch.float64)
    total, weights = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for i in reversed(range(layers.depth)):
        B = delta.square().sum((1, 2))
        weights += layers.lambda_W[i] * signals[i].square().mean((1, 2)) * B
        total += layers.lambda_b[i] * B
        if i:
            delta = (W[i].mT @ delta) * gates[i - 1]
    return torch.stack([weights + total, weights], dim=1)


@pytest.mark.parametrize(("n", "L"), [(64, 8), (64, 16), (32, 16), (1000, 50), (40, 1)])
def test_agrees_with_the_polynomial_recursion(n: int, L: int) -> None:
    assert weights_only(L, n) == pytest.approx(polynomial_recursion(n, L), rel=1e-8)


def test_published_numbers() -> None:
    assert weights_only(8, 64) == pytest.approx(1.4663, abs=5e-5)
    assert weights_only(16, 64) == pytest.approx(2.3729, abs=5e-5)


def test_limit() -> None:
    assert relu_dispersion_limit(1.0) == pytest.approx(77.0, abs=0.05)
    errors = [weights_only(n // 4, n) / relu_dispersion_limit(0.25) - 1 for n in (100, 200, 400)]
    assert abs(errors[2]) < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.05)
    assert relu_dispersion_limit(1e-6) - 1 == pytest.approx(11 / 3 * 1e-6, rel=1e-4)
    assert relu_dispersion_limit(1.66e-5) == pytest.approx(relu_dispersion_limit(1.67e-5), rel=1e-6)


@pytest.mark.parametrize("C_W", [1.2, 2.0, 2.8])
def test_first_order_is_that_of_the_recursions(C_W: float) -> None:
    widths = (5, 20000, 30000, 10000, 20000, 1)
    layers = Layers.of("relu", widths=widths, C_W=C_W, lambda_b=(0.3, 1.0, 0.0, 0.7, 1.0), lambda_W=(1, 2, 0.5, 1, 1))
    flow, exact = tangent_flow(layers, 0.8), relu_dispersion(layers, 0.8)
    assert exact.mean == pytest.approx(float(flow.Theta[-1]), rel=1e-9)
    assert exact.ratio - 1 == pytest.approx(float(flow.relative_variance[-1]), rel=1e-3)


@pytest.mark.parametrize("C_W", [1.2, 2.0, 2.8])
def test_drawn_networks_of_any_phase_and_widths(C_W: float) -> None:
    layers = Layers.of("relu", widths=(3, 16, 24, 12, 1), C_W=C_W, lambda_b=(1, 0.5, 1, 0.3), lambda_W=(1, 2, 0.5, 1))
    exact = relu_dispersion(layers, 0.8)
    H = drawn(layers, 0.8, 40_000, seed=1)
    mean = float(exact.means[:, 0].sum())
    first_order = 1 + float(tangent_flow(layers, 0.8).relative_variance[-1])
    assert first_order < 1 + 0.9 * (exact.ratio - 1)
    for sample, wanted in ((H[:, 0] / exact.mean, exact.ratio), (H[:, 1] / mean, exact.weights_only)):
        square = sample.square()
        error = float(square.std()) / len(square) ** 0.5
        assert abs(float(square.mean()) - wanted) < 3.5 * error
        assert abs(float(sample.mean()) - 1) < 3.5 * float(sample.std()) / len(square) ** 0.5
        # control: a spread smaller by a tenth (the first order in 1/n is smaller by more) is rejected
        assert abs(float(square.mean()) - 1 - 0.9 * (wanted - 1)) > 3.5 * error


def test_signal_and_gradient_of_a_layer_are_not_one_factor() -> None:
    hidden, n = 8, 16
    layers = Layers.of("relu", widths=(3, *(n,) * hidden, 1), C_W=2.0, lambda_b=0.0)
    H = drawn(layers, 1.0, 20_000, seed=2)[:, 1] / (2.0 * (hidden + 1) / 2)
    square = H.square()
    error = float(square.std()) / len(square) ** 0.5
    exact = relu_dispersion(layers).ratio
    assert abs(float(square.mean()) - exact) < 3.5 * error
    assert factorised(n, hidden) < exact * 0.95


def test_phases() -> None:
    found = {}
    for C_W in (1.2, 2.0, 2.8):
        layers = Layers.of("relu", widths=(10, *(64,) * 16, 1), C_W=C_W, lambda_W=C_W, lambda_b=1.0)
        found[C_W] = relu_dispersion(layers)
    assert found[1.2].ratio < 1.1 < 1.9 < found[2.0].ratio < found[2.8].ratio
    assert found[1.2].weights_only == pytest.approx(found[2.8].weights_only, rel=1e-10)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="the exact law is that of ReLU"):
        relu_dispersion(Layers.of("tanh", depth=3))
    with pytest.raises(ValueError, match="biases that start at 0"):
        relu_dispersion(Layers.of("relu", depth=3, C_b=0.1))
    with pytest.raises(ValueError, match="not negative"):
        relu_dispersion_limit(-0.1)
    assert math.isfinite(weights_only(1, 1))


def test_phases_at_a_fixed_depth_over_width() -> None:
    # what Seleznova and Kutyniok (2022) state: 1 + O(1/n) in the ordered phase, exponential growth at the edge and beyond
    found = {}
    for a in (0.6, 1.0, 1.4):
        for n in (20, 40, 80):
            layers = Layers.of("relu", widths=[n] * (n + 1) + [1], C_W=2 * a, lambda_W=2 * a)
            found[a, n] = relu_dispersion(layers)
    ordered = [found[0.6, n].ratio - 1 for n in (40, 80)]
    assert ordered[0] / ordered[1] == pytest.approx(2, abs=0.1)
    assert found[1.0, 80].ratio > 20
    assert found[1.4, 80].ratio == pytest.approx(found[1.4, 80].weights_only, rel=0.02)
    limits = []
    for a in (0.6, 1.0, 1.4):
        far, middle, near = (found[a, n].weights_only for n in (20, 40, 80))
        limits.append((4 * (2 * near - middle) - (2 * middle - far)) / 3)  # powers 1 and 2 of 1/n taken out
    assert limits == pytest.approx([relu_dispersion_limit(1.0)] * 3, rel=0.01)
    # their constant with layers that decorrelate as e^(-4|l-m|/n) is right to first order in L/n only
    theirs = [math.exp(5 * r) / (2 * r) * (1 - (1 - math.exp(-4 * r)) / (4 * r)) for r in (1e-3, 1.0)]
    assert theirs[0] == pytest.approx(relu_dispersion_limit(1e-3), abs=2e-6)
    assert theirs[1] < 0.8 * limits[0]
