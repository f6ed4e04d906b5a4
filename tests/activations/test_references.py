"""Every moment and dual against 30-digit references (tests/gaussian/data/make_references.py)."""

from __future__ import annotations

import json
import pathlib

import pytest
import torch

from leadline.activations import Activation, activation

PATH = pathlib.Path(__file__).parents[1] / "gaussian" / "data" / "references.json"
REFERENCES = json.loads(PATH.read_text())
MOMENTS = (
    "mean", "second_moment", "derivative_moment", "second_moment_slope", "fourth_moment", "derivative_mean",
)  # fmt: skip
RTOL = 1e-10


def column(rows: list[dict[str, str]], key: str) -> torch.Tensor:
    return torch.tensor([float(r[key]) for r in rows], dtype=torch.float64)


def assert_agrees(value: torch.Tensor, error: torch.Tensor, want: torch.Tensor, scale: torch.Tensor) -> None:
    """The value is right to 1e-10 of the scale, and its error estimate (plus rounding) covers the rest."""
    wrong = (value - want).abs()
    assert torch.all(wrong <= RTOL * scale), f"wrong by {float((wrong / scale).max()):.2e} of the scale"
    assert torch.all(wrong <= error + 2e-14 * scale), "the error estimate is too small"


def quadrature_only(name: str) -> Activation:
    """The same function without any closed form."""
    act = activation(name)
    return Activation(act.fn, name=name, kinks=act.kinks, jumps=act.jumps, derivative=act.derivative)


@pytest.mark.parametrize("route", [activation, quadrature_only], ids=["default", "quadrature"])
@pytest.mark.parametrize("name", REFERENCES)
def test_one_variable(name: str, route) -> None:
    rows = REFERENCES[name]["one"]
    act, K = route(name), column(rows, "K")
    size = column(rows, "second_moment")
    for moment in MOMENTS:
        slopes = column(rows, "derivative_moment")
        bounds = {
            "mean": size.sqrt(), "second_moment": size, "fourth_moment": column(rows, "fourth_moment"),
            "derivative_mean": slopes.sqrt(),
        }  # fmt: skip
        scale = bounds.get(moment, slopes + size / K)
        out = act.estimate(moment, K)
        assert_agrees(out.value, out.error, column(rows, moment), scale)


@pytest.mark.parametrize("route", [activation, quadrature_only], ids=["default", "quadrature"])
@pytest.mark.parametrize("name", REFERENCES)
def test_two_variables(name: str, route) -> None:
    rows = REFERENCES[name]["two"]
    act = route(name)
    a, b, rho = (column(rows, k) for k in ("Ka", "Kb", "rho"))
    c = rho * (a * b).sqrt()
    for derivative, key in ((False, "dual"), (True, "dual_derivative")):
        moment = act.derivative_moment if derivative else act.second_moment
        scale = (moment(a) * moment(b)).sqrt()
        out = act.estimate_dual(a, c, b, derivative=derivative)
        # A rounding of the correlation, 1e-16, moves the product by that times its slope, which grows near
        # |rho| = 1.
        slack = 1e-15 / (1 - rho**2).sqrt()
        assert_agrees(out.value, out.error + slack * scale, column(rows, key), scale)


def test_a_wrong_coefficient_fails_the_same_check() -> None:
    rows = REFERENCES["gelu_tanh"]["two"]
    a, b, rho = (column(rows, k) for k in ("Ka", "Kb", "rho"))
    c = rho * (a * b).sqrt()
    # 0.044715 -> 0.0447151 in the cube's coefficient.
    wrong = activation(lambda z: 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.0447151 * z**3))))
    out = wrong.estimate_dual(a, c, b)
    scale = (wrong.second_moment(a) * wrong.second_moment(b)).sqrt()
    with pytest.raises(AssertionError, match="of the scale"):
        assert_agrees(out.value, out.error, column(rows, "dual"), scale)
    right = activation("gelu_tanh").estimate_dual(a, c, b)
    with pytest.raises(AssertionError, match="error estimate is too small"):
        assert_agrees(right.value + 5e-11 * scale, right.error * 0, column(rows, "dual"), scale)
