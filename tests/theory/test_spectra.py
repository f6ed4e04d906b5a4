"""Spectra of input-output Jacobians against closed forms, moments and sampled networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from leadline.activations import activation
from leadline.theory.spectra import (
    JacobianSpectrum,
    free_product_moments,
    isometry,
    jacobian_spectrum,
    slope_law,
    spectrum_picture,
)


def weight(n, orthogonal, generator):
    W = torch.randn(n, n, generator=generator, dtype=torch.float64)
    if not orthogonal:
        return W / n**0.5
    Q, R = torch.linalg.qr(W)
    return Q * R.diagonal().sign()


def squared_singular_values(
    name, n, depth, orthogonal, networks, *, K, C_W, C_b=0.0, tied=False, symmetric=False, seed=0
):
    """Of the Jacobians of sampled networks, shape (networks, n)."""
    act, generator = activation(name), torch.Generator().manual_seed(seed)
    found = []
    for _ in range(networks):
        x = torch.randn(n, generator=generator, dtype=torch.float64)
        x = x / x.square().mean().sqrt() * ((K - C_b) / C_W) ** 0.5
        J, W = torch.eye(n, dtype=torch.float64), None
        for layer in range(depth):
            W = W if tied and W is not None else weight(n, orthogonal, generator) * C_W**0.5
            W = (W + W.T) / 2**0.5 if symmetric and layer == 0 else W
            z = W @ x + C_b**0.5 * torch.randn(n, generator=generator, dtype=torch.float64)
            x = act.fn(z)
            J = act.derivative(z)[:, None] * (W @ J)
        found.append(torch.linalg.svdvals(J) ** 2)
    return torch.stack(found)


def shapes(values, orders=(2, 3)):
    """Mean over networks of m_k / m_1^k, whose common scale cancels, and standard errors."""
    m1 = values.mean(1)
    rows = torch.stack([(values**k).mean(1) / m1**k for k in orders])
    return rows.mean(1), rows.std(1) / rows.shape[1] ** 0.5


def extrapolated_shapes(n, networks, *args, **law):
    """2 x(2n) - x(n): without the first correction in 1/n."""
    (one, e1), (two, e2) = (shapes(squared_singular_values(args[0], k, *args[1:], networks, **law)) for k in (n, 2 * n))
    return 2 * two - one, (4 * e2**2 + e1**2).sqrt()


def predicted_shapes(spectrum, orders=(2, 3)):
    m = spectrum.moments(max(orders))
    return torch.stack([m[k - 1] / m[0] ** k for k in orders])


LAWS = {
    "relu": {"K": 1.0, "C_W": 2.0},
    "hardtanh": {"K": 0.5, "C_W": 1.1},
    "tanh": {"K": 0.4, "C_W": 1.3, "C_b": 0.05},
}


@pytest.mark.parametrize("orthogonal", [True, False], ids=["orthogonal", "gaussian"])
@pytest.mark.parametrize("name", ["relu", "hardtanh", "tanh"])
def test_moments_of_networks(name, orthogonal):
    kinds = ("orthogonal", "gaussian")
    right, wrong = (
        predicted_shapes(jacobian_spectrum(name, 4, weights=kind, **LAWS[name]))
        for kind in (kinds if orthogonal else kinds[::-1])
    )
    got, error = extrapolated_shapes(50, 60, name, 4, orthogonal, **LAWS[name])
    assert bool(((got - right).abs() < 4 * error).all()), (got, right, error)
    assert bool(((got - wrong).abs() > 6 * error).all())  # negative control: the other weights


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_mean_is_the_product_of_susceptibilities(name):
    spectrum = jacobian_spectrum(name, 4, weights="gaussian", **LAWS[name])
    values = squared_singular_values(name, 200, 4, False, 40, **LAWS[name]).mean(1)
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean()) - spectrum.mean) < 4 * error
    assert abs(spectrum.mean - float(spectrum.moments(1)[0])) < 1e-12 * spectrum.mean


def test_one_matrix_in_every_layer_changes_nothing_unless_it_is_symmetric():
    law = LAWS["tanh"]
    free = predicted_shapes(jacobian_spectrum("tanh", 4, weights="orthogonal", **law))
    tied, error = extrapolated_shapes(50, 60, "tanh", 4, True, tied=True, **law)
    assert bool(((tied - free).abs() < 4 * error).all())
    # negative control: a matrix whose powers line up with themselves
    symmetric, error = extrapolated_shapes(50, 60, "tanh", 4, True, tied=True, symmetric=True, **law)
    assert bool(((symmetric - free).abs() > 6 * error).all())


def test_slopes_and_rotations_are_free_in_one_network():
    act, centred, tied = activation("tanh"), [], []
    generator = torch.Generator().manual_seed(0)
    for n in (100, 400):
        rows, control = [], []
        for _ in range(20):
            W1, W2 = (weight(n, True, generator) for _ in range(2))
            x = torch.randn(n, generator=generator, dtype=torch.float64)
            z1 = W1 @ x
            z2 = W2 @ act.fn(z1)
            d1, d2 = (act.derivative(z) ** 2 for z in (z1, z2))
            d1, d2 = d1 - d1.mean(), d2 - d2.mean()
            # (1/n) tr[(D2^2 - m2) W2 (D1^2 - m1) W2^T], and the same without the rotation between them
            rows.append(float((d2[:, None] * W2 * W2 * d1[None, :]).sum() / n))
            control.append(float((d1 * d1).mean()))
        centred.append(np.sqrt(np.mean(np.square(rows))))
        tied.append(np.mean(control))
    assert centred[0] < 5 / 100
    assert 2.0 < centred[0] / centred[1] < 8.0  # falls like 1/n
    assert tied[1] > 0.05  # negative control: what does not rotate stays of order one


def integral(spectrum: JacobianSpectrum, orders, points=150):
    """Integral of x^k times the density, in squared steps of ln x from the edge, atoms added."""
    u = (torch.arange(points, dtype=torch.float64) + 0.5) * 6 / points
    x = spectrum.largest * torch.exp(-u * u)
    share = spectrum.density(x) * x * 2 * u * (6 / points)
    value, mass = spectrum.isometric or (0.0, 0.0)
    return torch.stack([(share * x**k).sum() + mass * value**k for k in orders])


@pytest.mark.parametrize(
    ("name", "depth", "weights", "law"),
    [
        ("relu", 6, "orthogonal", LAWS["relu"]),
        ("relu", 3, "gaussian", LAWS["relu"]),
        ("hardtanh", 3, "orthogonal", {"K": 0.15, "C_W": 1.1}),
        ("tanh", 3, "orthogonal", LAWS["tanh"]),
        ("tanh", 2, "gaussian", LAWS["tanh"]),
    ],
)
def test_density_has_the_moments_of_the_series(name, depth, weights, law):
    spectrum = jacobian_spectrum(name, depth, weights=weights, **law)
    got = integral(spectrum, (1, 2, 3, 4))
    assert torch.allclose(got, spectrum.moments(4), rtol=1e-3 if spectrum.isometric else 1e-6)


def test_one_linear_gaussian_layer_is_marchenko_pastur():
    spectrum = jacobian_spectrum("identity", 1, K=1.0, C_W=1.5)
    x = torch.tensor([0.1, 1.0, 3.0, 5.9], dtype=torch.float64)
    exact = (x * (6 - x)).sqrt() / (2 * math.pi * 1.5 * x)
    assert torch.allclose(spectrum.density(x), exact, rtol=1e-7)
    assert spectrum.largest == pytest.approx(6.0, rel=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 7])
def test_linear_gaussian_layers_have_fuss_catalan_moments_and_edge(depth):
    spectrum = jacobian_spectrum("identity", depth, K=1.0, C_W=1.0)
    catalan = [math.comb((depth + 1) * k, k) / (depth * k + 1) for k in range(1, 6)]
    assert torch.allclose(spectrum.moments(5), torch.tensor(catalan, dtype=torch.float64), rtol=1e-10)
    assert spectrum.largest == pytest.approx((depth + 1) ** (depth + 1) / depth**depth, rel=1e-9)


def test_relu_moments_of_six_layers():
    for kind, want in (("orthogonal", [1, 7, 64, 663]), ("gaussian", [1, 13, 241, 5225])):
        spectrum = jacobian_spectrum("relu", 6, K=1.0, C_W=2.0, weights=kind)
        assert torch.allclose(spectrum.moments(4), torch.tensor(want, dtype=torch.float64), rtol=1e-10)
        assert spectrum.relative_variance == pytest.approx(want[1] - 1)
        assert spectrum.zero == 0.5


def test_orthogonal_hard_tanh_keeps_directions_exactly():
    law = {"K": 0.15, "C_W": 1.1}
    spectrum = jacobian_spectrum("hardtanh", 3, weights="orthogonal", **law)
    value, share = spectrum.isometric
    values = squared_singular_values("hardtanh", 200, 3, True, 12, **law)
    kept = ((values / value - 1).abs() < 1e-9).double().mean(1)
    error = float(kept.std()) / len(kept) ** 0.5
    assert abs(float(kept.mean()) - share) < 4 * error + 1 / 200
    assert share > 0.9
    assert jacobian_spectrum("hardtanh", 3, **law).isometric is None  # Gaussian weights keep none
    assert abs(float((values < 1e-20).double().mean()) - spectrum.zero) < 0.005


@pytest.mark.parametrize(
    ("name", "orthogonal", "law"),
    [("tanh", True, LAWS["tanh"]), pytest.param("tanh", False, LAWS["tanh"], marks=pytest.mark.slow)],
    ids=["haar", "gauss"],
)
def test_networks_are_distributed_by_the_density(name, orthogonal, law):
    kinds = ("orthogonal", "gaussian") if orthogonal else ("gaussian", "orthogonal")
    spectrum, wrong = (jacobian_spectrum(name, 3, weights=kind, **law) for kind in kinds)
    values = squared_singular_values(name, 200, 3, orthogonal, 10, **law).reshape(-1).sort().values
    empirical = (torch.arange(len(values), dtype=torch.float64) + 0.5) / len(values)

    def distance(s):
        u = (torch.arange(120, dtype=torch.float64) + 0.5) * 3 / 120
        x = s.largest * torch.exp(-u * u)
        above = (s.density(x) * x * 2 * u * (3 / 120)).cumsum(0)
        ends = s.largest * torch.exp(-((u + 1.5 / 120) ** 2))
        at = torch.searchsorted(values, ends.flip(0)).clamp(0, len(values) - 1)
        return float((1 - above.flip(0) - empirical[at]).abs().max())

    assert distance(spectrum) < 0.02
    assert distance(wrong) > 0.08


def test_series_revert_and_multiply():
    # a projection of trace p twice: x^2 coefficient of the free product of Bernoulli laws
    p = np.full(4, 0.3)
    m = free_product_moments([(p, 2)], 4, 0)
    assert m[0] == pytest.approx(0.09)
    assert m[1] == pytest.approx(2 * 0.3**3 - 0.3**4)


def test_slope_law_has_the_moments_of_the_activation():
    for name, K in (("tanh", 0.7), ("gelu", 3.0), ("relu6", 4.0), ("elu", 1.0)):
        law, act = slope_law(activation(name), K), activation(name)
        assert law.moment(1) == pytest.approx(float(act.derivative_moment(K)), rel=1e-9)
        few = law.compressed(24)
        assert few.values.numel() <= 24
        for k in (1, 2, 5, 11):
            assert few.moment(k) == pytest.approx(law.moment(k), rel=1e-10)


def test_isometry_needs_orthogonal_weights_and_a_linear_regime():
    found = isometry("tanh", 30, relative_variance=0.25)
    assert found.attainable
    assert found.relative_variance == pytest.approx(0.25, rel=1e-6)
    spectrum = jacobian_spectrum("tanh", 30, K=found.K, C_W=found.C_W, C_b=found.C_b, weights="orthogonal")
    assert spectrum.mean == pytest.approx(1.0, abs=1e-6)  # on the critical line, with its kernel at rest
    assert spectrum.relative_variance == pytest.approx(0.25, rel=1e-4)
    assert not isometry("relu", 30).attainable
    assert "differ too much" in isometry("relu", 30).reason
    assert "use orthogonal weights" in isometry("tanh", 30, weights="gaussian").reason
    assert "would be negative" in isometry("softplus", 5).reason or not isometry("softplus", 5).attainable
    assert isometry("identity", 30).attainable
    deeper = isometry("tanh", 300, relative_variance=0.25)
    # slopes 1 - 2 z^2 for a small kernel: the variance is 8 L K^2
    assert abs(deeper.K / math.sqrt(0.25 / (8 * 300)) - 1) < 0.1


def test_isometry_is_seen_in_networks():
    found = isometry("tanh", 20, relative_variance=0.2)
    law = {"K": found.K, "C_W": found.C_W, "C_b": found.C_b}
    got, error = extrapolated_shapes(40, 40, "tanh", 20, True, **law)
    want = predicted_shapes(jacobian_spectrum("tanh", 20, weights="orthogonal", **law))
    assert bool(((got - want).abs() < 4 * error).all())
    relu = shapes(squared_singular_values("relu", 80, 20, True, 20, K=1.0, C_W=2.0))[0]
    assert float(relu[0]) > 10 * float(got[0])  # negative control


def test_picture():
    spectrum = jacobian_spectrum("relu", 3, K=1.0, C_W=2.0, weights="orthogonal")
    figure = spectrum_picture(spectrum, torch.rand(50), title="t")
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert texts == ["networks", "free probability", "share of single values: 0.5 at 0"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jacobian_spectrum("tanh", 3, K=1.0, C_W=1.0, weights="haar"), "weights must be one of"),
        (lambda: jacobian_spectrum("tanh", 0, K=1.0, C_W=1.0), "take a depth of 1 or more"),
        (lambda: jacobian_spectrum("tanh", 2, K=0.0, C_W=1.0), "K must be a positive number"),
        (lambda: jacobian_spectrum(torch.sign, 2, K=1.0, C_W=1.0), "jumps"),
        (lambda: jacobian_spectrum("tanh", 2, K=1.0, C_W=1.0).moments(13), "order must lie"),
        (lambda: jacobian_spectrum("tanh", 2, K=1.0, C_W=1.0).density(torch.zeros(1)), "x must be positive"),
        (
            lambda: jacobian_spectrum("tanh", 1, K=1.0, C_W=1.0, weights="orthogonal").density(torch.ones(1)),
            "the spectrum has no density",
        ),
        (lambda: isometry("tanh", 3, weights="x"), "weights must be one of"),
        (lambda: isometry("tanh", 0), "take 1 or more"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
