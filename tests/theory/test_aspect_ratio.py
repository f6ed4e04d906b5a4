"""Depth against width: rates, spreads and information against exact laws and networks, with controls that must fail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from leadline.activations import activation
from leadline.measure.ensemble import Chain, ensemble
from leadline.theory.aspect_ratio import (
    aspect_ratio,
    critical_branch_exponent,
    depth_and_width,
    divergence_series,
    information_picture,
    log_normal_spread,
    mutual_information,
    mutual_information_series,
    optimal_aspect_ratio,
    product_spread,
    residual_flow,
    residual_growth,
    scale_mixture_divergence,
    spread_rate,
)

# ---- nu ----

# theory's table: scale-invariant, vanishing kernel (smooth, cusp), half-stable
TABLE = [
    ("identity", None, 2.0), ("relu", None, 5.0), ("abs", None, 2.0), ("leaky_relu", None, 4.99880024),
    ("tanh", None, 2 / 3), ("sin", None, 2 / 3), ("elu", None, 2 / 3), ("softsign", None, 2 / 3),
    ("selu", None, 0.8910), ("gelu", 3.56155281, 4.904226), ("silu", 14.32017362, 4.923187), ("mish", 1.67016913, 4.770687),
]  # fmt: skip


@pytest.mark.parametrize(("name", "K", "nu"), TABLE, ids=[row[0] for row in TABLE])
def test_rates_of_every_class(name, K, nu):
    assert abs(spread_rate(name, K=K) - nu) < 5e-5


@pytest.mark.parametrize(
    ("gamma", "without", "with_kappa"),
    [(0.3, 4.468, 6.276), (0.6, 2.970, 6.099), (0.9, 0.796, 2.451), (0.99, 0.080, 0.280)],
)
def test_rate_of_a_residual_relu(gamma, without, with_kappa):
    closed = (1 - gamma**2) * ((1 - gamma**2) * 5 + 4 * gamma**2)
    kappa = 16 / math.pi * gamma * (1 + gamma) * (1 - gamma**2)
    assert abs(spread_rate("relu", residual=gamma, three_point=False) - closed) < 1e-9
    assert abs(spread_rate("relu", residual=gamma) - closed - kappa) < 1e-7
    assert abs(closed - without) < 6e-4
    assert abs(closed + kappa - with_kappa) < 6e-4


@pytest.mark.parametrize(("name", "gamma"), [("tanh", 0.0), ("tanh", 0.7), ("selu", 0.0), ("relu", 0.6), ("abs", 0.5)])
def test_flow_grows_at_the_rate(name, gamma):
    numbers = {"tanh": 1.0, "selu": 0.47677102, "relu": 2.0, "abs": 1.0}
    depths = (150, 300)
    flow = residual_flow(name, depths[1], K=0.3, C_W=numbers[name] * (1 - gamma**2), residual=gamma)
    spread = flow.spread.tolist()
    slope = (spread[depths[1] - 1] - spread[depths[0] - 1]) / (depths[1] - depths[0])
    nu = spread_rate(name, residual=gamma)
    assert abs(slope / nu - 1) < 0.03
    # negative controls: the injection without the pull of the vanishing kernel; the skip without kappa
    if activation(name).slopes is None:
        assert abs(slope / (3 * nu) - 1) > 0.5
    if name == "relu":
        assert abs(slope / spread_rate(name, residual=gamma, three_point=False) - 1) > 0.5


def streams(name, n, depth, gamma, C_W, C_b, K, networks, seed=0):
    """Mean and variance of each unit of the last layer given the layers before, over residual networks.

    Exactly in law: given z, the next layer minus gamma z is Gaussian with the kernel of sigma(z).
    """
    act = activation(name)
    generator = torch.Generator().manual_seed(seed)
    means, kernels = [], []
    for start in range(0, networks, 4000):
        shape = (min(4000, networks - start), n)
        z = torch.randn(shape, generator=generator, dtype=torch.float64) * K**0.5
        for layer in range(depth - 1):
            G = C_b + C_W * act.fn(z).square().mean(1, keepdim=True)
            if layer < depth - 2:
                z = gamma * z + G.sqrt() * torch.randn(shape, generator=generator, dtype=torch.float64)
        means.append(gamma * z)
        kernels.append(G)
    return torch.cat(means), torch.cat(kernels)


def vertex(mean, kernel):
    """n Cov(z_i^2, z_j^2) over pairs i != j, the last layer's noise averaged out, and its standard error."""
    n = mean.shape[1]
    square = mean.square() + kernel
    pairs = (square.sum(1) ** 2 - square.square().sum(1)) / (n - 1)
    size = square.mean(1)
    influence = pairs - 2 * n * size.mean() * size
    return float(pairs.mean() - n * size.mean() ** 2), float(influence.std()) / len(size) ** 0.5


