"""The covariance SDE against networks of shaped activations, exact moments, and what it must not say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import ks_2samp, kstest

from leadline.activations import activation
from leadline.activations.shape import Shaped, shape, shape_relu
from leadline.measure.ensemble import Chain, ensemble
from leadline.theory.covariance_sde import (
    CovarianceSDE,
    correlation_picture,
    covariance_sde,
    covariance_sde_relu,
    log_variance_law,
    relu_drift,
    smooth_drift,
)

START = torch.tensor([[1.0, 0.3], [0.3, 1.0]], dtype=torch.float64)


def network_covariances(act, width: int, depth: int, networks: int, seed: int = 0) -> torch.Tensor:
    """Kernel of the layer after `depth` hidden layers, whose first layer has the covariance START."""
    C_W = 1 / float(act.second_moment(1.0))
    x = torch.linalg.cholesky(START) * math.sqrt(2.0)
    chain = Chain.of([2] + [width] * depth + [1], act, C_W=[1.0] + [C_W] * depth)
    last: list[torch.Tensor] = []
    ensemble(chain, x, networks, seed, callback=lambda i, G, _: last.append(G.clone()) if i == depth + 1 else None)
    return torch.cat(last)


def correlations(V: torch.Tensor) -> torch.Tensor:
    return V[:, 0, 1] / (V[:, 0, 0] * V[:, 1, 1]).sqrt()


def two_sample(networks: torch.Tensor, sde: CovarianceSDE, T: float) -> tuple[float, float]:
    """p-values of equal laws: of the correlation, of the logarithm of the first input's variance."""
    V = sde.sample(START, [T], paths=4000, seed=1, steps_per_unit=200).V[:, 0]
    V, finite = V[torch.isfinite(V[:, 0, 0])], networks
    return (
        float(ks_2samp(correlations(finite), correlations(V)).pvalue),
        float(ks_2samp(finite[:, 0, 0].log(), V[:, 0, 0].log()).pvalue),
    )


def test_noise_moments_are_exact():
    nothing = CovarianceSDE(torch.zeros_like, False)
    T = 0.25
    V = nothing.sample(START, [T], paths=20_000, seed=0, steps_per_unit=200).V[:, 0]
    # without a drift E V is constant, and u = E V00 V11 and w = E V01^2 obey u' = 2 w, w' = u + w
    fast, slow = (1.0 + 2 * 0.09) / 3, (1.0 - 0.09) / 3
    u, w = fast * math.exp(2 * T) + 2 * slow * math.exp(-T), fast * math.exp(2 * T) - slow * math.exp(-T)
    for got, want in (
        (V[:, 0, 0], 1.0),
        (V[:, 0, 1], 0.3),
        (V[:, 0, 0] ** 2, math.exp(2 * T)),
        (V[:, 0, 0] * V[:, 1, 1], u),
        (V[:, 0, 1] ** 2, w),
    ):
        assert abs(float(got.mean()) - want) < 4 * float(got.std()) / len(got) ** 0.5
    # negative control: the diagonal noise of half the variance is resolved as wrong
    square = V[:, 0, 0] ** 2
    assert abs(float(square.mean()) - math.exp(T)) > 8 * float(square.std()) / len(V) ** 0.5


def test_log_variance_of_a_shaped_relu_is_normal():
    V = covariance_sde_relu(0.0, -1.0).sample(START, [0.5, 1.0], paths=4000, seed=2, steps_per_unit=200).V[..., 0, 0]
    for i, T in enumerate((0.5, 1.0)):
        mean, variance = (float(v) for v in log_variance_law(T))
        assert kstest(V[:, i].log(), "norm", args=(mean, variance**0.5)).pvalue > 1e-3
        assert kstest(V[:, i].log(), "norm", args=(0.0, variance**0.5)).pvalue < 1e-9  # Ito's shift left out


