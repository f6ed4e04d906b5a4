"""Critical lines with norms and skips, and the phase diagram."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from leadline.activations import activation
from leadline.theory.criticality import (
    PHASES,
    Block,
    LineKind,
    Norm,
    critical_line,
    critical_point,
    fixed_point,
    phase_diagram,
)

D = torch.float64
BEFORE, AFTER = "layer_norm_before", "layer_norm_after"


def at_rest(block: Block, C_W: float, C_b: float) -> tuple[float, float]:
    """K and chi_perp after many layers."""
    K = torch.tensor(1.0, dtype=D)
    for _ in range(60):
        K = block.kernel(K, C_W, C_b)
    return float(K), float(block.susceptibilities(K, C_W)[1])


def chi_of(block: Block, C_W: float, C_b: float) -> float:
    if block.norm is Norm.none:
        return fixed_point(block.activation, C_W, C_b, 1.0, residual=block.residual).chi_perp
    return at_rest(block, C_W, C_b)[1]


@pytest.mark.parametrize("norm", [n for n in Norm if n is not Norm.none])
@pytest.mark.parametrize("residual", [pytest.param(0.0, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize("name", ["relu", pytest.param("tanh", marks=pytest.mark.slow), "gelu"])
def test_every_point_of_a_line_is_critical_and_its_neighbours_are_not(name: str, residual: float, norm: Norm) -> None:
    line = critical_line(name, norm=norm, residual=residual, points=5)
    assert line.kind is LineKind.line
    block = Block.of(name, norm, residual)
    for w, b, k in zip(line.C_W.tolist(), line.C_b.tolist(), line.K.tolist()):
        K, chi = at_rest(block, w, b)
        assert pytest.approx(k, rel=1e-9) == K
        assert chi == pytest.approx(1, abs=1e-9)
        assert at_rest(block, w, b + 0.05 * w)[1] < 1 - 1e-3  # more bias: ordered
        if b > 0.02 * w:
            assert at_rest(block, w, b - 0.02 * w)[1] > 1 + 1e-4


def test_published_lines() -> None:
    relu = critical_line("relu", norm=BEFORE)
    assert relu.slope == 0  # C_b = 0 and any C_W
    erf = critical_line("erf", norm=BEFORE)
    assert erf.slope == pytest.approx(
        4 / torch.pi / 5**0.5 - 2 / torch.pi * torch.asin(torch.tensor(2 / 3, dtype=D)).item()
    )
    assert critical_line("relu", norm=AFTER).slope == pytest.approx(1 / (torch.pi - 1))
    assert critical_line("relu", norm="rms_norm_after").slope == pytest.approx(0, abs=1e-12)
    assert critical_line("sigmoid", norm=BEFORE).kind is LineKind.none
    assert "Always ordered" in critical_line("sigmoid", norm=BEFORE).meaning


def test_a_full_skip_with_a_norm_is_critical_everywhere_unless_the_activation_saturates() -> None:
    assert critical_line("tanh", norm=BEFORE, residual=1.0).kind is LineKind.everywhere
    assert critical_line("relu", norm=AFTER, residual=1.0).kind is LineKind.everywhere
    saturating = critical_line("tanh", norm=AFTER, residual=1.0)
    assert saturating.kind is LineKind.none
    assert "l^0.5" in saturating.meaning
    assert critical_line("tanh", residual=1.0).kind is LineKind.none
    assert critical_line("tanh", norm=BEFORE, residual=1.2).kind is LineKind.none
    assert critical_line("step", norm=BEFORE).kind is LineKind.none
    point = critical_line("gelu", residual=0.5)
    assert point.kind is LineKind.point
    assert float(point.C_W) == pytest.approx(0.75 * (critical_point("gelu").C_W or 0))
    for line in (saturating, point, critical_line("gelu", norm=AFTER)):
        assert json.loads(json.dumps(line.to_dict(), allow_nan=False))["kind"] == str(line.kind)
        assert line.meaning in str(line)


def test_lines_refuse_what_they_cannot_use() -> None:
    with pytest.raises(ValueError, match="no norm called 'batch'"):
        critical_line("tanh", norm="batch")
    with pytest.raises(ValueError, match="2 points or more"):
        critical_line("tanh", norm=BEFORE, points=1)


@pytest.mark.parametrize(
    ("name", "more"), [("tanh", {}), ("gelu", {}), ("tanh", {"norm": BEFORE}), ("gelu", {"residual": 0.5})]
)
def test_a_diagram_agrees_with_fixed_points_one_by_one(name: str, more: dict[str, Any]) -> None:
    d = phase_diagram(name, points=7, **more)
    assert d.K.shape == (7, 7)
    block = Block.of(name, more.get("norm", "none"), more.get("residual", 0.0))
    for i, j in ((0, 5), (3, 3), (6, 1), (5, 6)):
        w, b = float(d.C_W[j]), float(d.C_b[i])
        if block.norm is Norm.none:
            one = fixed_point(block.activation, w, b, 1.0, residual=block.residual)
            K, chi = one.K, one.chi_perp
        else:
            K, chi = at_rest(block, w, b)
        if float("inf") == K:
            assert PHASES[int(d.phase[i, j])] == "unbounded"
            continue
        assert float(d.K[i, j]) == pytest.approx(K, rel=1e-6, abs=1e-9)
        assert float(d.chi_perp[i, j]) == pytest.approx(chi, rel=1e-6)
        assert PHASES[int(d.phase[i, j])] == ("ordered" if chi < 1 else "chaotic")


@pytest.mark.parametrize(("name", "least", "more"), [
    ("tanh", 1e-3, {}), ("sigmoid", 1e-3, {}), ("tanh", 1e-3, {"norm": AFTER}),
    ("silu", 0.7, {}),  # below, near the half-stable point, a second fixed point lies in the way
])  # fmt: skip
def test_the_edge_of_chaos_separates_the_phases(name: str, least: float, more: dict[str, Any]) -> None:
    d = phase_diagram(name, points=3, **more)
    block = Block.of(name, more.get("norm", "none"))
    inside = [
        (w, b) for part in d.edge_parts() for w, b in part if least < b < float(d.C_b[-1]) and w < float(d.C_W[-1])
    ]
    assert len(inside) > 10
    for w, b in inside[:: len(inside) // 5]:
        low, at, high = (chi_of(block, f * w, b) for f in (0.997, 1.0, 1.003))
        assert low < at < high
        assert at == pytest.approx(1, abs=1e-6)


def test_the_start_decides_where_there_are_two_fixed_points() -> None:
    C_W, C_b = torch.tensor([2.0, 2.1], dtype=D), torch.tensor([0.05, 0.06], dtype=D)
    low = phase_diagram("gelu", C_W=C_W, C_b=C_b, start=0.1)
    high = phase_diagram("gelu", C_W=C_W, C_b=C_b, start=100.0)
    assert PHASES[int(low.phase[0, 1])] == "ordered"
    assert PHASES[int(high.phase[0, 1])] == "unbounded"


def test_a_diagram_draws_itself_and_becomes_json(tmp_path: Path) -> None:
    for name, more in (("tanh", {}), ("gelu", {"norm": AFTER})):
        d = phase_diagram(name, points=21, **more)
        d.plot().savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 20_000
        out = json.loads(json.dumps(d.to_dict(), allow_nan=False))
        assert len(out["phase"]) == 21
        assert {phase for row in out["phase"] for phase in row} <= set(PHASES)
    assert out["critical_point"] is None


def test_diagrams_refuse_what_they_cannot_use() -> None:
    with pytest.raises(ValueError, match="ascending"):
        phase_diagram("tanh", C_W=[1.0, 0.5])
    with pytest.raises(ValueError, match="variances"):
        phase_diagram("tanh", C_b=[-1.0, 0.5])
    with pytest.raises(ValueError, match="jumps"):
        phase_diagram("step")
    with pytest.raises(ValueError, match="2 points a side"):
        phase_diagram("tanh", points=1)
    assert activation("tanh").name == phase_diagram("tanh", points=2).activation