def three_point(mean, kernel):
    """n E z_i z_j^2 over pairs i != j, the last layer's noise averaged out, and its standard error."""
    n = mean.shape[1]
    square = mean.square() + kernel
    draws = (mean.sum(1) * square.sum(1) - (mean * square).sum(1)) / (n - 1)
    return float(draws.mean()), float(draws.std()) / len(draws) ** 0.5


def extrapolated(estimate, name, n, networks, **law):
    """2 x(2n) - x(n): the 1/n coefficient without its first correction."""
    one, two = (estimate(*streams(name, k, networks=networks, **law)) for k in (n, 2 * n))
    return 2 * two[0] - one[0], math.hypot(2 * two[1], one[1])


@pytest.mark.parametrize(
    ("name", "gamma", "C_W", "C_b", "kappa_matters"),
    [
        ("relu", 0.5, 1.5, 0.0, True),
        ("tanh", 0.7, 0.51, 0.0, False),
        pytest.param("gelu", 0.7, 1.0114, 0.1, True, marks=pytest.mark.slow),
    ],
)
def test_residual_vertices_of_networks(name, gamma, C_W, C_b, kappa_matters):
    law = {"depth": 4, "gamma": gamma, "C_W": C_W, "C_b": C_b, "K": 1.0}
    flow = residual_flow(name, 4, K=1.0, C_W=C_W, C_b=C_b, residual=gamma)
    got, error = extrapolated(vertex, name, 48, 40_000, **law)
    assert abs(got - float(flow.V[-1])) < 4 * error
    assert error < 0.03 * float(flow.V[-1])
    if kappa_matters:
        bare = residual_flow(name, 4, K=1.0, C_W=C_W, C_b=C_b, residual=gamma, three_point=False)
        assert abs(got - float(bare.V[-1])) > 5 * error  # negative control: kappa left out
        kappa, kappa_error = extrapolated(three_point, name, 48, 40_000, **law)
        assert abs(kappa - float(flow.kappa[-1])) < 4 * kappa_error
        assert abs(kappa) > 5 * kappa_error
    else:
        without_skip = residual_flow(name, 4, K=1.0, C_W=C_W, C_b=C_b, residual=0.0)
        assert abs(got - float(without_skip.V[-1])) > 5 * error


@pytest.mark.slow
def test_residual_relu_at_depth():
    law = {"depth": 10, "gamma": 0.9, "C_W": 0.38, "C_b": 0.0, "K": 1.0}
    flow = residual_flow("relu", 10, K=1.0, C_W=0.38, residual=0.9)
    got, error = extrapolated(vertex, "relu", 96, 60_000, **law)
    assert abs(got - float(flow.V[-1])) < 4 * error
    bare = residual_flow("relu", 10, K=1.0, C_W=0.38, residual=0.9, three_point=False)
    assert abs(got - float(bare.V[-1])) > 8 * error


# ---- spread ----