@pytest.mark.parametrize(
    ("act", "sde", "wrong"),
    [
        (shape_relu(96, c_minus=-1.0), covariance_sde_relu(0.0, -1.0), covariance_sde_relu(0.0, -2.0)),
        (shape("tanh", 96), covariance_sde(shape("tanh", 96)), covariance_sde(shape("tanh", 96, a=0.5))),
    ],
    ids=["relu", "tanh"],
)
def test_networks_have_the_law_of_the_sde(act, sde, wrong):
    networks = network_covariances(act, 96, 72, 700)
    rho, log_variance = two_sample(networks, sde, 0.75)
    assert min(rho, log_variance) > 1e-3
    # negative control: a drift four times as strong
    assert min(two_sample(networks, wrong, 0.75)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "sde", "wrong"),
    [
        (shape_relu(150), covariance_sde_relu(), CovarianceSDE(torch.zeros_like, False)),
        (
            shape("tanh", 150, center=0.4),
            covariance_sde(shape("tanh", 150, center=0.4)),
            covariance_sde(shape("tanh", 150)),
        ),
        (shape("softplus", 150, a=2.0), covariance_sde(shape("softplus", 150, a=2.0)), covariance_sde_relu()),
    ],
    ids=["relu", "tanh off center", "softplus"],
)
def test_networks_of_width_150_have_the_law_of_the_sde(act, sde, wrong):
    networks = network_covariances(act, 150, 150, 6000)
    rho, log_variance = two_sample(networks, sde, 1.0)
    assert min(rho, log_variance) > 1e-3
    assert min(two_sample(networks, wrong, 1.0)) < 1e-6


def test_a_shape_left_out_collapses_the_inputs():
    shaped = correlations(network_covariances(shape_relu(64), 64, 64, 400))
    plain = correlations(network_covariances(activation("relu"), 64, 64, 400))
    assert float(plain.mean()) > 0.98
    assert float(shaped.std()) > 0.5
    point = covariance_sde_relu().without_noise(START, [1.0])[0]
    assert abs(float(point[0, 1]) - float(shaped.mean())) < 0.2  # the mean field is a point, the law is wide


def test_bends_change_the_spread_at_finite_width():
    width, depth = 60, 30
    networks = network_covariances(shape_relu(width, c_plus=1.0, c_minus=-2.0), width, depth, 6000)
    log_variance = networks[:, 0, 0].log()
    error = float(log_variance.var()) * math.sqrt(2 / len(log_variance))
    _, limit = log_variance_law(depth / width)
    _, finite = log_variance_law(depth / width, width=width, c_plus=1.0, c_minus=-2.0)
    assert abs(float(log_variance.var() - finite)) < 4 * error
    assert abs(float(log_variance.var() - limit)) > 8 * error  # negative control: the slopes' limit


@pytest.mark.parametrize(("name", "explodes"), [("tanh", False), ("softplus", True), ("gelu", True), ("sin", False)])
def test_explosion_is_as_the_origin_says(name, explodes):
    sde = covariance_sde(shape(name, 100))
    assert sde.can_explode is explodes
    start = torch.tensor([[1.0]], dtype=torch.float64)
    share = float(sde.sample(start, [8.0], paths=200, seed=0, steps_per_unit=100).exploded[-1])
    assert (share > 0.05) is explodes


