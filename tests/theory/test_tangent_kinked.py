"""Several inputs and activations with kinks: limits, equal inputs, smooth ones among them, and drawn networks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from leadline.activations import Activation, activation
from leadline.theory.flow import Layers, many_input_flow
from leadline.theory.flow.pairs import _KEYS, _SIXTH, _direct_sixth, _series, _two_slopes
from leadline.theory.tangent import gradient_flow, gradient_step, tangent_flow, tangent_tensors
from theory.tangent_networks import estimate, kernel
from theory.trained_networks import Networks

LAW = {
    "C_b": (0.1, 0.2, 0.05, 0.1),
    "C_W": (1.2, 1.4, 1.1, 1.3),
    "lambda_b": (0.5, 0.8, 0.3, 0.6),
    "lambda_W": (1.0, 0.7, 1.2, 0.9),
}
FIELDS = ("K", "Theta", "G1", "H1", "V", "A", "B", "D", "F", "P", "Q")
X = torch.tensor([[0.7, -0.4, 1.1, 0.9], [-0.3, 0.8, 0.6, -0.5]], dtype=torch.float64)
GRAM = X @ X.T / 4
SIGMAS = 4.0


def law(act: str | Activation, *widths: int) -> Layers:
    return Layers.of(act, widths=widths, **{k: v[: len(widths) - 1] for k, v in LAW.items()})


def tensor(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("name", ["relu", "hardtanh", "selu"])
def test_sixth_derivatives_by_series_quadrature_and_closed_form(name: str) -> None:
    act, (a, rho, b) = activation(name), (3.0, -0.8, 2.0)
    series, good = _series(act, tensor(a), tensor(rho), tensor(b), 1024, _KEYS + _SIXTH)
    assert bool(good)
    direct = _direct_sixth(act, a, rho, b)
    for key in _SIXTH:
        assert float(direct[key]) == pytest.approx(float(series[key]), rel=1e-9, abs=1e-11), key
    if act.slopes is not None:
        for key, value in _two_slopes(*act.slopes, tensor(a), tensor(rho), tensor(b)).items():
            assert float(value) == pytest.approx(float(series[key]), rel=1e-9, abs=1e-11), key


def test_a_smooth_activation_gives_the_same_whether_or_not_it_is_said_to_have_a_kink() -> None:
    smooth = activation("tanh")
    said = Activation(smooth.fn, name="said", kinks=(0.3,), derivative=smooth.derivative)
    one, two = (tangent_tensors(law(act, 4, 6, 9, 2), GRAM) for act in (smooth, said))
    for field in FIELDS:
        wanted = getattr(one, field)
        torch.testing.assert_close(getattr(two, field), wanted, rtol=0, atol=3e-10 * float(wanted.abs().max()))


def softplus(beta: float) -> Activation:
    return Activation(
        lambda z: functional.softplus(z, beta, 40.0),
        name=f"softplus at {beta:g}",
        kinks=(0.0,),  # a corner in all but name: panels are cut there
        derivative=lambda z: torch.sigmoid(beta * z),
    )


def test_relu_is_the_limit_of_ever_sharper_corners() -> None:
    wanted = tangent_tensors(law("relu", 4, 6, 9, 2), GRAM).last
    found = [tangent_tensors(law(softplus(beta), 4, 6, 9, 2), GRAM).last for beta in (8.0, 16.0, 32.0, 64.0)]
    for field in FIELDS:
        limits = [getattr(s, field) for s in found]
        near = limits[-1]
        for power in (2, 4, 8):  # powers 1, 2, 3 of 1/beta taken out
            limits = [(power * b - a) / (power - 1) for a, b in itertools.pairwise(limits)]
        size = float(getattr(wanted, field).abs().max())
        assert float((limits[0] - getattr(wanted, field)).abs().max()) < 1e-3 * size, field
        if field not in ("K", "G1", "V"):
            assert float((near - getattr(wanted, field)).abs().max()) > 1e-3 * size, field


@pytest.mark.parametrize("name", ["relu", "hardtanh", "selu"])
def test_equal_inputs_are_one(name: str) -> None:
    layers = law(name, 4, 16, 24, 16, 2)
    one = tangent_flow(layers, 0.6675)
    same = tangent_tensors(layers, torch.full((3, 3), 0.6675, dtype=torch.float64))
    for field in FIELDS:
        found = getattr(same, field)
        wanted = getattr(one, field).reshape(-1, *(1,) * (found.ndim - 1))
        torch.testing.assert_close(found, wanted.expand_as(found), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_inputs_that_come_together_become_one(name: str) -> None:
    layers = law(name, 4, 6, 9, 2)
    apart: dict[str, list[float]] = {}
    for distance in (0.02, 0.01):
        gram = torch.tensor([[1.0, 1 - distance**2 / 2], [1 - distance**2 / 2, 1.0]], dtype=torch.float64)
        close = tangent_tensors(layers, gram)
        for field in FIELDS[:9]:
            value = getattr(close, field)[-1]
            apart.setdefault(field, []).append(float((value - value[(0,) * value.ndim]).abs().max()))
    for field, (far, near) in apart.items():
        assert near < 0.65 * far + 1e-9, field  # as fast as the distance, or faster


def test_the_kernel_is_that_of_the_pairs_and_the_company_of_inputs_does_not_matter() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layers = law("leaky_relu", 4, 16, 24, 2)
    gram = x @ x.T / 4
    three, two = tangent_tensors(layers, gram), tangent_tensors(layers, gram[:2, :2])
    pairs = many_input_flow(layers, gram)
    torch.testing.assert_close(three.V, pairs.vertex, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(three.G1, pairs.G1, rtol=1e-10, atol=1e-11)
    turned = tangent_tensors(layers, gram[[2, 0, 1]][:, [2, 0, 1]])
    for field in FIELDS:
        value, other, few = (getattr(t, field)[-1] for t in (three, turned, two))
        for axis in range(value.ndim):
            other = other.index_select(axis, torch.tensor([1, 2, 0]))
        torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(value[(slice(0, 2),) * value.ndim], few, rtol=1e-9, atol=1e-10)


def test_three_inputs_in_a_plane() -> None:
    x = torch.tensor([[1.0, 0.2], [-0.3, 0.8], [0.7, 1.0]], dtype=torch.float64)  # the last is the sum of the others
    layers = Layers.of("relu", widths=(2, 8, 8, 1), C_W=2.0)
    flat = tangent_tensors(layers, x @ x.T / 2)
    near = tangent_tensors(layers, x @ x.T / 2 + 1e-9 * torch.eye(3, dtype=torch.float64))
    for field in FIELDS:
        value = getattr(flat, field)
        slack = (2 * flat.error if field in "VAD" else 1e-6) * float(value.abs().max())
        assert float((value - getattr(near, field)).abs().max()) <= slack, field


def worst(found: tuple[Tensor, Tensor], wanted: Tensor, but: Tensor | None = None) -> float:
    """Largest difference over entries, in standard errors."""
    apart = ((found[0] - wanted) / found[1]).abs()
    return float((apart if but is None else apart[~but]).max())


def on_itself() -> Tensor:
    """Entries of P, Q whose three legs are at one input."""
    i = torch.arange(2)
    return ((i[:, None, None, None] == i[:, None, None]) & (i[:, None, None, None] == i[:, None])).expand(2, 2, 2, 2)


@pytest.mark.parametrize("name", ["relu", "hardtanh", "selu"])
def test_one_hidden_layer_is_exact_at_any_width(name: str) -> None:
    # real networks; their differentials as differences of gradients, which jump at corners
    layers = law(name, 4, 6, 2)
    found = estimate(layers, X, 8000, seed=1, second=False, step=0.05)
    wanted = tangent_tensors(layers, GRAM).last
    for field in "ABDF":
        assert worst(found[field], getattr(wanted, field)) < SIGMAS, field
    for field in "PQ":
        assert worst(found[field], getattr(wanted, field), on_itself()) < SIGMAS, field
    # controls: F for B, and differentials without what the corner adds
    k = layers.lambda_W[-1] / layers.C_W[-1]
    assert worst(found["B"], wanted.F) > SIGMAS
    assert worst(found["P"], 0 * wanted.P, on_itself()) > SIGMAS
    assert worst(found["Q"], k * wanted.F.permute(1, 0, 3, 2), on_itself()) > SIGMAS


def test_what_does_not_exist_is_refused() -> None:
    found = tangent_tensors(law("relu", 4, 6, 1), GRAM)
    assert found.second is None
    with pytest.raises(ValueError, match=r"R, S, T and U between inputs .* without kinks only"):
        found.R  # noqa: B018
    with pytest.raises(ValueError, match=r"relu has a kink, and the units .* order 1/sqrt\(n\)"):
        gradient_step(found, torch.ones(1), 0.1)
    with pytest.raises(ValueError, match="without kinks only"):
        gradient_flow(found, torch.ones(1), [1.0])
    with pytest.raises(ValueError, match="parallel or antiparallel"):
        tangent_tensors(Layers.of("relu", depth=3), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    with pytest.raises(ValueError, match="an input whose kernel is 0"):
        tangent_tensors(Layers.of("relu", depth=3), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="jumps"):
        tangent_tensors(Layers.of("sign", depth=3), GRAM)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "hardtanh"])
def test_two_inputs_through_three_layers(name: str) -> None:
    # a widening layer, so that what is carried over from the one before counts three times
    n = 10
    narrow, wide = (estimate(law(name, 4, w, 3 * w, 2), X, 12_000, seed=w, second=False) for w in (n, 2 * n))
    wanted = tangent_tensors(law(name, 4, n, 3 * n, 2), GRAM).last
    forgetful = tangent_tensors(law(name, 4, 10**12, 1, 2), GRAM).last  # n_2/n_1 -> 0
    for field in "ABDF":
        (a, da), (b, db) = narrow[field], wide[field]
        found = (2 * b - a, (4 * db**2 + da**2).sqrt())
        assert worst(found, getattr(wanted, field)) < SIGMAS, field
        if field in "AB":
            assert worst(found, getattr(forgetful, field)) > SIGMAS, field


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "hardtanh"])
def test_mean_correction(name: str) -> None:
    found = []
    for n in (10, 20):
        layers = law(name, 4, n, n, 1)
        theta = tangent_tensors(layers, GRAM).last.Theta
        sums, squares, count = torch.zeros_like(theta), torch.zeros_like(theta), 0
        for seed in range(80):
            H = kernel(Networks(layers, 25_000, seed=seed), X)[:, 0, :, 0] - theta
            sums, squares, count = sums + H.sum(0), squares + (H**2).sum(0), count + len(H)
        mean = sums / count
        found.append((n * mean, n * ((squares / count - mean**2) / count).sqrt()))
    (a, da), (b, db) = found
    value, error = 2 * b - a, (4 * db**2 + da**2).sqrt()
    wanted = tangent_tensors(law(name, 4, 10, 10, 1), GRAM).last
    assert worst((value, error), wanted.H1) < SIGMAS
    assert worst((value, error), 0 * wanted.H1) > SIGMAS
    assert worst((value, error), wanted.H1.T.flip(0)) > SIGMAS  # diagonal and off-diagonal exchanged


def nonlinear_part(name: str, n: int, networks: int, rate: float, y: float) -> tuple[float, float, Layers]:
    """sqrt(n) times what a step adds to the mean output of one hidden layer beyond eta Theta y, at a training input."""
    layers = Layers.of(name, widths=(4, n, 1), C_b=0.1, C_W=1.5, lambda_b=0.5)
    theta = float(tangent_tensors(layers, GRAM[:1, :1]).Theta[-1])
    found = []
    for seed in range(0, networks, 2000):
        drawn = Networks(layers, 2000, seed=seed, antithetic=True)
        for i, gW, gb in list(drawn.gradients(X[:1], lambda z: z - y)):
            drawn.W[i] -= rate * layers.lambda_W[i] / layers.widths[i] * gW
            drawn.b[i] -= rate * layers.lambda_b[i] * gb
        z = drawn.forward(X[:1])[2][:, 0, 0]
        found.append((z[:1000] + z[1000:]) / 2 - rate * theta * y)
    all_of_them = torch.cat(found)
    return n**0.5 * float(all_of_them.mean()), (n / len(all_of_them)) ** 0.5 * float(all_of_them.std()), layers


@pytest.mark.slow
def test_a_step_of_relu_is_off_by_one_over_the_root_of_the_width() -> None:
    # units between 0 and their step cross the corner: n(0)/2 (eta Theta_1 eps W)^2 W each, where W eps > 0
    rate, y = 0.3, 1.5
    (a, da, _), (b, db, layers) = (nonlinear_part("relu", n, 24_000, rate, y) for n in (32, 128))
    value, error = 2 * b - a, (4 * db**2 + da**2) ** 0.5
    K1, K2 = (float(k[0, 0]) for k in tangent_tensors(layers, GRAM[:1, :1]).K)
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    eps = K2**0.5 * z - y
    square = float((eps * eps.abs() * torch.exp(-(z**2) / 2)).sum() / torch.exp(-(z**2) / 2).sum())
    moved = (rate * (0.5 + float(GRAM[0, 0]))) ** 2 * square
    wanted = moved / (4 * math.sqrt(2 * math.pi * K1)) * 2 * math.sqrt(2 / math.pi) * 1.5**1.5
    assert abs(value - wanted) < SIGMAS * error
    assert abs(value) > SIGMAS * error
    (a, da, _), (b, db, _) = (nonlinear_part("gelu", n, 24_000, rate, y) for n in (32, 128))
    assert abs(2 * b - a) < SIGMAS * (4 * db**2 + da**2) ** 0.5  # negative control: no corner, no such term
