"""Laws that hold for every activation and every covariance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leadline.activations import REGISTRY, activation

NAMES = sorted({build().name: name for name, build in REGISTRY.names.items()}.values())
CONTINUOUS = [n for n in NAMES if not activation(n).jumps]
HOMOGENEOUS = [n for n in NAMES if activation(n).scale_invariant]
variances = st.floats(0.01, 20.0)
correlations = st.floats(-1.0, 1.0)


def number(v: float) -> torch.Tensor:
    return torch.tensor(v, dtype=torch.float64)


def covariance(seed: int, m: int = 6, size: float = 1.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(m, 4, generator=g, dtype=torch.float64)
    return size * x @ x.T / 4


@given(a=variances, b=variances, rho=correlations, name=st.sampled_from(NAMES))
def test_symmetry_and_cauchy_schwarz(a: float, b: float, rho: float, name: str) -> None:
    act, a, b = activation(name), number(a), number(b)
    c = rho * (a * b).sqrt()
    bound = (act.second_moment(a) * act.second_moment(b)).sqrt()
    value = act.dual(a, c, b)
    assert abs(float(value - act.dual(b, c, a))) <= 2e-10 * float(bound)
    assert abs(float(value)) <= float(bound) * (1 + 2e-10)


@given(a=variances, name=st.sampled_from(NAMES))
def test_equal_points_give_the_second_moment(a: float, name: str) -> None:
    act, a = activation(name), number(a)
    g = act.second_moment(a)
    assert abs(float(act.dual(a, a, a) - g)) <= 2e-10 * float(g)
    if name in CONTINUOUS:
        d = act.derivative_moment(a)
        assert abs(float(act.dual_derivative(a, a, a) - d)) <= 2e-10 * float(d)


@given(a=variances, b=variances, name=st.sampled_from(NAMES))
def test_independent_points_factorise(a: float, b: float, name: str) -> None:
    act, a, b = activation(name), number(a), number(b)
    scale = (act.second_moment(a) * act.second_moment(b)).sqrt()
    assert abs(float(act.dual(a, 0 * a, b) - act.mean(a) * act.mean(b))) <= 2e-10 * float(scale)


@given(a=variances, b=variances, rho=st.floats(-0.95, 0.95), name=st.sampled_from(CONTINUOUS))
def test_the_derivative_in_the_covariance_is_the_dual_of_derivatives(a, b, rho, name) -> None:
    act, a, b = activation(name), number(a), number(b)
    root = (a * b).sqrt()
    c, h = rho * root, 1e-4 * root
    slope = (act.dual(a, c + h, b) - act.dual(a, c - h, b)) / (2 * h)
    scale = (act.derivative_moment(a) * act.derivative_moment(b)).sqrt()
    noise = 2e-10 * (act.second_moment(a) * act.second_moment(b)).sqrt() / h
    assert abs(float(slope - act.dual_derivative(a, c, b))) <= 1e-4 * float(scale) + float(noise)


@given(a=variances, b=variances, rho=correlations, k=st.floats(1e-3, 1e3), name=st.sampled_from(HOMOGENEOUS))
def test_homogeneous_activations_scale(a, b, rho, k, name) -> None:
    act, a, b = activation(name), number(a), number(b)
    c = rho * (a * b).sqrt()
    scale = (act.second_moment(a) * act.second_moment(b)).sqrt()
    assert abs(float(act.dual(k * a, k * c, k * b) / k - act.dual(a, c, b))) <= 1e-12 * float(scale)


@given(seed=st.integers(0, 10**6), size=st.floats(0.05, 10.0), name=st.sampled_from(NAMES))
def test_gram_is_positive_semidefinite_and_permutes(seed: int, size: float, name: str) -> None:
    act, cov = activation(name), covariance(seed, size=size)
    gram = act.gram(cov)
    top = float(gram.diagonal().max())
    assert float(torch.linalg.eigvalsh(gram)[0]) >= -1e-9 * top
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert torch.allclose(act.gram(cov[order][:, order]), gram[order][:, order], rtol=0, atol=1e-9 * top)


@pytest.mark.parametrize("name", NAMES)
def test_gram_equals_dual_entry_by_entry(name: str) -> None:
    act, cov = activation(name), torch.stack([covariance(3), covariance(4)])
    d = cov.diagonal(dim1=-2, dim2=-1)
    pairs = [(act.gram, act.dual), (act.gram_derivative, act.dual_derivative)]
    for gram, dual in pairs[: 1 + (name in CONTINUOUS)]:
        one, two = gram(cov), dual(d[..., :, None], cov, d[..., None, :])
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-10)
        exact = act.derivative_moment(d) if gram == act.gram_derivative else act.second_moment(d)
        assert torch.allclose(one.diagonal(dim1=-2, dim2=-1), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_float32_in_float32_out(name: str) -> None:
    act, cov = activation(name), covariance(5).float()
    assert act.gram(cov).dtype == torch.float32
    assert act.second_moment(cov.diagonal()).dtype == torch.float32
    assert act.flat_fraction(cov.diagonal()).dtype == torch.float32
    out, exact = act.estimate_gram(cov), act.gram(cov.double())
    assert torch.allclose(out.value.double(), exact, rtol=1e-5, atol=1e-5)
    # The error estimate counts the rounding of the result to float32.
    assert torch.all((out.value.double() - exact).abs() <= 1.01 * out.error.double() + 1e-9 * exact.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_covariances_are_finite(name: str) -> None:
    act = activation(name)
    a = torch.tensor([0.0, 0.0, 1.0, 1.0, 1e-12], dtype=torch.float64)
    c = torch.tensor([0.0, 0.0, 1 + 1e-13, -1 - 1e-13, 1e-12], dtype=torch.float64)
    b = torch.tensor([0.0, 1.0, 1.0, 1.0, 1e-12], dtype=torch.float64)
    value = act.dual(a, c, b)
    assert torch.isfinite(value).all()
    assert abs(float(value[2] - act.second_moment(1.0))) <= 1e-10 * float(value[2])
    if name in CONTINUOUS:
        assert torch.isfinite(act.dual_derivative(a, c, b)).all()
