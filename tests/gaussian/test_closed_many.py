"""Closed forms for up to four variables: orthants, half-space moments, generating functions."""

from __future__ import annotations

import itertools
import math

import mpmath as mp
import pytest
import torch

from gaussian.one_factor import covariance, draw, exact
from leadline.gaussian import (
    HalfSpaceTerm,
    bump_expectation,
    exponential_expectation,
    half_space_expectation,
    orthant_probability,
)

SIGNS = torch.tensor(list(itertools.product((1.0, -1.0), repeat=4)), dtype=torch.float64)
FAMILIES = {
    "relu": ((HalfSpaceTerm(1, 1, 0.0),), torch.relu, (0.0,)),
    "step": ((HalfSpaceTerm(1, 0, 0.0),), lambda z: (z > 0).to(z.dtype), (0.0,)),
    "leaky": ((HalfSpaceTerm(0.2, 1), HalfSpaceTerm(0.8, 1, 0.0)), lambda z: torch.where(z > 0, z, 0.2 * z), (0.0,)),
    "erf": ((HalfSpaceTerm(-1), HalfSpaceTerm(2, 0, 0.5)), torch.erf, ()),
    "gelu": ((HalfSpaceTerm(1, 1, 1.0),), torch.nn.functional.gelu, ()),
    "cube": ((HalfSpaceTerm(1, 3),), lambda z: z**3, ()),
    "relu squared": ((HalfSpaceTerm(1, 2, 0.0),), lambda z: torch.relu(z) ** 2, (0.0,)),
}


def common(loadings: list[str]) -> tuple[torch.Tensor, float]:
    """Correlations l_i l_j and their orthant probability by one integral of mpmath."""
    with mp.workdps(25):
        ls = [mp.mpf(v) for v in loadings]
        ends = sorted(s * mp.mpf(x) for x in ("0", ".001", ".01", ".1", ".5", "1", "2", "4", "12") for s in (1, -1))
        value = mp.quad(lambda y: mp.npdf(y) * mp.fprod(mp.ncdf(v * y / mp.sqrt(1 - v * v)) for v in ls), ends)
        rho = [[float(1 if i == j else ls[i] * ls[j]) for j in range(len(ls))] for i in range(len(ls))]
    return torch.tensor(rho, dtype=torch.float64), float(value)


@pytest.mark.parametrize(
    "loadings",
    [[".5"] * 4, [".99", ".99", "-.9", ".3"], [".9999"] * 4, [".9999", "-.9999", ".5", ".2"], [".7", "-.3", ".9"]],
)
def test_orthant_against_the_common_factor(loadings: list[str]) -> None:
    rho, want = common(loadings)
    out = orthant_probability(rho)
    assert abs(float(out.value) - want) <= 1e-11
    assert abs(float(out.value) - want) <= float(out.error)


@pytest.mark.parametrize("variables", [1, 2, 3, 4])
def test_limits_other_than_0_against_the_common_factor(variables: int) -> None:
    for size, shared, seed in ((1.0, 0.3, 0), (4.0, 0.95, 1), (0.3, 0.9999, 2)):
        loadings, own = draw(variables, size, shared, seed)
        limits = torch.tensor([0.3, -0.7, 0.0, 1.1], dtype=torch.float64)[:variables]
        steps = [lambda z, k=k: (z > k).to(z.dtype) for k in limits.tolist()]
        want = exact(steps, [(k,) for k in limits.tolist()], loadings, own)
        out = orthant_probability(covariance(loadings, own), limits)
        assert abs(float(out.value) - want) <= 1e-10
        other = orthant_probability(covariance(loadings, own), limits + 1e-5)  # negative control
        assert want < 1e-8 or abs(float(other.value) - want) > 1e-8
    assert float(orthant_probability(torch.eye(variables), limits).value) > 0.01


