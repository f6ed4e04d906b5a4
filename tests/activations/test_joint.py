"""Products of activations of several variables and of their derivatives at two points."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaussian.one_factor import covariance, draw, exact
from leadline.activations import REGISTRY, activation, four_point, joint_moment, mixed_moment
from leadline.activations.half_spaces import multiply
from leadline.gaussian import joint_expectation

CLOSED = ("identity", "relu", "leaky_relu", "abs", "step", "sign", "relu_squared", "square", "cube", "erf", "gelu",
          "sin", "cos", "exp", "gaussian")  # fmt: skip
HOMOGENEOUS = ("identity", "relu", "leaky_relu", "abs", "prelu")
KNOTTED = ("hardtanh", "relu6", "hardsigmoid", "hardswish", "softshrink")
OTHERS = ("tanh", "silu", "softplus", "elu", "mish")


def scale_of(act, K: torch.Tensor) -> torch.Tensor:
    d = K.diagonal(dim1=-2, dim2=-1)
    return (act.fourth_moment(d) ** 0.25).prod(dim=-1)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("variables", [3, 4])
def test_closed_families_against_the_common_factor(name: str, variables: int) -> None:
    act = activation(name)
    for size, shared, seed in ((0.2, 0.3, 0), (1.0, 0.95, 1), (0.6, 0.999, 2)):
        loadings, own = draw(variables, size, shared, seed)
        K = covariance(loadings, own)
        want = exact([act.fn] * variables, [act.kinks] * variables, loadings, own)
        out = joint_moment([act] * variables, K)
        wrong, scale = abs(float(out.value) - want), float(scale_of(act, K))
        assert wrong <= 3e-10 * scale
        assert wrong <= float(out.error) + 2e-10 * scale


@pytest.mark.parametrize("name", KNOTTED)
def test_knots_away_from_0_against_the_common_factor(name: str) -> None:
    act = activation(name)
    four = {"hardtanh": [(4, 1.0, 0.3)], "softshrink": [(4, 0.01, 0.9)]}
    for variables, size, shared in ((3, 0.5, 0.9), *four.get(name, [])):
        loadings, own = draw(variables, size, shared, 1)
        out = joint_moment([act] * variables, covariance(loadings, own))
        wrong = abs(float(out.value) - exact([act.fn] * variables, [act.kinks] * variables, loadings, own))
        scale = float(scale_of(act, covariance(loadings, own)))
        assert wrong <= 3e-10 * scale
        assert wrong <= float(out.error) + 1e-10 * scale


def test_bounded_functions_far_beyond_their_knots() -> None:
    act = activation("hardtanh")
    loadings, own = draw(4, 1e5, 0.9, 1)
    K = covariance(loadings, own)
    want = exact([act.fn] * 4, [act.kinks] * 4, loadings, own)
    out, scale = joint_moment([act] * 4, K), float(scale_of(act, K))
    assert abs(float(out.value) - want) <= float(out.error) <= 1e-7 * scale
    assert abs(float(joint_moment([activation("sign")] * 4, K).value) - want) > 1e-7 * scale  # negative control


def test_products_of_half_space_terms_are_those_of_the_functions() -> None:
    z = torch.linspace(-4, 4, 161, dtype=torch.float64) + 1e-3
    acts = [activation(n) for n in ("hardtanh", "softshrink", "relu6", "relu")]
    for some in itertools.chain(itertools.combinations(acts, 2), [acts]):
        terms = multiply([a.half_space_terms or () for a in some])
        found = sum(
            t.coefficient * z**t.power * (1.0 if t.noise is None else (t.side * (z - t.limit) > 0).double())
            for t in terms
        )
        assert torch.allclose(torch.as_tensor(found), torch.stack([a.fn(z) for a in some]).prod(0), atol=1e-13)


@pytest.mark.parametrize("name", ["relu", "gelu", "sin"])
def test_closed_family_against_the_lattice(name: str) -> None:
    act = activation(name)
    g = torch.Generator().manual_seed(5)
    x = torch.randn(4, 4, 6, generator=g, dtype=torch.float64)
    K = x @ x.mT / 6
    closed, plain = joint_moment([act] * 4, K), joint_expectation([act.fn] * 4, K, kinks=[act.kinks] * 4)
    assert torch.all((closed.value - plain.value).abs() <= closed.error + plain.error)
    assert torch.all(closed.error < plain.error)


def test_different_activations_in_one_product() -> None:
    acts = [activation(n) for n in ("relu", "erf", "gelu", "step")]
    loadings, own = draw(4, 1.0, 0.6, 3)
    want = exact([a.fn for a in acts], [a.kinks for a in acts], loadings, own)
    assert float(joint_moment(acts, covariance(loadings, own)).value) == pytest.approx(want, abs=1e-10)


def test_lost_digits_of_a_closed_form_are_made_good() -> None:
    # At variances of 1e-8 the sines' exponentials cancel; what is left is nearly Wick's theorem.
    loadings, own = draw(4, 1e-8, 0.5, 3)
    K = covariance(loadings, own)
    out = joint_moment([activation("sin")] * 4, K)
    wick = K[0, 1] * K[2, 3] + K[0, 2] * K[1, 3] + K[0, 3] * K[1, 2]
    assert abs(float(out.value - wick)) <= 2e-4 * float(scale_of(activation("sin"), K))


@pytest.mark.parametrize("name", ["relu", "step", "square"])
def test_singular_covariances_of_homogeneous_functions(name: str) -> None:
    # Four variables in a plane: in polar coordinates one integral over the angle is left.
    act = activation(name)
    g = torch.Generator().manual_seed(0)
    A = torch.randn(3, 4, 2, generator=g, dtype=torch.float64)
    A[2, 1] = -A[2, 0]
    angle = (torch.arange(400_000, dtype=torch.float64) + 0.5) * (2 * math.pi / 400_000)
    z = A @ torch.stack([angle.cos(), angle.sin()])
    degree = 4 * {"step": 0, "square": 2}.get(name, 1)
    want = math.prod(range(2, degree + 1, 2)) * act(z).prod(dim=1).mean(dim=1)
    K = A @ A.mT
    out = joint_moment([act] * 4, K)
    scale = scale_of(act, K)
    assert torch.all((out.value - want).abs() <= 1e-4 * scale)
    assert torch.all((out.value - want).abs() <= out.error + 2e-5 * scale)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_four_point_of_several_inputs(name: str) -> None:
    act = activation(name)
    g = torch.Generator().manual_seed(6)
    x = torch.randn(4, 6, generator=g, dtype=torch.float64)
    K = torch.stack([x @ x.T / 6, torch.eye(4, dtype=torch.float64)])
    out = four_point(act, K)
    assert out.value.shape == (2, 4, 4, 4, 4)
    for order in itertools.permutations(range(4)):
        moved = out.value.permute(0, *(1 + i for i in order))
        assert torch.equal(moved, out.value)
    d = K.diagonal(dim1=-2, dim2=-1)
    idx = torch.arange(4)
    assert torch.allclose(out.value[:, idx, idx, idx, idx], act.fourth_moment(d), rtol=1e-9)
    # Independent inputs factorise.
    second, mean = act.second_moment(torch.ones(())), act.mean(torch.ones(()))
    assert float(out.value[1, 0, 0, 1, 1]) == pytest.approx(float(second) ** 2, rel=1e-6)
    assert float(out.value[1, 0, 1, 2, 3]) == pytest.approx(float(mean) ** 4, abs=1e-4)


def test_monte_carlo_agrees_and_rejects_the_wrong_activation() -> None:
    g = torch.Generator().manual_seed(7)
    x = torch.randn(4, 5, generator=g, dtype=torch.float64)
    K = x @ x.T / 5
    z = torch.randn(400_000, 4, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(K).T
    silu, gelu = activation("silu"), activation("gelu")
    sample = silu(z).prod(dim=1)
    mean, error = float(sample.mean()), float(sample.std()) / math.sqrt(len(z))
    right, wrong = (joint_moment([a] * 4, K) for a in (silu, gelu))
    assert abs(mean - float(right.value)) <= 4 * error + float(right.error)
    assert abs(mean - float(wrong.value)) > 4 * error + float(wrong.error)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), name=st.sampled_from((*CLOSED, *OTHERS)), m=st.sampled_from((3, 4)))
def test_permutations_of_variables(seed: int, name: str, m: int) -> None:
    act = activation(name)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(m, 5, generator=g, dtype=torch.float64)
    K = 0.5 * x @ x.T / 5
    order = torch.randperm(m, generator=g)
    one, two = joint_moment([act] * m, K, rtol=1e-3), joint_moment([act] * m, K[order][:, order], rtol=1e-3)
    assert abs(float(one.value - two.value)) <= float(one.error + two.error)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), k=st.floats(1e-3, 1e3), name=st.sampled_from(HOMOGENEOUS))
def test_homogeneity(seed: int, k: float, name: str) -> None:
    act = activation(name)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 5, generator=g, dtype=torch.float64)
    K = x @ x.T / 5
    one, scaled = joint_moment([act] * 4, K), joint_moment([act] * 4, k * K)
    assert abs(float(scaled.value / k**2 - one.value)) <= 1e-10 * float(scale_of(act, K))


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), name=st.sampled_from((*CLOSED, *OTHERS)))
def test_float32_against_float64(seed: int, name: str) -> None:
    act = activation(name)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 5, generator=g, dtype=torch.float64)
    K = (0.5 * x @ x.T / 5).float()
    narrow, wide = joint_moment([act] * 3, K), joint_moment([act] * 3, K.double())
    assert narrow.value.dtype == torch.float32
    assert abs(float(narrow.value) - float(wide.value)) <= 1.01 * float(narrow.error) + 1e-12


A = torch.tensor([1.0, 0.7, 2.0], dtype=torch.float64)
B = torch.tensor([1.3, 0.7, 2.5], dtype=torch.float64)
C = torch.tensor([0.4, -0.8, 0.9], dtype=torch.float64) * (A * B).sqrt()


def test_derivatives_of_relu_in_closed_form() -> None:
    relu = activation("relu")
    root = (A * B - C * C).sqrt()
    exactly = {
        (2, 2): 1 / (2 * math.pi * root),
        (2, 0): root / (2 * math.pi * A),
        (2, 1): 0.5 / (2 * math.pi * A).sqrt(),
        (1, 1): relu.dual_derivative(A, C, B),
        (0, 0): relu.dual(A, C, B),
    }
    for orders, want in exactly.items():
        out = mixed_moment(relu, orders, A, C, B)
        assert torch.all((out.value - want).abs() <= 1e-11 + out.error)
        assert torch.allclose(mixed_moment(relu, orders[::-1], B, C, A).value, out.value, rtol=1e-11)


@pytest.mark.parametrize("name", ["tanh", "gelu", "elu", "hardtanh"])
def test_derivatives_against_differences_of_the_dual(name: str) -> None:
    A, B = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([1.3, 2.5], dtype=torch.float64)
    C = torch.tensor([0.4, -0.8], dtype=torch.float64) * (A * B).sqrt()
    dual, h = activation(name).dual, 1e-3
    differences = {
        (2, 0): (dual(A + h, C, B) - dual(A - h, C, B)) / h,
        (2, 2): (dual(A, C + h, B) - 2 * dual(A, C, B) + dual(A, C - h, B)) / h**2,
        (4, 0): 4 * (dual(A + h, C, B) - 2 * dual(A, C, B) + dual(A - h, C, B)) / h**2,
        (3, 1): (dual(A + h, C + h, B) - dual(A + h, C - h, B) - dual(A - h, C + h, B) + dual(A - h, C - h, B))
        / (2 * h * h),
    }
    for orders, want in differences.items():
        out = mixed_moment(activation(name), orders, A, C, B)
        assert torch.all((out.value - want).abs() <= 2e-4 * (1 + want.abs()))


@pytest.mark.parametrize("name", sorted({b().name: n for n, b in REGISTRY.names.items()}.values()))
def test_second_derivatives_at_equal_points(name: str) -> None:
    act = activation(name)
    if act.jumps:
        with pytest.raises(ValueError, match="is infinite: it jumps at"):
            mixed_moment(act, (2, 0), 1.0, 0.5, 1.0)
        return
    out = mixed_moment(act, (2, 0), A, A, A)
    scale = act.derivative_moment(A)
    assert torch.all((out.value - act.value_curvature(A)).abs() <= 1e-10 * scale + out.error)


def test_what_is_infinite_says_so() -> None:
    out = mixed_moment(activation("relu"), (2, 2), 1.0, 1.0, 1.0)
    assert math.isinf(float(out.error))
    with pytest.raises(ValueError, match=r"sum of at most 4, got \(3, 2\)"):
        mixed_moment(activation("tanh"), (3, 2), 1.0, 0.5, 1.0)
