"""One- and two-variable quadrature against exact values, and its error estimates against its true errors."""

from __future__ import annotations

import math

import pytest
import torch

from leadline.gaussian import expectation, expectation2
from leadline.gaussian.adaptive import kronrod

K = torch.tensor([1e-8, 0.1, 1.0, 10.0, 100.0, 1e4], dtype=torch.float64)
RHO = torch.tensor([-1, -0.999, -0.5, 0, 0.5, 0.99, 0.999999, 1 - 1e-12, 1], dtype=torch.float64)


def test_kronrod_pair_integrates_polynomials_exactly() -> None:
    x, wk, wg = kronrod()
    for degree in range(0, 23, 2):
        assert math.isclose(float((wk * x**degree).sum()), 2 / (degree + 1), rel_tol=1e-14)
    for degree in range(0, 14, 2):
        assert math.isclose(float((wg * x**degree).sum()), 2 / (degree + 1), rel_tol=1e-14)
    # The rule is of degree 22 (23 by symmetry), no higher: a check that the loop above can fail.
    assert abs(float((wk * x**26).sum()) - 2 / 27) > 1e-15


@pytest.mark.parametrize("power", [0, 2, 4, 8])
def test_monomials(power: int) -> None:
    out = expectation(lambda z: z**power, K)
    exact = math.prod(range(1, power, 2)) * K ** (power // 2)
    assert torch.all((out.value - exact).abs() <= 1e-13 * exact)


def squared_ramp(variances: torch.Tensor) -> torch.Tensor:
    """Exact expectation of relu(z - 0.3)^2."""
    h = 0.3 / variances.sqrt()
    phi = torch.exp(-h * h / 2) / math.sqrt(2 * math.pi)
    return variances * ((1 + h * h) * torch.special.ndtr(-h) - h * phi)


def test_error_estimate_bounds_the_error_at_a_declared_kink() -> None:
    variances = torch.logspace(-1, 3, 60, dtype=torch.float64)
    exact = squared_ramp(variances)
    out = expectation(lambda z: torch.relu(z - 0.3) ** 2, variances, kinks=(0.3,))
    wrong = (out.value - exact).abs()
    assert torch.all(wrong <= 1e-12 * exact)
    assert torch.all(wrong <= out.error + 4e-15 * exact)


def test_undeclared_kink_gets_an_estimate_that_nearly_always_holds() -> None:
    variances = torch.logspace(-1, 3, 60, dtype=torch.float64)
    exact = squared_ramp(variances)
    out = expectation(lambda z: torch.relu(z - 0.3) ** 2, variances)
    wrong = (out.value - exact).abs()
    assert torch.all(wrong <= 1e-9 * exact)
    # A kink hiding between the end of a panel and its first node is invisible: no guarantee without a
    # declaration.
    assert (wrong <= out.error + 4e-15 * exact).double().mean() >= 0.95


def test_exponential_growth_beyond_the_reach_is_integrated_or_shows_in_the_error() -> None:
    variances = torch.tensor([1.0, 4.0, 10.0], dtype=torch.float64)
    out = expectation(lambda z: torch.exp(4 * z), variances)
    exact = torch.exp(8 * variances)
    assert torch.all((out.value - exact).abs() <= 1e-10 * exact)
    for k in (4.0, 10.0, 30.0):
        two = expectation2(torch.exp, torch.exp, k, 0.5 * k, k)
        assert float((two.value - math.exp(1.5 * k)).abs()) <= float(two.error)


def test_vanishing_variance_is_the_mean_of_the_one_sided_limits() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    out = expectation(lambda z: (z > 0).to(z.dtype), zero, kinks=(0.0,))
    assert torch.allclose(out.value, torch.full_like(zero, 0.5), rtol=0, atol=1e-14)
    assert torch.allclose(expectation(torch.cos, zero).value, torch.ones_like(zero), rtol=1e-14)


@pytest.mark.parametrize("k", [0.1, 1.0, 100.0])
def test_two_variables_against_closed_forms(k: float) -> None:
    a = torch.tensor(k, dtype=torch.float64)
    b = 1.7 * a
    c = RHO * (a * b).sqrt()
    theta = torch.acos(RHO)
    relu = (a * b).sqrt() / (2 * math.pi) * (theta.sin() + (math.pi - theta) * RHO)
    erf = 2 / math.pi * torch.asin(2 * c / ((1 + 2 * a) * (1 + 2 * b)).sqrt())
    for f, kinks, exact in ((torch.relu, (0.0,), relu), (torch.erf, (), erf)):
        out = expectation2(f, f, a, c, b, kinks_f=kinks, kinks_g=kinks)
        wrong = (out.value - exact).abs()
        assert torch.all(wrong <= 1e-10 * (a * b).sqrt().clamp_max(1.0))
        assert torch.all(wrong <= out.error + 1e-14 * (a * b).sqrt().clamp_min(1.0))


def test_two_different_functions_exchange() -> None:
    a, c, b = (torch.tensor(v, dtype=torch.float64) for v in (0.7, -0.5, 2.1))
    hard = lambda z: z.clamp(-1, 1)  # noqa: E731
    one = expectation2(torch.tanh, hard, a, c, b, kinks_g=(-1.0, 1.0))
    two = expectation2(hard, torch.tanh, b, c, a, kinks_f=(-1.0, 1.0))
    assert abs(float(one.value - two.value)) <= float(one.error + two.error) + 1e-15


def test_bad_covariances_are_refused() -> None:
    with pytest.raises(ValueError, match=r"variances >= 0, got a smallest value of -1"):
        expectation(torch.tanh, torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"correlation of 1\.5"):
        expectation2(torch.tanh, torch.tanh, 1.0, 1.5, 1.0)
    with pytest.raises(ValueError, match=r"variances must be >= 0, got -2"):
        expectation2(torch.tanh, torch.tanh, -2.0, 0.0, 1.0)


def test_shape_and_dtype_follow_the_input() -> None:
    out = expectation(torch.tanh, torch.ones(2, 3, dtype=torch.float32))
    assert out.value.shape == (2, 3)
    assert out.value.dtype == torch.float32
    pair = expectation2(torch.tanh, torch.tanh, torch.ones(4, 1), torch.zeros(1, 5), torch.ones(1, 1))
    assert pair.value.shape == (4, 5)
    assert pair.error.dtype == torch.float32
