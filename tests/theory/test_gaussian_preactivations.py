"""Pairs that keep pre-activations Gaussian, and the distance from it of those that do not."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy.special import erfc
from scipy.stats import ks_2samp, kstest

from leadline.activations import activation
from leadline.measure.ensemble import Chain, ensemble
from leadline.theory.aspect_ratio import product_spread
from leadline.theory.gaussian_preactivations import (
    amplitude_cdf,
    amplitude_moment,
    amplitude_survival,
    gaussian_pair,
    kurtosis_distance,
    log_normal_distance,
    noise_distance,
    normal_distance,
)

THETAS = (2.0, 2.05, 3.0, 5.0, 10.0, math.inf)
pair = functools.cache(gaussian_pair)


@pytest.mark.parametrize("theta", THETAS)
def test_one_product_is_normal(theta):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60_000, generator=generator, dtype=torch.float64)
    W = pair(theta).sample_weights(len(X), 1, generator)[:, 0]
    assert kstest(W * pair(theta).activation(X), "norm").pvalue > 1e-3
    # negative controls: another activation of the same second moment; the weights of another theta
    same = X * float((pair(theta).activation(X) ** 2).mean().sqrt())
    other = pair(2.0 if theta > 4 else 10.0).sample_weights(len(X), 1, generator)[:, 0]
    if theta < 10:
        assert kstest(W * same, "norm").pvalue < 1e-6
    assert kstest(other * pair(theta).activation(X), "norm").pvalue < 1e-6


@pytest.mark.parametrize("theta", [2.05, 3.0, 10.0])
def test_activation_has_the_law_of_an_exact_sampler(theta):
    rng = np.random.default_rng(0)
    nu, n = 2 / theta, 60_000
    V, E, U = rng.random(n), rng.exponential(size=n), rng.random(n)
    S = np.sin(nu * np.pi * V) / np.sin(np.pi * V) ** (1 / nu) * (np.sin((1 - nu) * np.pi * V) / E) ** ((1 - nu) / nu)
    Y = math.sqrt(2) * np.abs(np.cos(2 * np.pi * U)) * S ** (-nu / 2)
    ours = pair(theta).activation(torch.as_tensor(rng.standard_normal(n))).abs().numpy()
    assert ks_2samp(Y, ours).pvalue > 1e-3
    assert ks_2samp(Y, ours * 1.03).pvalue < 1e-4  # negative control


@pytest.mark.parametrize(("theta", "tol"), [(2.05, 1e-8), (3.0, 1e-10), (5.0, 1e-10), (10.0, 1e-10)])
def test_moments_and_slope_at_zero(theta, tol):
    act = pair(theta).activation
    assert abs(float(act.second_moment(1.0)) / amplitude_moment(theta, 2) - 1) < tol
    assert abs(float(act.fourth_moment(1.0)) / amplitude_moment(theta, 4) - 1) < 3 * tol
    assert abs(pair(theta).C_W * float(act.second_moment(1.0)) - 1) < tol
    zero = torch.zeros(1, dtype=torch.float64)
    assert abs(float(act.derivative(zero)) - math.gamma(1 - 1 / theta)) < 1e-8
    x = torch.tensor([-12.0, -1.3, 0.4, 2.2, 9.5], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(act(x).sum(), x)
    assert torch.allclose(grad, act.derivative(x.detach()), rtol=1e-10)
    assert torch.allclose(act(-x), -act(x))


@pytest.mark.parametrize(("theta", "tol"), [(2.05, 2e-6), (3.0, 1e-11), (10.0, 1e-11)])
def test_series_and_integral_of_the_amplitude_meet(theta, tol):
    y = np.array([1.25, 1.37])
    assert np.abs(amplitude_cdf(theta, y) + amplitude_survival(theta, y) - 1).max() < tol


def test_tail_keeps_its_digits():
    for x in (2.0, 5.0, 8.0):
        y = pair(5.0).activation(torch.tensor([x], dtype=torch.float64)).numpy()
        assert abs(amplitude_survival(5.0, y)[0] / erfc(x / math.sqrt(2)) - 1) < 1e-9


def test_two_is_the_limit_and_infinity_the_identity():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    far = (pair(2.05).activation(x) - pair(2.0).activation(x)).abs().max()
    assert float(far) < 0.06
    assert torch.equal(pair(math.inf).activation(x), x)
    assert pair(math.inf).C_W == 1.0


def test_every_pair_but_the_identity_is_chaotic():
    chi = [pair(theta).chi_perp for theta in THETAS]
    assert chi == sorted(chi, reverse=True)
    assert chi[-1] == pytest.approx(1.0)
    assert min(chi[:-1]) > 1.0004
    rho = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    flow = pair(3.0).correlation(rho)
    assert abs(float(flow[0])) < 1e-9
    assert float(flow[1]) < 0.5
    assert abs(float(flow[2]) - 1) < 1e-9


def test_correlation_of_networks():
    generator = torch.Generator().manual_seed(1)
    one, n = pair(3.0), 200
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x[:, 1] = 0.6 * x[:, 0] + 0.8 * x[:, 1]
    products = []
    for _ in range(300):
        z = one.sample_weights(n, n, generator) @ one.activation(x)
        products.append(float((z[:, 0] * z[:, 1]).mean()))
    products = np.array(products)
    # the inputs themselves are one draw: compare with their own mean product
    own = one.C_W * float((one.activation(x)[:, 0] * one.activation(x)[:, 1]).mean())
    assert abs(products.mean() - own) < 4 * products.std() / len(products) ** 0.5
    assert abs(own - float(one.correlation(torch.tensor(0.6, dtype=torch.float64)))) < 4 / n**0.5


def narrow(act, draw, width, depth, networks, seed=0):
    """One unit of the last layer of many narrow networks, all weights drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(networks, width, generator=generator, dtype=torch.float64)
    for _ in range(depth):
        W = draw(networks * width, width, generator).reshape(networks, width, width)
        z = (W @ act(z)[..., None])[..., 0]
    return z[:, 0]


