"""Averaged partial Jacobians of real networks against infinite width, with the accounts that must be rejected."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import leadline as ll
from leadline.theory.criticality import Norm, critical_point
from leadline.theory.jacobian import Phase, jacobian_law, partial_jacobian
from theory.layer_networks import ACTS, Layer, Stack, law


@dataclass(frozen=True)
class Case:
    act: str
    C_W: float
    C_b: float
    norm: str = "none"
    residual: float = 0.0
    K: float = 1.0


def _name(value: object) -> str:
    return f"{value.act}-{value.norm}-{value.residual:g}" if isinstance(value, Case) else ""


def measured(case: Case, width: int, depth: int, draws: int, seed: int = 0) -> list[tuple[float, float]]:
    """(J, standard error) from each layer 0 … depth - 1 to the last."""
    torch.manual_seed(seed)
    model, x = Stack(width, depth, case.act, case.norm, case.residual), torch.ones(1, 8) * case.K**0.5
    program = ll.trace(model, x, law=law(depth, case.C_W, case.C_b))
    found = ll.measure(model, x, draws=draws, seed=seed, program=program, probes=2)
    stream = [r for r in found.rows if r.op == ("add" if case.residual else "linear") or r.layer == "first"]
    return [(r.values["partial_jacobian"].value, r.values["partial_jacobian"].error) for r in stream[:-1]]


def predicted(case: Case, depth: int) -> list[float]:
    p = partial_jacobian(
        ACTS[case.act], depth, C_W=case.C_W, C_b=case.C_b, K=case.K, norm=case.norm, residual=case.residual
    )
    return [float(p.between(i, depth)) for i in range(depth)]


def worst(want: list[float], have: list[tuple[float, float]]) -> float:
    return max(abs(w - v) / e for w, (v, e) in zip(want, have, strict=True))


QUICK = [
    (Case("tanh", 1.5, 0.1), [Case("tanh", 1.3, 0.1), Case("tanh", 1.5, 0.3)]),
    (
        Case("gelu", 2.0, 0.1, "layer_norm_before"),
        [Case("gelu", 2.0, 0.1), Case("gelu", 2.0, 0.5, "layer_norm_before")],
    ),
    (
        Case("relu", 2.0, 0.2, "layer_norm_after", 0.8),
        [Case("relu", 2.0, 0.2, "rms_norm_after", 0.8), Case("relu", 2.0, 0.2, "layer_norm_after", 0.4)],
    ),
]
DEEP = [
    *QUICK,
    (Case("tanh", 1.0, 0.0), [Case("tanh", 1.15, 0.0)]),
    (Case("relu", 2.0, 0.0), [Case("relu", 2.4, 0.0)]),
    (Case("relu", 2.0, 0.5, "layer_norm_before", 1.0), [Case("relu", 2.0, 0.0, "layer_norm_before", 1.0)]),
    (Case("gelu", 2.0, 0.0, "layer_norm_before", 1.0), [Case("gelu", 2.0, 0.0, "none", 1.0)]),
    (Case("relu", 1.0, 0.0, "layer_norm_before", 0.8), [Case("relu", 1.0, 0.0, "layer_norm_before", 0.6)]),
    (Case("erf", 2.0, 0.3, "layer_norm_after", 1.0), [Case("erf", 2.0, 0.3, "layer_norm_before", 1.0)]),
    (Case("tanh", 1.5, 0.1, "rms_norm_before"), [Case("tanh", 1.5, 0.1)]),
    (Case("relu", 1.5, 0.1, "rms_norm_after"), [Case("relu", 1.5, 0.1, "layer_norm_after")]),
    (Case("tanh", 0.6, 0.05, "none", 0.7), [Case("tanh", 0.6, 0.05)]),
]


@pytest.mark.parametrize(("case", "wrong"), QUICK, ids=_name)
def test_networks_agree_with_the_recursion_and_reject_wrong_ones(case: Case, wrong: list[Case]) -> None:
    have = measured(case, width=192, depth=5, draws=48)
    assert worst(predicted(case, 5), have) < 4
    for other in wrong:
        assert worst(predicted(other, 5), have) > 6, other


@pytest.mark.slow
@pytest.mark.parametrize(("case", "wrong"), DEEP, ids=_name)
def test_deep_networks_agree_after_extrapolation_in_the_width(case: Case, wrong: list[Case]) -> None:
    """J(2n) twice, less J(n), has no correction of order 1/n; eight layers, 400 networks a width."""
    small, large = (measured(case, n, 8, 400, seed=n) for n in (128, 256))
    have = [(2 * b - a, (4 * f**2 + e**2) ** 0.5) for (a, e), (b, f) in zip(small, large)]
    assert max(e / v for v, e in have) < 0.15
    assert worst(predicted(case, 8), have) < 4
    for other in wrong:
        assert worst(predicted(other, 8), have) > 6, other


@pytest.mark.slow
@pytest.mark.parametrize(("act", "C_W", "C_b", "phase"), [
    ("tanh", 0.8, 0.1, Phase.ordered), ("tanh", 2.2, 0.02, Phase.chaotic), ("gelu", 1.5, 0.1, Phase.ordered),
])  # fmt: skip
def test_the_phase_is_that_of_real_networks(act: str, C_W: float, C_b: float, phase: Phase) -> None:
    form = jacobian_law(ACTS[act], C_W, C_b)
    assert form.phase is phase
    case = Case(act, C_W, C_b, K=form.K)  # start at the fixed point: J is a pure exponential
    have = measured(case, width=256, depth=10, draws=60)
    for i, (value, error) in enumerate(have):
        want = form.chi_perp ** (10 - i)
        assert abs(value - want) < 4 * error, i
    assert abs(have[0][0] - 1) > 6 * have[0][1]  # not critical


@pytest.mark.slow
def test_gelu_keeps_its_gradients_at_its_critical_point_and_only_there() -> None:
    p = critical_point("gelu")
    assert p.C_W is not None
    assert p.C_b is not None
    assert p.K is not None
    case = Case("gelu", p.C_W, p.C_b, K=p.K)
    have = measured(case, width=256, depth=12, draws=80)
    for value, error in have:
        assert abs(value - 1) < 4 * error
    away = measured(Case("gelu", 4.0 / 2.2, p.C_b, K=p.K), width=256, depth=12, draws=80)
    assert abs(away[0][0] - 1) > 6 * away[0][1]


def test_the_norms_are_those_of_torch() -> None:
    h = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    layer = Layer(64, "relu", "rms_norm_after", 0.0)
    z = torch.relu(h)
    assert torch.allclose(layer(h), layer.fc(z / z.square().mean(1, keepdim=True).sqrt()), atol=1e-5)
    assert set(Norm) >= {c.norm for c, _ in DEEP}