def test_shaped_activation_is_normalized_and_differentiable():
    act = shape("softplus", 400, a=0.5, center=0.3)
    x = torch.linspace(-30, 30, 13, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(act(x).sum(), x)
    assert torch.allclose(grad, act.derivative(x.detach()), rtol=1e-12)
    assert abs(float(act(torch.zeros(1, dtype=torch.float64)))) < 1e-15
    assert abs(float(act.derivative(torch.zeros(1, dtype=torch.float64))) - 1) < 1e-15
    second, third = shape("tanh", 9, center=0.4).origin_derivatives
    t = math.tanh(0.4)
    assert abs(second + 2 * t) < 1e-9
    assert abs(third - (6 * t * t - 2)) < 1e-9
    assert act(torch.ones(2, dtype=torch.float32)).dtype == torch.float32
    assert shape("hardtanh", 100).kinks == (-10.0, 10.0)


@pytest.mark.parametrize(("plus", "minus"), [(0.0, -1.0), (0.7, -0.4)])
def test_drift_is_the_limit_of_one_layer(plus, minus):
    V = torch.tensor([[1.3, 0.5, -0.2], [0.5, 0.8, 0.1], [-0.2, 0.1, 1.0]], dtype=torch.float64)
    gaps = []
    for n in (10**4, 10**6):
        act = shape_relu(n, c_plus=plus, c_minus=minus)
        change = n * (act.gram(V) / act.second_moment(1.0) - V)
        gaps.append(float((change - relu_drift(V, plus, minus)).abs().max()))
    assert gaps[1] < 1e-3
    assert 5 < gaps[0] / gaps[1] < 20  # an error of one over the root of the width


def test_smooth_drift_is_the_limit_of_one_layer():
    V = torch.tensor([[1.3, 0.5], [0.5, 0.8]], dtype=torch.float64)
    act = shape("softplus", 10**6, a=1.5, center=0.2)
    second, third = act.origin_derivatives
    one = 10**6 * (act.gram(V, rtol=1e-13) / act.second_moment(1.0) - V)
    assert torch.allclose(one, smooth_drift(V, second, third, 1.5), rtol=2e-3, atol=1e-4)
    assert not torch.allclose(one, smooth_drift(V, second, 0.5, 1.5), rtol=2e-3, atol=1e-4)


def test_inputs_may_be_permuted_and_left_out():
    V = torch.tensor([[1.3, 0.5, -0.2], [0.5, 0.8, 0.1], [-0.2, 0.1, 1.0]], dtype=torch.float64)
    order = [2, 0, 1]
    for drift in (lambda v: relu_drift(v, 0.0, -1.0), lambda v: smooth_drift(v, 0.6, -0.3)):
        assert torch.allclose(drift(V[order][:, order]), drift(V)[order][:, order])
        assert torch.allclose(drift(V[:2, :2]), drift(V)[:2, :2])


def test_singular_start_and_several_times():
    same = torch.ones(3, 3, dtype=torch.float64)
    paths = covariance_sde_relu().sample(same, [0.0, 0.3, 0.9], paths=50, seed=0)
    assert paths.V.shape == (50, 3, 3, 3)
    assert torch.allclose(paths.V[:, 0], same)
    assert float((paths.correlation() - 1).abs().max()) < 1e-6


def test_picture_has_both_sides():
    paths = covariance_sde_relu().sample(START, [0.1, 0.2], paths=20, seed=0)
    figure = correlation_picture(paths, torch.zeros(5, 2), title="t")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["SDE", "5 networks"]
    with pytest.raises(ValueError, match="networks must hold 2 times"):
        correlation_picture(paths, torch.zeros(5, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shape("tanh", 0), "width must be 1 or more"),
        (lambda: shape("tanh", 10, a=0.0), "a must be a positive number"),
        (lambda: shape("relu", 10), "has a kink at center=0"),
        (lambda: shape("cos", 10), "has slope"),
        (lambda: shape_relu(0), "width must be 1 or more"),
        (lambda: covariance_sde_relu().sample(START[:1], [1.0], paths=2, seed=0), "V0 must be a symmetric matrix"),
        (lambda: covariance_sde_relu().sample(-START, [1.0], paths=2, seed=0), "V0 must be a covariance"),
        (lambda: covariance_sde_relu().sample(START, [1.0, 0.5], paths=2, seed=0), "times must be ascending"),
        (lambda: covariance_sde_relu().sample(START, [1.0], paths=0, seed=0), "take 1 or more of each"),
        (lambda: log_variance_law(1.0, c_minus=-1.0), "matter at finite width only"),
        (lambda: log_variance_law(1.0, width=0), "width must be 1 or more"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_names_of_the_shape_are_told():
    assert isinstance(shape("tanh", 10), Shaped)
    assert covariance_sde(shape("tanh", 10)).name == "shaped tanh"
