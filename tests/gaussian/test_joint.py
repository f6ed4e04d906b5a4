"""Three and four variables without a closed form: lattices, sampling, equal variables, refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from gaussian.one_factor import covariance, draw, exact
from leadline.gaussian import expectation, expectation2, joint_expectation, mean_cross_product
from leadline.gaussian.joint import _sample, holder_scale
from leadline.gaussian.sampling import correlation_root, normal_points

CASES = {
    "tanh": (torch.tanh, ()),
    "silu": (torch.nn.functional.silu, ()),
    "elu": (torch.nn.functional.elu, (0.0,)),
    "hardtanh": (lambda z: z.clamp(-1, 1), (-1.0, 1.0)),
}
SETTINGS = [(0.1, 0.3, 0), (1.0, 0.9, 1), (10.0, 0.3, 2)]


def case(name: str, variables: int):
    """Functions, kinks, covariances and exact values."""
    f, kinks = CASES[name]
    drawn = [draw(variables, *s) for s in SETTINGS]
    want = torch.tensor([exact([f] * variables, [kinks] * variables, *d) for d in drawn], dtype=torch.float64)
    return [f] * variables, [kinks] * variables, torch.stack([covariance(*d) for d in drawn]), want


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("variables", [3, 4])
def test_within_tolerance_and_error(name: str, variables: int) -> None:
    fs, kinks, K, want = case(name, variables)
    out = joint_expectation(fs, K, kinks=kinks)
    wrong, scale = (out.value - want).abs(), holder_scale(fs, K, kinks)
    assert torch.all(wrong <= 1e-4 * scale)
    assert torch.all(wrong <= out.error)


@pytest.mark.parametrize("name", ["tanh", "hardtanh"])
def test_sampling_alone_agrees_within_its_standard_errors(name: str) -> None:
    fs, kinks, K, want = case(name, 4)
    scale = holder_scale(fs, K, kinks)
    out = _sample(fs, K, scale, 1e-3, 0, 1 << 13)
    assert torch.all((out.value - want).abs() <= 5 / 3 * out.error)
    assert torch.all(out.error <= 3e-3 * scale)
    # What is off by 1 % of the scale is rejected by the same errors.
    assert torch.all((out.value + 0.01 * scale - want).abs() > 5 / 3 * out.error)


def test_sampling_is_repeatable_and_seeds_differ() -> None:
    fs, _, K, _ = case("tanh", 4)
    scale = torch.ones(3, dtype=torch.float64)
    one, again, other = (_sample(fs, K, scale, 1.0, seed, 2048).value for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_points_are_normal_and_roots_are_roots() -> None:
    batches = list(normal_points(3, 2, 256, 1024, seed=5))
    x = torch.cat(batches, dim=1)
    assert x.shape == (2, 1024, 3)
    assert torch.isfinite(x).all()
    second = x.mT @ x / 1024
    assert torch.allclose(second, torch.eye(3, dtype=torch.float64).expand(2, 3, 3), atol=0.03)
    g = torch.Generator().manual_seed(2)
    y = torch.randn(6, 4, 2, generator=g, dtype=torch.float64)
    K = y @ y.mT
    sd, factor = correlation_root(K)
    root = sd[:, :, None] * factor
    assert torch.allclose(root @ root.mT, K, rtol=0, atol=1e-12)
    assert torch.all(factor[:, :, 2:].abs() < 1e-6)


def test_equal_variables_are_merged() -> None:
    K2 = torch.tensor([[1.3, 0.4], [0.4, 0.8]], dtype=torch.float64)
    index = torch.tensor([0, 1, 0, 0])
    out = joint_expectation([torch.tanh] * 4, K2[index][:, index])
    want = mean_cross_product(lambda z: torch.tanh(z) ** 3, torch.tanh, K2[0, 0], K2[0, 1], K2[1, 1])
    assert abs(float(out.value - want.value)) <= 1e-10
    assert float(out.error) <= 1e-10
    same = joint_expectation([torch.tanh] * 4, torch.full((4, 4), 2.0, dtype=torch.float64))
    fourth = expectation(lambda z: torch.tanh(z) ** 4, torch.tensor(2.0, dtype=torch.float64))
    assert abs(float(same.value - fourth.value)) <= 1e-12


def test_singular_covariances() -> None:
    # z_2 = -z_0 and z_3 = z_0 + z_1: rank 2, no two equal.
    A = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [1, 1]], dtype=torch.float64)
    out = joint_expectation([torch.tanh] * 4, A @ A.mT)
    x, w = torch.arange(-8, 8.01, 0.05, dtype=torch.float64), 0.05 / math.sqrt(2 * math.pi)
    a, b = x[:, None], x[None, :]
    weight = w * w * torch.exp(-(a * a + b * b) / 2)
    want = (weight * -(torch.tanh(a) ** 2) * torch.tanh(b) * torch.tanh(a + b)).sum()
    assert abs(float(out.value - want)) <= float(out.error) <= 1e-4
    assert torch.isfinite(joint_expectation([torch.tanh] * 3, torch.zeros(3, 3)).value)


def test_five_variables() -> None:
    loadings, own = draw(5, 1.0, 0.5, 3)
    want = exact([torch.sigmoid] * 5, [()] * 5, loadings, own)
    out = joint_expectation([torch.sigmoid] * 5, covariance(loadings, own), rtol=1e-3)
    assert abs(float(out.value) - want) <= 5 / 3 * float(out.error)


def test_permuted_variables_and_functions() -> None:
    fs = [torch.tanh, torch.nn.functional.silu, torch.sigmoid, torch.atan]
    K = covariance(*draw(4, 1.0, 0.6, 7))
    base = joint_expectation(fs, K)
    for order in ((3, 1, 0, 2), (1, 0, 3, 2)):
        index = torch.tensor(order)
        other = joint_expectation([fs[i] for i in order], K[index][:, index])
        assert abs(float(base.value - other.value)) <= float(base.error + other.error)


def test_cross_products() -> None:
    pairs = [("tanh", "elu"), ("hardtanh", "silu")]
    a, b = torch.tensor([0.3, 1.0, 4.0, 1.0]).double(), torch.tensor([2.0, 1.0, 0.5, 1.0]).double()
    rho = torch.tensor([0.4, -0.999, 0.99, 1.0], dtype=torch.float64)
    c = rho * (a * b).sqrt()
    for (f, kf), (g, kg) in ((CASES[m], CASES[n]) for m, n in pairs):
        out = mean_cross_product(f, g, a, c, b, kinks_f=kf, kinks_g=kg)
        want = expectation2(f, g, a, c, b, kinks_f=kf, kinks_g=kg)
        assert torch.all((out.value - want.value).abs() <= 1e-10 + out.error + want.error)


def test_float32_and_missing_rows() -> None:
    K = covariance(*draw(3, 1.0, 0.6, 7))
    batch = torch.stack([K, torch.full_like(K, math.nan), K])
    wide, narrow = joint_expectation([torch.tanh] * 3, batch), joint_expectation([torch.tanh] * 3, batch.float())
    assert torch.isnan(wide.value).tolist() == [False, True, False]
    assert torch.isinf(wide.error).tolist() == [False, True, False]
    assert narrow.value.dtype == torch.float32
    assert abs(float(narrow.value[0]) - float(wide.value[0])) <= 1e-6


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"shape \(..., 3, 3\) for 3 functions, got \(2, 2\)"):
        joint_expectation([torch.tanh] * 3, torch.eye(2))
    bad = torch.tensor([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"eigenvalue of -0\.8"):
        joint_expectation([torch.tanh] * 3, bad)
    with pytest.raises(ValueError, match="one sequence for each of 3 functions, got 1"):
        joint_expectation([torch.tanh] * 3, torch.eye(3), kinks=[()])


def test_all_patterns_of_equality() -> None:
    base = covariance(*draw(4, 1.0, 0.6, 9))
    index = torch.tensor(list(itertools.product(range(2), repeat=3)))
    batch = base[index[:, :, None], index[:, None, :]]
    out = joint_expectation([torch.tanh] * 3, batch)
    for i, pick in enumerate(index.tolist()):
        zeros = pick.count(0)
        f, g = (lambda z, n=n: torch.tanh(z) ** n for n in (zeros, 3 - zeros))
        want = mean_cross_product(f, g, base[0, 0], base[0, 1], base[1, 1]).value
        assert abs(float(out.value[i] - want)) <= 1e-9


def test_what_few_points_carry_is_not_called_exact() -> None:
    # Three of four jumps nearly exclude each other: the probability, .0067, fits between the points of a lattice.
    g = torch.Generator().manual_seed(0)
    A = torch.randn(200, 4, 2, generator=g, dtype=torch.float64)
    angle = (torch.arange(100_000, dtype=torch.float64) + 0.5) * (2 * math.pi / 100_000)
    want = ((A @ torch.stack([angle.cos(), angle.sin()])) > 0).all(dim=1).double().mean(dim=1)
    rare = ((want > 0) & (want < 0.02)).nonzero().reshape(-1)[:2]
    assert rare.numel() == 2
    step = lambda z: (z > 0).to(z.dtype)  # noqa: E731
    out = joint_expectation([step] * 4, (A @ A.mT)[rare], kinks=[(0.0,)] * 4, rtol=1e-3)
    assert torch.all((out.value - want[rare]).abs() <= out.error + 2e-5)
    assert torch.all(out.error > 0)


def test_vanishing_variances_take_the_mean_of_the_one_sided_limits() -> None:
    K = torch.diag(torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64))
    step = lambda z: (z > 0).to(z.dtype)  # noqa: E731
    out = joint_expectation([torch.sigmoid, step, torch.sigmoid], K, kinks=[(), (0.0,), ()])
    assert abs(float(out.value) - 0.125) <= float(out.error) + 1e-12
    assert float(out.error) <= 1e-4
