"""The Mehler series: coefficients, the rigorous tail bound, and the routes that take over near |rho| = 1."""

from __future__ import annotations

import math

import pytest
import torch

from leadline.gaussian import (
    expectation,
    expectation2,
    hermite_coefficients,
    hermite_polynomials,
    hermite_series,
    mean_product,
    mean_product_gram,
    mehler_tail_bound,
)


def hard(z: torch.Tensor) -> torch.Tensor:
    return z.clamp(-1.0, 1.0)


def erf_product(a: torch.Tensor, c: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return 2 / math.pi * torch.atan2(2 * c, (1 + 2 * a + 2 * b + 4 * (a * b - c * c)).sqrt())


def covariance(m: int, size: float, closeness: float, seed: int = 0) -> torch.Tensor:
    """Covariance with unequal variances and correlations near 1 - closeness."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(m, 30, generator=g, dtype=torch.float64) * math.sqrt(closeness)
    x = x + torch.randn(30, generator=g, dtype=torch.float64)
    x = x * torch.linspace(0.7, 1.4, m, dtype=torch.float64)[:, None]
    return size * x @ x.T / 30


def test_polynomials_are_orthonormal() -> None:
    one = torch.tensor(1.0, dtype=torch.float64)
    for i, j in ((9, 11), (11, 11), (0, 4), (0, 0)):

        def product(z: torch.Tensor, i: int = i, j: int = j) -> torch.Tensor:
            h = hermite_polynomials(z.reshape(-1), 12)
            return (h[i] * h[j]).reshape(z.shape)

        assert abs(float(expectation(product, one).value) - (i == j)) < 1e-12


@pytest.mark.parametrize(("f", "kinks"), [(torch.tanh, ()), (hard, (-1.0, 1.0))], ids=["tanh", "hardtanh"])
def test_coefficients_against_direct_integrals(f, kinks) -> None:
    variances = torch.tensor([0.05, 0.9, 30.0], dtype=torch.float64)
    c = hermite_coefficients(f, variances, 15, kinks)
    for k in (1, 4, 15):
        for i, v in enumerate(variances):
            want = expectation(
                lambda z, k=k, v=v: f(z) * hermite_polynomials(z.reshape(-1) / v.sqrt(), 15)[k].reshape(z.shape),
                v,
                kinks=kinks,
            )
            assert abs(float(c[i, k] - want.value)) <= 1e-12


def test_two_kinks_in_one_panel_are_both_cut() -> None:
    variance = torch.tensor([1.0], dtype=torch.float64)
    bump = lambda z: ((z > 0.11) & (z < 0.13)).to(z.dtype)  # noqa: E731
    series = hermite_series(bump, variance, 4, (0.11, 0.13))
    mass = torch.special.ndtr(torch.tensor([0.11, 0.13], dtype=torch.float64)).diff()
    assert abs(float(series.energy - mass)) < 1e-15
    assert abs(float(series.coefficients[0, 0] - mass)) < 1e-15


@pytest.mark.parametrize("order", [3, 10, 40])
def test_tail_bound_is_a_bound_and_not_idle(order: int) -> None:
    rho = torch.tensor([-0.95, -0.4, 0.3, 0.8, 0.99, 1.0], dtype=torch.float64)
    series = hermite_series(torch.relu, torch.ones(1, dtype=torch.float64), order, (0.0,))
    powers = rho[:, None] ** torch.arange(order + 1)
    partial = (series.coefficients[0] ** 2 * powers).sum(dim=1)
    theta = torch.acos(rho)
    exact = (theta.sin() + (math.pi - theta) * rho) / (2 * math.pi)
    bound = mehler_tail_bound(series.tail[0, -1], series.tail[0, -1], rho, order)
    wrong = (partial - exact).abs()
    assert torch.all(wrong <= bound + 1e-15)
    assert float(wrong[-1]) > 0.9 * float(bound[-1])


@pytest.mark.parametrize("rtol", [1e-6, 1e-10])
@pytest.mark.parametrize("size", [0.5, 5.0, 60.0])
@pytest.mark.parametrize("closeness", [1.0, 1e-2, 1e-6])
def test_gram_within_its_error_and_tolerance(rtol: float, size: float, closeness: float) -> None:
    cov = covariance(24, size, closeness)
    d = cov.diagonal()
    out = mean_product_gram(torch.erf, cov, rtol=rtol)
    exact = erf_product(d[:, None], cov, d[None, :])
    scale = (exact.diagonal()[:, None] * exact.diagonal()[None, :]).sqrt()
    wrong = (out.value - exact).abs()
    assert torch.all(wrong <= rtol * scale)
    # Rounding of the closed form itself, which the correlations' rounding limits.
    assert torch.all(wrong <= out.error + 1e-13 * scale)


@pytest.mark.parametrize("route", ["table", "direct"])
def test_routes_near_parallel_agree(route: str) -> None:
    cov = covariance(14 if route == "table" else 6, 2.0, 1e-3)
    d = cov.diagonal()
    selu = torch.nn.functional.selu
    out = mean_product_gram(selu, cov, kinks=(0.0,), rtol=1e-8)
    i, j = torch.tensor([0, 2, 4]), torch.tensor([5, 3, 1])
    want = expectation2(selu, selu, d[i], cov[i, j], d[j], kinks_f=(0.0,), kinks_g=(0.0,))
    scale = out.value.diagonal()[i]
    assert torch.all((out.value[i, j] - want.value).abs() <= 1e-8 * scale)
    assert torch.all((out.value[i, j] - want.value).abs() <= out.error[i, j] + want.error)


def test_gram_equals_elementwise() -> None:
    cov = covariance(10, 1.0, 0.3)
    d = cov.diagonal()
    gram = mean_product_gram(hard, cov, kinks=(-1.0, 1.0))
    flat = mean_product(hard, d[:, None], cov, d[None, :], kinks=(-1.0, 1.0))
    assert torch.allclose(gram.value, flat.value, rtol=0, atol=1e-10)


@pytest.mark.parametrize("common", [True, False])
def test_many_pairs(common: bool) -> None:
    g = torch.Generator().manual_seed(1)
    n = 6000
    a, b = (torch.rand(n, generator=g, dtype=torch.float64) + 0.5 for _ in range(2))
    if common:
        a, b = torch.ones_like(a), torch.ones_like(b)
    rho = 2 * torch.rand(n, generator=g, dtype=torch.float64) - 1
    c = rho * (a * b).sqrt()
    out = mean_product(torch.erf, a, c, b, rtol=1e-8)
    wrong = (out.value - erf_product(a, c, b)).abs()
    assert float(wrong.max()) <= 1e-8
    assert torch.all(wrong <= out.error)


def test_degenerate_entries() -> None:
    one = torch.ones(4, dtype=torch.float64)
    a = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    c = torch.tensor([0.0, 0.0, 1.0 + 1e-12, -1.0], dtype=torch.float64)
    b = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    cosine = mean_product(torch.cos, a, c, b).value
    exact = torch.exp(-(a + b) / 2) * torch.cosh(c.clamp(-1, 1))
    assert torch.allclose(cosine, exact, rtol=1e-10, atol=0)
    # What overflowed or went missing comes back as nan and leaves its neighbours alone.
    a = torch.tensor([1.0, math.inf, math.nan, 1.0], dtype=torch.float64)
    for out in (mean_product(torch.tanh, a, 0.5 * a, a), expectation2(torch.tanh, torch.tanh, a, 0.5 * a, a)):
        assert torch.isnan(out.value).tolist() == [False, True, True, False]
    cov = torch.eye(3, dtype=torch.float64) + 0.5
    cov[1, 1] = math.inf
    gram = mean_product_gram(torch.tanh, cov).value
    assert torch.isnan(gram[1]).all()
    assert torch.isfinite(gram[0, [0, 2]]).all()
    with pytest.raises(ValueError, match=r"square in its last two axes, got shape \(4,\)"):
        mean_product_gram(torch.cos, one)