def gaussian_weights(C_W):
    return lambda rows, columns, g: (
        torch.randn(rows, columns, generator=g, dtype=torch.float64) * (C_W / columns) ** 0.5
    )


@pytest.mark.parametrize("networks", [10_000])
def test_only_theta_near_two_lasts_in_narrow_networks(networks):
    tanh, relu = activation("tanh"), activation("relu")
    near = normal_distance(narrow(pair(2.05).activation, pair(2.05).sample_weights, 3, 20, networks))
    far = normal_distance(narrow(pair(10.0).activation, pair(10.0).sample_weights, 3, 20, networks))
    of_tanh = normal_distance(narrow(tanh, gaussian_weights(1 / float(tanh.second_moment(1.0))), 3, 20, networks))
    of_relu = normal_distance(narrow(relu, gaussian_weights(2.0), 3, 20, networks))
    assert float(near) < 0.025
    assert float(near) < 0.1 * float(of_relu)
    assert float(near) < 0.5 * float(of_tanh)
    assert float(far) > 0.15  # theta of 10 drifts: exact for one layer is not exact in depth


def test_distance_is_scipys():
    z = torch.randn(3, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = [kstest(row, "norm").statistic for row in z]
    assert torch.allclose(normal_distance(z, 1.0), torch.tensor(want, dtype=torch.float64), atol=1e-12)
    assert noise_distance(10_000) == pytest.approx(0.0136)


def test_distance_follows_from_the_spread():
    n, depth, networks = 96, 12, 3000
    chain = Chain.of([1] + [n] * depth + [400], "relu", C_W=2.0)
    found = []
    x = torch.ones(1, 1, dtype=torch.float64)
    ensemble(chain, x, networks, 0, callback=lambda i, G, z: found.append(z[..., 0]) if i == depth + 1 else None)
    z = torch.cat(found) / 2**0.5
    blocks = torch.stack([normal_distance(b.reshape(-1), 1.0) for b in z.split(networks // 6)])
    whole = float(normal_distance(z.reshape(-1), 1.0))
    error = float(blocks.std()) / 6**0.5
    tau2 = math.log1p(product_spread(5.0, [n] * depth))
    assert abs(whole - float(log_normal_distance(tau2))) < 4 * error
    # negative control: the first order in the spread, far beyond its reach here
    assert abs(whole - float(kurtosis_distance(product_spread(5.0, [n] * depth)))) > 6 * error


def test_first_order_distance_is_the_limit_of_the_exact_one():
    ratios = [float(log_normal_distance(t) / kurtosis_distance(math.expm1(t))) for t in (0.02, 0.01)]
    assert abs(2 * ratios[1] - ratios[0] - 1) < 1e-3
    assert abs(float(kurtosis_distance(1.0)) - 0.0688) < 1e-4
    assert float(log_normal_distance(0.0)) < 1e-15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_pair(1.9), "theta must be 2 or more"),
        (lambda: gaussian_pair(2.0001), "take 2 itself"),
        (lambda: normal_distance(torch.zeros(3, 1)), "samples must have 2 or more"),
        (lambda: noise_distance(0), "count must be 1 or more"),
        (lambda: log_normal_distance(-1.0), "log_variance must be"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
