"""One-variable moments: slopes against finite differences, published formulas, small variances, refusals."""

from __future__ import annotations

import math

import pytest
import torch

from leadline.activations import REGISTRY, Activation, activation

NAMES = sorted({build().name: name for name, build in REGISTRY.names.items()}.values())
K = torch.tensor([0.05, 0.4, 1.0, 3.0, 12.0], dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_slope_and_curvature_against_finite_differences(name: str) -> None:
    act, h = activation(name), 1e-3 * K

    def five_point(g):
        return (8 * (g(K + h) - g(K - h)) - (g(K + 2 * h) - g(K - 2 * h))) / (12 * h)

    for slope, g in (
        (act.second_moment_slope, act.second_moment),
        (act.second_moment_curvature, act.second_moment_slope),
    ):
        want, got = five_point(g), slope(K)
        # The difference quotient itself is good to h^4 and to the rounding of g divided by h.
        scale = want.abs() + 1e-2 * g(K).abs() / K
        assert torch.all((got - want).abs() <= 1e-7 * scale + 1e-14 * g(K).abs().clamp_min(0.5) / h)


@pytest.mark.parametrize("name", NAMES)
def test_derivative_is_the_derivative(name: str) -> None:
    act = activation(name)
    z = torch.linspace(-7.3, 7.1, 97, dtype=torch.float64) + 0.0031
    h = 1e-5
    want = (act(z + h) - act(z - h)) / (2 * h)
    assert torch.all((act.derivative(z) - want).abs() <= 1e-6 * want.abs().max().clamp_min(1.0))


def test_gelu_one_input_formulas() -> None:
    act, r = activation("gelu"), (1 + 2 * K).sqrt()
    g = K / 4 + K / (2 * math.pi) * (torch.asin(K / (1 + K)) + 2 * K / ((1 + K) * r))
    d = 0.25 + (torch.asin(K / (1 + K)) + K * (3 + 5 * K) / ((1 + K) * r**3)) / (2 * math.pi)
    generic = Activation(act.fn, name="gelu")
    for route in (act, generic):
        assert torch.allclose(route.second_moment(K), g, rtol=1e-11)
        assert torch.allclose(route.derivative_moment(K), d, rtol=1e-11)


def test_elu_one_input_formulas() -> None:
    act, s, cdf = activation("elu"), K.sqrt(), lambda x: torch.special.erfc(-x / math.sqrt(2)) / 2
    g = K / 2 + torch.exp(2 * K) * cdf(-2 * s) - 2 * torch.exp(K / 2) * cdf(-s) + 0.5
    assert torch.allclose(act.second_moment(K), g, rtol=1e-11)
    assert torch.allclose(act.derivative_moment(K), 0.5 + torch.exp(2 * K) * cdf(-2 * s), rtol=1e-11)


@pytest.mark.parametrize(
    ("name", "c", "kstar"),
    [("gelu", 1.98305826, 3.56155281), ("silu", 1.98800468, 14.32017362), ("mish", 2.01352407, 1.67016913)],
)
def test_half_stable_critical_points(name: str, c: float, kstar: float) -> None:
    act = activation(name)
    assert abs(float(act.derivative_moment(kstar)) * c - 1) < 1e-8
    assert abs(float(act.second_moment_slope(kstar)) * c - 1) < 1e-8


def test_small_variances_keep_their_digits() -> None:
    small = torch.tensor([0.0, 1e-14, 1e-8, 1e-5, 1e-3], dtype=torch.float64)
    tanh = activation("tanh")
    # <tanh^2>' = 1 - 4 K + 17 K^2 + ..., from tanh^2 = z^2 - 2 z^4/3 + 17 z^6/45.
    assert torch.allclose(tanh.second_moment_slope(small), 1 - 4 * small + 17 * small**2, rtol=0, atol=4e-7)
    assert torch.allclose(tanh.second_moment_curvature(small), -4 + 34 * small, rtol=0, atol=1e-3)
    assert torch.allclose(tanh.second_moment_curvature(small[:3]), torch.full((3,), -4.0).double(), atol=1e-6)
    sigmoid = activation("sigmoid")
    assert torch.allclose(sigmoid.second_moment_slope(small), 1 / 16 - small / 16, rtol=0, atol=1e-6)
    for name in ("relu", "elu", "selu", "softsign", "hardtanh"):
        act = activation(name)
        left, right = (float(act.derivative(torch.tensor([v], dtype=torch.float64))) for v in (-1e-9, 1e-9))
        slope = act.second_moment_slope(small[:3])
        assert torch.allclose(slope, torch.full((3,), (left**2 + right**2) / 2).double(), atol=1e-3)


def test_many_variances_by_interpolation() -> None:
    variances = torch.linspace(0.1, 3.0, 6000, dtype=torch.float64)
    act = activation("silu")
    for moment in ("second_moment", "second_moment_slope"):
        out = act.estimate(moment, variances)
        some = getattr(act, moment)(variances[::600])
        assert torch.all((out.value[::600] - some).abs() <= 1e-10 * some)
        assert torch.all((out.value[::600] - some).abs() <= out.error[::600])


def test_flat_fraction() -> None:
    one = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    assert torch.allclose(activation("relu").flat_fraction(one), torch.full_like(one, 0.5), atol=1e-3)
    assert torch.allclose(activation("identity").flat_fraction(one), torch.zeros_like(one), atol=1e-9)
    edge = math.acosh(10.0) / one.sqrt()
    exact = 2 * torch.special.ndtr(-edge)
    assert torch.allclose(activation("tanh").flat_fraction(one), exact, atol=2e-4)
    assert float(activation("softshrink").flat_fraction(1e-6)) == pytest.approx(1.0)
    assert torch.allclose(activation("hardtanh").flat_fraction(one), 2 * torch.special.ndtr(-1 / one.sqrt()), atol=2e-3)


@pytest.mark.parametrize("name", ["step", "sign", "hardshrink"])
def test_jumps_refuse_moments_of_the_derivative(name: str) -> None:
    act, eye = activation(name), torch.eye(2)
    with pytest.raises(ValueError, match="is infinite: it jumps at"):
        act.derivative_moment(1.0)
    with pytest.raises(ValueError, match="is infinite: it jumps at"):
        act.dual_derivative(1.0, 0.5, 1.0)
    with pytest.raises(ValueError, match="is infinite: it jumps at"):
        act.gram_derivative(eye)


def test_step_closed_forms() -> None:
    act = activation("step")
    rho = torch.tensor([-0.999, 0.0, 0.5, 0.999999], dtype=torch.float64)
    exact = 0.25 + torch.asin(rho) / (2 * math.pi)
    assert torch.allclose(act.dual(rho * 0 + 2, 2 * rho, rho * 0 + 2), exact, rtol=0, atol=1e-10)
    assert float(act.derivative_mean(1.0)) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-12)


def test_refusals() -> None:
    act = activation("tanh")
    with pytest.raises(ValueError, match="no moment called 'variance' of tanh"):
        act.estimate("variance", 1.0)
    with pytest.raises(ValueError, match=r"variances >= 0, got a smallest value of -1"):
        act.second_moment(torch.tensor([-1.0]))
    with pytest.raises(ValueError, match=r"square in its last two axes, got shape \(2, 3\)"):
        act.gram(torch.ones(2, 3))