def test_limits_of_0_are_none() -> None:
    x = torch.randn(20, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for n in (2, 3, 4):
        K = (x @ x.mT)[:, :n, :n]
        far = torch.tensor([0.0] * (n - 1) + [-1e9], dtype=torch.float64)
        zero = orthant_probability(K, torch.zeros(n, dtype=torch.float64)).value
        assert torch.allclose(zero, orthant_probability(K).value, atol=1e-9)
        assert torch.allclose(
            orthant_probability(K, far).value, orthant_probability(K[:, : n - 1, : n - 1]).value, atol=1e-9
        )
    with pytest.raises(ValueError, match=r"limits of shape \(3,\) for 2 variables"):
        orthant_probability(torch.eye(2), torch.zeros(3))


def test_orthants_add_up_to_one() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(60, 4, 3, generator=g, dtype=torch.float64)  # rank 3: singular
    K = x @ x.mT
    total = sum(orthant_probability(K * s * s[:, None]).value for s in SIGNS)
    assert float((total - 1).abs().max()) <= 1e-9


def test_orthants_of_equal_and_opposite_variables() -> None:
    ones = torch.ones(4, 4, dtype=torch.float64)
    assert float(orthant_probability(ones).value) == pytest.approx(0.5, abs=1e-14)
    s = torch.tensor([1.0, -1, 1, 1], dtype=torch.float64)
    assert float(orthant_probability(ones * s * s[:, None]).value) == 0.0
    pair = torch.tensor([[1.0, 0.3], [0.3, 1.0]], dtype=torch.float64).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert float(orthant_probability(pair).value) == pytest.approx(0.25 + math.asin(0.3) / (2 * math.pi), abs=1e-14)
    with pytest.raises(ValueError, match="up to 4 variables, got 5"):
        orthant_probability(torch.eye(5))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("variables", [2, 3, 4])
def test_half_space_moments_against_the_common_factor(name: str, variables: int) -> None:
    terms, f, kinks = FAMILIES[name]
    for size, shared, seed in ((0.1, 0.3, 0), (1.0, 0.95, 1), (10.0, 0.3, 2), (1.0, 0.999, 3)):
        loadings, own = draw(variables, size, shared, seed)
        want = exact([f] * variables, [kinks] * variables, loadings, own)
        out = half_space_expectation([terms] * variables, covariance(loadings, own))
        scale = exact([lambda z: f(z).abs() ** variables], [kinks], loadings[:1], own[:1])
        wrong = abs(float(out.value) - want)
        assert wrong <= 2e-10 * scale
        assert wrong <= float(out.error) + 1e-10 * scale


def test_a_wrong_noise_is_rejected_by_the_same_comparison() -> None:
    _, f, kinks = FAMILIES["gelu"]
    loadings, own = draw(4, 1.0, 0.3, 1)
    want = exact([f] * 4, [kinks] * 4, loadings, own)
    out = half_space_expectation([(HalfSpaceTerm(1, 1, 1.001),)] * 4, covariance(loadings, own))
    assert abs(float(out.value) - want) > 1e-6 * abs(want)


def test_mixed_functions_and_wick() -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(5, 4, 6, generator=g, dtype=torch.float64)
    K = x @ x.mT / 6
    line, square = (HalfSpaceTerm(1, 1),), (HalfSpaceTerm(1, 2),)
    wick = K[:, 0, 1] * K[:, 2, 3] + K[:, 0, 2] * K[:, 1, 3] + K[:, 0, 3] * K[:, 1, 2]
    assert torch.allclose(half_space_expectation([line] * 4, K).value, wick, rtol=1e-13)
    want = K[:, 0, 0] * K[:, 1, 1] + 2 * K[:, 0, 1] ** 2
    assert torch.allclose(half_space_expectation([square] * 2, K[:, :2, :2]).value, want, rtol=1e-13)
    # <z_0 step(z_1)> = K_01/sqrt(2 pi K_11).
    mixed = half_space_expectation([line, (HalfSpaceTerm(1, 0, 0.0),)], K[:, :2, :2])
    assert torch.allclose(mixed.value, K[:, 0, 1] / (2 * math.pi * K[:, 1, 1]).sqrt(), rtol=1e-13)


def test_four_sines_and_cosines() -> None:
    g = torch.Generator().manual_seed(4)
    x = torch.randn(7, 4, 5, generator=g, dtype=torch.float64)
    K = x @ x.mT / 5
    quadratic = torch.exp(-torch.einsum("si,rij,sj->rs", SIGNS, K, SIGNS) / 2)
    sine, cosine = ((-0.5j, 1j), (0.5j, -1j)), ((0.5, 1j), (0.5, -1j))
    out = exponential_expectation([sine] * 4, K)
    assert torch.all((out.value - (quadratic * SIGNS.prod(dim=1)).sum(dim=1) / 16).abs() <= out.error)
    assert torch.allclose(exponential_expectation([cosine] * 4, K).value, quadratic.sum(dim=1) / 16, rtol=1e-13)
    grow = exponential_expectation([((1.0, 1.0),)] * 4, K)
    assert torch.allclose(grow.value, torch.exp(K.sum(dim=(1, 2)) / 2), rtol=1e-13)


def test_bumps() -> None:
    K = torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    want = math.prod((1 + 2 * q * k) ** -0.5 for q, k in ((1.0, 0.5), (2.0, 1.0), (0.5, 2.0)))
    assert float(bump_expectation((1.0, 2.0, 0.5), K).value) == pytest.approx(want, rel=1e-14)