def test_log_scale_of_relu_networks_is_that_of_the_limit():
    results = []
    for n in (64, 128):
        found = []
        chain = Chain.of([1] + [n] * (n // 4) + [1], "relu", C_W=2.0)
        x = torch.ones(1, 1, dtype=torch.float64)
        ensemble(chain, x, 4000, n, callback=lambda i, G, _, c=chain, f=found: f.append(G) if i == c.depth else None)
        log = torch.cat(found)[:, 0, 0].log()
        results.append((float(log.mean() - math.log(2)), float(log.var()), len(log)))
    nu, r = spread_rate("relu"), aspect_ratio([128] * 32)
    assert r == 0.25
    # log moments: sample moments of the scale itself are biased by its heavy tail
    mean, variance = (2 * results[1][i] - results[0][i] for i in (0, 1))
    scale = math.hypot(2, 1)
    mean_error, variance_error = scale * math.sqrt(nu * r / 4000), scale * nu * r * math.sqrt(2 / 4000)
    assert abs(variance - nu * r) < 4 * variance_error
    assert abs(mean + nu * r / 2) < 4 * mean_error
    assert abs(mean - 0.0) > 8 * mean_error  # negative control: a scale whose typical value is its mean
    assert abs(variance - 2 * r) > 8 * variance_error  # negative control: the rate of a linear network


def test_product_and_limit_agree_for_wide_networks():
    nu = 5.0
    assert abs(product_spread(nu, [4000] * 1000) / log_normal_spread(nu, 0.25) - 1) < 0.002
    assert product_spread(nu, [64] * 8) < log_normal_spread(nu, aspect_ratio([64] * 8))
    assert aspect_ratio([10, 20]) == pytest.approx(0.15)


# ---- information ----


@pytest.mark.parametrize(("m", "exact"), [(1, 1.8385e-5), (2, 4.888e-5), (4, 1.4570e-4)])
def test_divergence_of_a_log_normal_scale(m, exact):
    tau = 0.1
    x = torch.linspace(-10, 10, 401, dtype=torch.float64)
    w = torch.exp(-0.5 * x * x)
    got = float(scale_mixture_divergence(m, tau * x - 0.5 * tau**2, w / w.sum()))
    assert abs(got / exact - 1) < 2e-4
    series = float(divergence_series(math.expm1(tau**2), m))
    assert abs(got / series - 1) < 5e-3
    assert abs(got / float(divergence_series(math.expm1(tau**2), m, order=2)) - 1) > 0.02  # the third order is seen


@pytest.mark.parametrize(("tau2", "value"), [(0.1, 0.00096), (0.154, 0.00203), (0.4, 0.0094), (1.6, 0.060)])
def test_information_of_two_neurons(tau2, value):
    assert abs(float(mutual_information(tau2, 1, 1)) / value - 1) < 8e-3  # theory's values have two digits


def test_information_is_that_of_the_joint_density_on_a_grid():
    tau2 = 0.7
    x, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    G = np.exp(math.sqrt(tau2) * x - tau2 / 2)
    # sinh-spaced points: the density of one neuron is narrow at 0 and has a long tail
    t = np.linspace(-7.2, 7.2, 721)
    z, dz = np.sinh(t) * 0.05, np.cosh(t) * 0.05 * (t[1] - t[0])
    one = (w * np.exp(-0.5 * z[:, None] ** 2 / G) / np.sqrt(2 * np.pi * G)).sum(1)
    radius = z[:, None] ** 2 + z[None, :] ** 2
    joint = sum(wi * np.exp(-0.5 * radius / g) / (2 * np.pi * g) for wi, g in zip(w, G))
    ratio = np.where(joint > 1e-300, joint / np.maximum(one[:, None] * one[None, :], 1e-300), 1.0)
    information = (joint * np.log(ratio) * dz[:, None] * dz[None, :]).sum()
    assert abs(float(mutual_information(tau2, 1, 1)) / information - 1) < 1e-5


@pytest.mark.parametrize(("m1", "m2"), [(1, 1), (1, 3), (5, 2)])
def test_series_is_the_expansion_of_the_exact_information(m1, m2):
    thirds = []
    for v in (1e-3, 5e-4):
        exact = float(mutual_information(math.log1p(v), m1, m2))
        thirds.append((exact - m1 * m2 * v**2 / 8) / (m1 * m2 * v**3))
    third = 2 * thirds[1] - thirds[0]
    want = -(20 + 3 * (m1 + m2)) / 48
    assert abs(third / want - 1) < 1e-3
    assert abs(third / (-(14 + 3 * (m1 + m2)) / 48) - 1) > 0.1  # negative control: the other scheme's coefficient
    v = torch.tensor([1e-3, 0.02], dtype=torch.float64)
    whole = m1 * m2 * (v**2 / 8 + want * v**3)
    assert torch.allclose(mutual_information_series(v, m1, m2), whole, rtol=1e-12)


def test_outputs_of_relu_networks_share_the_predicted_information():
    values = []
    for n in (48, 96):
        found = []
        chain = Chain.of([1] + [n] * (n // 6) + [1], "relu", C_W=2.0)
        x = torch.ones(1, 1, dtype=torch.float64)
        ensemble(chain, x, 6000, n, callback=lambda i, G, _, c=chain, f=found: f.append(G) if i == c.depth else None)
        blocks = torch.cat(found)[:, 0, 0].log().reshape(6, -1)
        information = [
            sum(s * float(scale_mixture_divergence(m, block)) for m, s in ((3, 1), (1, -1), (2, -1)))
            for block in blocks
        ]
        values.append((np.mean(information), np.std(information, ddof=1) / 6**0.5))
    got, error = 2 * values[1][0] - values[0][0], math.hypot(2 * values[1][1], values[0][1])
    nu_r = spread_rate("relu") / 6
    assert abs(got - float(mutual_information(nu_r, 1, 2))) < 4 * error
    # negative controls: the series at either order
    for order in (2, 3):
        assert abs(got - float(mutual_information_series(nu_r, 1, 2, order=order))) > 8 * error


def test_guide_is_the_extremum_of_the_series_and_of_nothing_else():
    nu, outputs = 5.0, 10
    star = optimal_aspect_ratio(nu, outputs)
    assert star == pytest.approx(0.0160)
    near = torch.tensor([0.99, 1.0, 1.01], dtype=torch.float64) * star
    series = mutual_information_series(nu * near, 5, 5)
    assert series[1] > series[0]
    assert series[1] > series[2]
    exact = [float(mutual_information(nu * star * f, 5, 5)) for f in (0.5, 1.0, 2.0, 8.0)]
    assert exact == sorted(exact)
    assert optimal_aspect_ratio(spread_rate("tanh", residual=0.9), 10) > optimal_aspect_ratio(spread_rate("tanh"), 10)


def test_depth_and_width_in_one_object():
    found = depth_and_width("relu", [512] * 10, 10)
    assert found.ratio == pytest.approx(10 / 512)
    assert found.information == pytest.approx(float(mutual_information(5 * 10 / 512, 5, 5)))
    assert "an order of magnitude" in str(found)
    alone = depth_and_width("relu", [512], 1, nu=4.0)
    assert alone.information is None
    assert alone.nu == 4.0


def test_information_picture_marks_the_guide():
    figure = information_picture(5.0, 4)
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert any(label.startswith("r* =") for label in labels)


# ---- residual branches in depth ----


def branches(width, scales, networks, act, survival=1.0, seed=0):
    """Squared norms of h + alpha W sigma(h), relative to the input's, one a network."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(networks, width, generator=generator, dtype=torch.float64)
    h = h / h.square().mean(1, keepdim=True).sqrt()
    for alpha in scales:
        size = alpha * act(h).square().mean(1, keepdim=True).sqrt()
        if survival < 1:
            size = size * (torch.rand(networks, 1, generator=generator, dtype=torch.float64) < survival)
        h = h + size * torch.randn(h.shape, generator=generator, dtype=torch.float64)
    return h.square().mean(1)


@pytest.mark.parametrize("survival", [1.0, 0.6])
def test_stream_grows_as_predicted(survival):
    depth = 60
    scales = [depth**-0.5] * depth
    norms = branches(60, scales, 4000, torch.relu, survival)
    growth = residual_growth(scales, C_W=1.0, slope_moment=0.5, survival=[survival] * depth)
    error = float(norms.std()) / len(norms) ** 0.5
    assert abs(float(norms.mean()) - float(growth[-1])) < 4 * error
    wrong = residual_growth(scales, C_W=1.0, slope_moment=0.5, survival=[survival**2 if survival < 1 else 0.5] * depth)
    assert abs(float(norms.mean()) - float(wrong[-1])) > 8 * error


@pytest.mark.parametrize(("beta", "limit"), [(1.0, 1.0), (0.5, math.exp(0.5)), (0.25, math.inf)])
def test_depth_limit_of_a_branch_scale(beta, limit):
    last = [float(residual_growth([L**-beta] * L, C_W=1.0, slope_moment=0.5)[-1]) for L in (100, 10_000)]
    assert abs(last[1] - limit) < 1e-3 if math.isfinite(limit) else last[1] > 1e6 * last[0]


def fractional_noise(L, hurst, generator, entries):
    """Increments of fractional Brownian motion along the depth, by circulant embedding; shape (L, entries)."""
    k = np.arange(L + 1)
    cov = 0.5 * (np.abs(k + 1) ** (2 * hurst) - 2 * k ** (2 * hurst) + np.abs(k - 1) ** (2 * hurst))
    row = np.concatenate([cov, cov[-2:0:-1]])
    spectrum = np.fft.fft(row).real.clip(min=0)
    noise = generator.standard_normal((len(row), entries)) + 1j * generator.standard_normal((len(row), entries))
    return np.fft.fft(np.sqrt(spectrum / len(row))[:, None] * noise, axis=0).real[:L]


@pytest.mark.slow
@pytest.mark.parametrize("hurst", [0.5, 0.75])
def test_correlated_branches_are_critical_at_the_hurst_index(hurst):
    d, networks, depths = 16, 8, (64, 256, 1024)
    slopes = {}
    for shift in (-0.25, 0.0, 0.25):
        beta = critical_branch_exponent(hurst) + shift
        moved = []
        for L in depths:
            generator = np.random.default_rng(L)
            logs = []
            for _ in range(networks):
                W = fractional_noise(L, hurst, generator, d * d).reshape(L, d, d) / math.sqrt(d)
                h0 = generator.standard_normal(d)
                h = h0.copy()
                for layer in W:
                    h = h + L**-beta * layer @ np.maximum(h, 0)
                logs.append(math.log(np.linalg.norm(h - h0) / np.linalg.norm(h0)))
            moved.append(np.median(logs))
        slopes[shift] = np.polyfit(np.log(depths), moved, 1)[0]
    assert abs(slopes[0.0]) < 0.2
    assert slopes[0.25] < -0.1
    assert slopes[-0.25] > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spread_rate("gelu"), "no stable critical point at a vanishing kernel"),
        (lambda: spread_rate("sigmoid"), "no stable critical point"),
        (lambda: spread_rate("gelu", K=1.0), "is not critical at K=1"),
        (lambda: spread_rate("gelu", K=-1.0), "K must be a positive number"),
        (lambda: spread_rate("relu", residual=1.0), "less than 1"),
        (lambda: aspect_ratio([0]), "hidden widths must be 1 or more"),
        (lambda: optimal_aspect_ratio(0.0, 2), "nu must be a positive number"),
        (lambda: optimal_aspect_ratio(1.0, 0), "1 or more"),
        (lambda: mutual_information(-1.0, 1, 1), "log_variance must be"),
        (lambda: mutual_information(1.0, 0, 1), "a group of neurons"),
        (lambda: divergence_series(0.1, 1, order=4), "order must be 2 or 3"),
        (lambda: scale_mixture_divergence(1, torch.zeros(2, 2)), "vectors of one length"),
        (lambda: residual_flow("relu", 0, K=1.0, C_W=1.0), "depth must be 1 or more"),
        (lambda: residual_flow("relu", 2, K=0.0, C_W=1.0), "K must be positive"),
        (lambda: residual_growth([1.0], C_W=1.0, slope_moment=0.5, survival=[2.0]), "survival must hold"),
        (lambda: critical_branch_exponent(0.3), "hurst must lie"),
        (lambda: information_picture(1.0, 1), "outputs must be 2 or more"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
