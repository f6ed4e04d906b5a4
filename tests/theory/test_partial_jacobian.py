"""Averaged partial Jacobians at infinite width: recursion, exponents, correlation lengths."""

from __future__ import annotations

import math

import pytest
import torch

from leadline.activations import activation
from leadline.theory.criticality import Norm, critical_point
from leadline.theory.jacobian import JacobianLaw, LawKind, Phase, jacobian_law, partial_jacobian

BEFORE, AFTER = "layer_norm_before", "layer_norm_after"


@pytest.mark.parametrize(("name", "C_W", "C_b", "norm", "residual", "layers", "J", "digits"), [
    ("tanh", 1.5, 0.1, "none", 0.0, 12, 0.139, 3), ("tanh", 1.0, 0.0, "none", 0.0, 12, 0.0597, 4), ("relu", 2.0, 0.0, BEFORE, 1.0, 6, 7.0, 9),
    ("relu", 2.0, 0.0, "none", 0.0, 12, 1.0, 9),
])  # fmt: skip
def test_checked_values(
    name: str, C_W: float, C_b: float, norm: str, residual: float, layers: int, J: float, digits: int
) -> None:
    found = float(partial_jacobian(name, layers, C_W=C_W, C_b=C_b, K=1.0, norm=norm, residual=residual).J[-1])
    assert round(found, digits) == pytest.approx(J, rel=1e-9)


def test_hand_made_recursions() -> None:
    relu = partial_jacobian("relu", 4, C_W=2.0, norm=BEFORE, residual=1.0, K=1.0)
    assert relu.K.tolist() == pytest.approx([1, 2, 3, 4, 5])  # K grows by C_W/2
    assert relu.chi_perp.tolist() == pytest.approx([2, 3 / 2, 4 / 3, 5 / 4])
    assert relu.J.tolist() == pytest.approx([1, 2, 3, 4, 5])
    assert float(relu.between(1, 3)) == pytest.approx(2)
    after = partial_jacobian("relu", 2, C_W=1.0, C_b=0.5, norm=AFTER, K=2.0)
    assert after.K.tolist() == pytest.approx([2, 1.5, 1.5])
    factor = 0.5 / (0.5 - 1 / (2 * math.pi))
    assert after.chi_perp.tolist() == pytest.approx([factor / 2, factor / 1.5])
    rms = partial_jacobian("relu", 2, C_W=1.0, C_b=0.5, norm="rms_norm_after", K=2.0)
    assert rms.chi_perp.tolist() == pytest.approx([1 / 2, 1 / 1.5])


def test_shapes_broadcast_and_equal_the_single_ones() -> None:
    C_W = torch.tensor([0.9, 1.5, 2.5], dtype=torch.float64)
    many = partial_jacobian("tanh", 5, C_W=C_W[:, None], C_b=torch.tensor([0.0, 0.1]), K=0.7)
    assert many.log_J.shape == (6, 3, 2)
    one = partial_jacobian("tanh", 5, C_W=1.5, C_b=0.1, K=0.7)
    assert torch.allclose(many.log_J[:, 1, 1], one.log_J, rtol=1e-7)  # 0.1 in single precision
    assert torch.allclose(one.J[-1], one.between(0, 2) * one.between(2, 5))


CASES = [
    ("relu", 2.0, 0.0, BEFORE, 1.0), ("relu", 2.0, 0.5, BEFORE, 1.0), ("tanh", 1.5, 0.0, BEFORE, 1.0),
    ("gelu", 2.0, 0.1, BEFORE, 1.0), ("gelu", 2.0, 0.0, "rms_norm_before", 1.0), ("relu", 2.0, 0.3, AFTER, 1.0),
    ("relu", 2.0, 0.3, "rms_norm_after", 1.0), ("tanh", 1.0, 0.0, "none", 0.0), ("erf", math.pi / 4, 0.0, "none", 0.0),
    ("elu", 1.0, 0.0, "none", 0.0), ("relu", 2.0, 0.0, "none", 0.0), ("tanh", 0.51, 0.0, "none", 0.7),
    ("relu", 2.0, 0.0, BEFORE, 0.0), ("relu", 1.0, 0.0, BEFORE, 0.8),
]  # fmt: skip


