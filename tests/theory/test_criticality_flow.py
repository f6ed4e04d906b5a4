"""Exponents, coefficients and depth scales against the exact recursions, a thousand layers and more deep."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from leadline.activations import Activation, activation
from leadline.theory.criticality import (
    Block,
    CriticalPoint,
    Norm,
    critical_point,
    fixed_point,
    fixed_points,
)
from leadline.theory.flow import depth_scales, kernel_flow

D = torch.float64
CALLABLES = {
    "z + sin z": lambda z: z + torch.sin(z), "celu 2": nn.CELU(2.0), "elu .5": nn.ELU(0.5),
    "two tanh": lambda z: torch.where(z > 0, torch.tanh(z), 0.5 * torch.tanh(z)), "z - z^5": lambda z: z - z**5,
}  # fmt: skip


@lru_cache
def critical(name: str, residual: float = 0.0) -> CriticalPoint:
    return critical_point(CALLABLES.get(name, name), residual=residual)


def act_of(name: str) -> Activation:
    return activation(CALLABLES.get(name, name))


def kernels(name: str, depth: int, first: float) -> tuple[Activation, Tensor, float]:
    """Kernels of layers 1 … depth at the critical point, and C_W."""
    act, p = act_of(name), critical(name)
    assert p.C_W is not None
    assert p.C_b is not None
    K, _ = kernel_flow(act, [p.C_b] * (depth - 1), [p.C_W] * (depth - 1), torch.tensor([first], dtype=D))
    return act, K[:, 0], p.C_W


def logs(factors: Tensor) -> Tensor:
    return factors.log().cumsum(0)


@pytest.mark.parametrize(
    "name",
    [
        "tanh",
        pytest.param("sin", marks=pytest.mark.slow),
        pytest.param("erf", marks=pytest.mark.slow),
        pytest.param("arctan", marks=pytest.mark.slow),
        "z + sin z",
    ],
)
def test_smooth_kernels_fall_as_one_over_depth_with_the_logarithm(name: str) -> None:
    _, K, _ = kernels(name, 1000, 0.3)
    p = critical(name)
    assert p.a1 is not None
    assert p.a2 is not None
    gained = float(1 / K[999] - 1 / K[299])
    without = -p.a1 * 700
    predicted = without + (p.a1**2 - p.a2) / -p.a1 * math.log(1000 / 300)
    assert gained == pytest.approx(predicted, abs=0.01)
    assert gained != pytest.approx(without, abs=0.03)  # the term in a2 is needed
    wrong = without + (p.a1**2 - 1.2 * p.a2) / -p.a1 * math.log(1000 / 300)
    assert gained != pytest.approx(wrong, abs=0.03)


@pytest.mark.parametrize(
    "name",
    [
        "tanh",
        pytest.param("arctan", marks=pytest.mark.slow),
        pytest.param("two tanh", marks=pytest.mark.slow),
        "elu",
        pytest.param("selu", marks=pytest.mark.slow),
        pytest.param("softsign", marks=pytest.mark.slow),
        pytest.param("celu 2", marks=pytest.mark.slow),
        "z - z^5",
    ],
)
def test_exponents_of_kernel_and_susceptibilities(name: str) -> None:
    act, K, C_W = kernels(name, 8001, 0.05)
    e = critical(name).exponents
    assert e is not None
    low, high = 2000, 8000
    span = math.log(high / low)
    block = Block(act)
    parallel, perp = (logs(chi[:-1]) for chi in block.susceptibilities(K, C_W))

    def power(x: Tensor) -> float:
        return -float(x[high] - x[low]) / span

    found = (-float((K[high] / K[low]).log()) / span, power(torch.cat([perp[:1], perp])),
             power(torch.cat([parallel[:1], parallel])))  # fmt: skip
    for value, want in zip(found, (e.p_0, e.p_perp, e.p_parallel)):
        assert value == pytest.approx(want, rel=0.02)  # corrections are of order ln l / l, one hundredth here
    assert abs(found[0] - (1.0 if e.p_0 != 1.0 else 2.0)) > 0.4  # another class is far away


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("elu", marks=pytest.mark.slow),
        pytest.param("celu 2", marks=pytest.mark.slow),
        "selu",
        pytest.param("softsign", marks=pytest.mark.slow),
        pytest.param("elu .5", marks=pytest.mark.slow),
    ],
)
def test_the_amplitude_of_the_cusp(name: str) -> None:
    _, K, _ = kernels(name, 8001, 0.05)
    c = critical(name).c
    assert c is not None
    gained = float(K[8000] ** -0.5 - K[4000] ** -0.5) / 4000
    assert gained == pytest.approx(c / 2, rel=2e-3)
    assert gained != pytest.approx(1.01 * c / 2, rel=2e-3)


def test_a_marginal_kernel_falls_as_the_logarithm_of_depth() -> None:
    """At C_W = 1 and u = 1/K, du/dl = sqrt(8/pi) u^{1/2} e^{-u/2}: u grows by 2/(1 - 1/u) per unit of ln l."""
    _, K, _ = kernels("hardtanh", 10_000, 0.5)
    u = 1 / K
    slope = float(u[9999] - u[999]) / math.log(10)
    middle = float(u[9999] + u[999]) / 2
    assert slope == pytest.approx(2 / (1 - 1 / middle), rel=0.03)  # the next term is of order 1/u^2
    assert slope != pytest.approx(2 * 2 / (1 - 1 / middle), rel=0.3)
    _, tanh, _ = kernels("tanh", 10_000, 0.5)
    assert float(1 / tanh[9999] - 1 / tanh[1000]) / math.log(10) > 1000


def test_a_half_stable_kernel_comes_back_from_one_side() -> None:
    p = critical("mish")
    assert p.K is not None
    assert p.chi_prime is not None
    assert p.h is not None
    act, K, C_W = kernels("mish", 20_001, 1.4)
    gap = p.K - K
    rate = float(1 / gap[20_000] - 1 / gap[10_000]) / 10_000
    assert rate == pytest.approx(p.chi_prime / 2, rel=0.01)
    assert rate != pytest.approx(1.05 * p.chi_prime / 2, rel=0.01)
    perp = logs(Block(act).susceptibilities(K, C_W)[1])
    power = float(perp[19_999] - perp[9999]) / float((gap[20_000] / gap[10_000]).log())
    assert power == pytest.approx(4 * p.h / p.chi_prime, rel=0.01)
    _, away, _ = kernels("mish", 3000, 2.5)
    assert float(away[-1]) > 10 * p.K  # from the other side it leaves


def growth(name: str, depth: int, first: float, residual: float = 0.0) -> float:
    """V/(K^2 l) after depth layers, from the recursions of V and of the three-point vertex at constant width."""
    act, p = act_of(name), critical(name, residual)
    assert p.C_W is not None
    assert p.C_b is not None
    C_W, skip = p.C_W, residual**2
    K = torch.tensor(first, dtype=D)
    path = []
    if residual:
        for _ in range(depth):
            path.append(K)
            K = Block(act, residual=residual).kernel(K, C_W, p.C_b)
        flow = torch.stack(path)
    else:
        flow = kernels(name, depth, first)[1]
    inner = C_W * act.second_moment_slope(flow)
    square, fourth = act.second_moment(flow), act.fourth_moment(flow)
    source = C_W**2 * (fourth - square**2) + 4 * skip * flow**2 * inner
    third = torch.stack([_third(act, k) for k in flow]) if residual else torch.zeros_like(flow)
    V = kappa = 0.0
    for k, chi0, s, t in zip(flow.tolist(), inner.tolist(), source.tolist(), third.tolist()):
        V = (chi0 + skip) ** 2 * V + s + 2 * C_W * t / k * (chi0 + skip) * kappa
        kappa = residual * (chi0 + skip) * kappa + residual * C_W * t
    return V / (depth * float(K if residual else flow[-1]) ** 2)


def _third(act: Activation, K: Tensor) -> Tensor:
    z = torch.linspace(-10, 10, 4001, dtype=D)
    weight = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) * 0.005
    x = z * K.sqrt()
    return (weight * x * act.fn(x) ** 2).sum()


@pytest.mark.parametrize(("name", "first", "within"), [
    ("relu", 1.0, 1e-9), ("tanh", 0.1, 0.01), pytest.param("elu", 0.1, 0.01, marks=pytest.mark.slow), pytest.param("selu", 0.1, 0.01, marks=pytest.mark.slow), pytest.param("two tanh", 0.1, 0.01, marks=pytest.mark.slow),
    ("gelu", 3.5615528128088303, 1e-6), pytest.param("hardtanh", 0.1, 0.3, marks=pytest.mark.slow),
])  # fmt: skip
def test_fluctuations_grow_as_nu_times_depth(name: str, first: float, within: float) -> None:
    nu = critical(name).nu
    found = growth(name, 4000, first)
    assert found == pytest.approx(nu, rel=within)
    assert found != pytest.approx(1.5 * (nu or 0), rel=0.3)


@pytest.mark.parametrize(("name", "residual", "first"), [
    ("relu", 0.6, 1.0), pytest.param("relu", 0.9, 1.0, marks=pytest.mark.slow), pytest.param("tanh", 0.7, 0.1, marks=pytest.mark.slow), pytest.param("gelu", 0.7, 3.5615528128088303, marks=pytest.mark.slow),
])  # fmt: skip
def test_fluctuations_with_a_skip(name: str, residual: float, first: float) -> None:
    nu = critical(name, residual).nu
    assert growth(name, 600, first, residual) == pytest.approx(nu, rel=0.03)
    assert growth(name, 600, first, residual) != pytest.approx(critical(name).nu, rel=0.05)


@pytest.mark.parametrize(("name", "plus", "minus"), [("relu", 1.0, 0.0), ("leaky_relu", 1.0, 0.01), ("abs", 1.0, -1.0)])
def test_the_angle_of_two_inputs_falls_as_one_over_depth(name: str, plus: float, minus: float) -> None:
    act, C_W = activation(name), critical_point(name).C_W
    one, rho, at = torch.ones((), dtype=D), torch.tensor(0.2, dtype=D), {}
    for layer in range(1, 3001):
        rho = (C_W * act.dual(one, rho, one)).clamp_max(1.0)
        at[layer] = float((1 - rho) ** -0.5)
    t = (plus - minus) ** 2 / (plus**2 + minus**2)
    rate = math.sqrt(2) * t / (3 * math.pi)
    found = (at[3000] - at[1000]) / 2000
    assert found == pytest.approx(rate, rel=2e-3)
    assert found != pytest.approx(1.02 * rate, rel=2e-3)


@pytest.mark.parametrize(("C_b", "C_W"), [(0.05, 0.9), (0.3, 1.3), (0.05, 2.5), (0.0, 2.0)])
def test_depth_scales_off_criticality(C_b: float, C_W: float) -> None:
    act, p = activation("tanh"), depth_scales(activation("tanh"), C_W, C_b)
    K = torch.tensor(p.K * (1 + 1e-5), dtype=D)
    after = C_b + C_W * act.second_moment(K)
    assert float((after - p.K) / (K - p.K)) == pytest.approx(p.chi_parallel, rel=1e-4)
    k, rho = torch.tensor(p.K, dtype=D), 0.3
    for _ in range(400):
        before, rho = rho, (C_b + C_W * float(act.dual(k, rho * k, k))) / p.K
        if abs(rho - p.rho) < 1e-6:
            break
    assert rho == pytest.approx(p.rho, abs=2e-6)
    assert (rho - p.rho) / (before - p.rho) == pytest.approx(p.rate, abs=2e-3)
    if p.chi_perp > 1:  # chaotic: the rate is not the susceptibility at rho = 1
        assert p.rho < 0.9
        assert p.rate < 1 < p.chi_perp
    else:
        assert p.rho == 1
        assert p.rate == p.chi_perp
        assert p.xi_c == pytest.approx(-1 / math.log(p.chi_perp))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tanh", marks=pytest.mark.slow),
        "gelu",
        pytest.param("sigmoid", marks=pytest.mark.slow),
        "cos",
        pytest.param("elu", marks=pytest.mark.slow),
    ],
)
def test_fixed_points_are_where_the_flow_ends(name: str) -> None:
    act = activation(name)
    C_W, C_b = torch.tensor([0.4, 0.9, 1.4], dtype=D), torch.tensor([0.02, 0.3], dtype=D)
    many = fixed_points(Block(act), C_W[:, None], C_b[None, :])
    for i, w in enumerate(C_W.tolist()):
        for j, b in enumerate(C_b.tolist()):
            K = torch.tensor(1.0, dtype=D)
            for _ in range(400):
                K = b + w * act.second_moment(K)
            one = fixed_point(act, w, b, 1.0)
            assert pytest.approx(float(K), rel=1e-9) == one.K
            assert float(many.K[i, j]) == pytest.approx(float(K), rel=1e-7)
            chi = float(w * act.derivative_moment(K))
            assert one.chi_perp == pytest.approx(chi, rel=1e-9)
            assert float(many.chi_perp[i, j]) == pytest.approx(chi, rel=1e-6)
            assert float(many.chi_parallel[i, j]) == pytest.approx(float(w * act.second_moment_slope(K)), abs=1e-6)


def test_fixed_points_at_the_ends() -> None:
    assert fixed_point(activation("tanh"), 1.0, 0.0, 1.0).K == 0.0
    assert fixed_point(activation("tanh"), 1.0, 0.0, 1.0).depth_scale == math.inf
    assert fixed_point(activation("relu"), 2.0, 0.0, 0.7).K == 0.7
    assert math.inf == fixed_point(activation("relu"), 2.0, 0.1, 0.7).K
    assert pytest.approx(0.4) == fixed_point(activation("relu"), 1.5, 0.1, 0.7).K
    assert math.inf == fixed_point(activation("gelu"), 2.5, 0.1, 1.0).K
    assert math.inf == fixed_point(activation("exp"), 0.3, 0.1, 1.0).K
    assert fixed_point(activation("tanh"), 1e-3, 0.0, 1.0).K == 0.0
    with_norm = fixed_points(
        Block(activation("tanh"), Norm.layer_norm_before, 0.8), torch.tensor(1.5), torch.tensor(0.1)
    )
    K = (1.5 * float(activation("tanh").second_moment(torch.tensor(1.0, dtype=D))) + 0.1) / 0.36
    assert float(with_norm.K) == pytest.approx(K)
    with pytest.raises(ValueError, match="variances"):
        fixed_points(Block(activation("tanh")), torch.tensor(-1.0), torch.tensor(0.1))
    with pytest.raises(ValueError, match="start from a kernel > 0"):
        fixed_points(Block(activation("tanh")), torch.tensor(1.0), torch.tensor(0.1), start=0.0)