def local_zeta(case: tuple[str, float, float, str, float]) -> float:
    name, C_W, C_b, norm, residual = case
    p = partial_jacobian(name, 2000, C_W=C_W, C_b=C_b, norm=norm, residual=residual)
    return -float(p.between(500, 2000).log()) / math.log(4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exponents_against_iteration(case: tuple[str, float, float, str, float]) -> None:
    name, C_W, C_b, norm, residual = case
    law = jacobian_law(name, C_W, C_b, norm=norm, residual=residual)
    assert law.kind is LawKind.power
    assert law.phase is Phase.critical
    assert law.correlation_length == math.inf
    assert law.zeta is not None
    found = local_zeta(case)
    assert found == pytest.approx(law.zeta, abs=0.01)
    assert found != pytest.approx(law.zeta + 0.05, abs=0.01)


def test_published_exponents() -> None:
    """At a full skip with LayerNorm before: -zeta = 1, 2/3, 1.178, 1.072."""
    zetas = [jacobian_law(n, 2.0, b, norm=BEFORE, residual=1.0).zeta for n, b in
             (("relu", 0.0), ("relu", 0.5), ("tanh", 0.0), ("gelu", 0.0))]  # fmt: skip
    assert [-(z or 0) for z in zetas] == pytest.approx([1, 2 / 3, 1.178, 1.072], abs=5e-4)


@pytest.mark.parametrize("case", [
    ("tanh", 1.5, 0.1, "none", 0.0), ("tanh", 2.5, 0.05, "none", 0.0), ("gelu", 1.5, 0.1, "none", 0.0), ("relu", 1.6, 0.1, "none", 0.0),
    ("tanh", 0.6, 0.1, "none", 0.7), ("tanh", 1.5, 0.1, BEFORE, 0.8), ("gelu", 1.0, 0.3, AFTER, 0.5), ("relu", 2.0, 0.0, "none", 1.0),
    ("gelu", 1.0, 0.0, "none", 1.0),
], ids=str)  # fmt: skip
def test_correlation_lengths_against_iteration(case: tuple[str, float, float, str, float]) -> None:
    name, C_W, C_b, norm, residual = case
    law = jacobian_law(name, C_W, C_b, norm=norm, residual=residual)
    p = partial_jacobian(name, 140, C_W=C_W, C_b=C_b, norm=norm, residual=residual)
    rate = float(p.between(100, 140).log()) / 40
    assert law.kind is LawKind.exponential
    assert law.phase is (Phase.chaotic if rate > 0 else Phase.ordered)
    assert law.correlation_length == pytest.approx(1 / abs(rate), rel=2e-3)


@pytest.mark.parametrize(("norm", "C_W", "C_b"), [("none", 2.0, 0.3), (AFTER, 2.0, 0.3), (AFTER, 1.0, 0.0)])
def test_stretched_exponentials_of_a_full_skip(norm: str, C_W: float, C_b: float) -> None:
    law: JacobianLaw = jacobian_law("tanh", C_W, C_b, norm=norm, residual=1.0)
    assert law.kind is LawKind.stretched
    assert law.stretch == 0.5
    p = partial_jacobian("tanh", 8000, C_W=C_W, C_b=C_b, norm=norm, residual=1.0)
    found = float(p.between(4000, 8000).log()) / (8000**0.5 - 4000**0.5)
    assert law.rate == pytest.approx(found, rel=0.01)
    assert law.rate != pytest.approx(1.05 * found, rel=0.01)


def test_the_marginal_and_half_stable_classes_keep_gradients() -> None:
    for name in ("hardtanh", "gelu", "silu"):
        p = critical_point(name)
        law = jacobian_law(name, p.C_W or 0, p.C_b or 0, K=p.K or 1.0)
        assert (law.phase, law.zeta) == (Phase.critical, 0.0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="depth must be 0 or more"):
        partial_jacobian("tanh", -1, C_W=1.0)
    with pytest.raises(ValueError, match="variances"):
        partial_jacobian("tanh", 1, C_W=-1.0)
    with pytest.raises(ValueError, match="0 <= first <= last"):
        partial_jacobian("tanh", 2, C_W=1.0).between(2, 1)
    with pytest.raises(ValueError, match="must be > 0"):
        jacobian_law("tanh", 0.0)
    with pytest.raises(ValueError, match="infinite"):
        partial_jacobian("step", 2, C_W=1.0)
    assert list(Norm) == ["none", BEFORE, AFTER, "rms_norm_before", "rms_norm_after"]
    assert activation("tanh").name == "tanh"
