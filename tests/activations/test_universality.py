"""The numbers that decide universality, against values worked out by hand and against the kernel recursion."""

from __future__ import annotations

import math

import pytest
import torch

from leadline.activations import REGISTRY, Activation, activation, curvature_roots, origin_numbers

NAMES = sorted({build().name: name for name, build in REGISTRY.names.items()}.values())
CONTINUOUS = [n for n in NAMES if not activation(n).jumps]
K = torch.tensor([1e-3, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64)

SMOOTH = {
    "tanh": (-2, 17 / 3, -2),
    "sin": (-1, 2 / 3, -1),
    "erf": (-2, 14 / 3, -2),
    "arctan": (-2, 23 / 3, -2),
    "gelu": (6 / math.pi, -10 / math.pi, 8 / math.pi),
    "silu": (0.75, -0.625, 1.0),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_coefficients(name: str) -> None:
    n = origin_numbers(activation(name))
    assert n.smooth
    assert (n.a1, n.a2, n.b1) == pytest.approx(SMOOTH[name], rel=1e-12)
    assert n.cusp == 0.0


@pytest.mark.parametrize(("name", "c"), [("elu", 0.79788456), ("selu", 1.175809), ("softsign", 3.191538)])
def test_cusp_coefficients(name: str, c: float) -> None:
    n = origin_numbers(activation(name))
    assert not n.smooth
    assert n.a1 is None
    assert n.cusp == pytest.approx(c, rel=1e-6)


@pytest.mark.parametrize("name", ["tanh", "gelu", "mish", "elu", "selu", "softsign", "arctan"])
@pytest.mark.parametrize("wrong", [1.0, 1.02])
def test_the_recursion_leaves_zero_as_the_coefficients_say(name: str, wrong: float) -> None:
    act = activation(name)
    n = origin_numbers(act)
    # Halving K halves what is left of the coefficient (K) or divides it by sqrt 2 (cusp): extrapolate.
    power = 0.5 if n.cusp else 1.0
    small = torch.tensor([1e-4, 2.5e-5], dtype=torch.float64)
    drift = (act.second_moment(small) / n.A2 / small - 1) / small**power
    limit = float(drift[1] + (drift[1] - drift[0]) / (4**power - 1))
    want = -n.cusp if n.cusp else n.a1
    agrees = abs(limit - wrong * want) <= 1e-3 * abs(want)
    assert agrees == (wrong == 1.0)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_value_curvature_is_the_difference_of_its_two_moments(name: str) -> None:
    act = activation(name)
    variances = K[:3] if name == "exp" else K
    out = act.estimate("value_curvature", variances)
    square = act.derivative_moment(variances)
    wrong = (out.value - (act.second_moment_slope(variances) - square)).abs()
    assert torch.all(wrong <= 1e-10 * square)
    plain = Activation(act.fn, name=name, kinks=act.kinks, derivative=act.derivative)
    assert torch.all((out.value - plain.value_curvature(variances)).abs() <= 1e-10 * square)


def test_roots() -> None:
    for name, root in (("gelu", 3.56155281), ("silu", 14.32017362), ("mish", 1.67016913)):
        ((low, high),) = curvature_roots(activation(name))
        assert low < root < high
    for name in ("tanh", "relu", "elu", "sigmoid", "hardtanh"):
        assert curvature_roots(activation(name)) == []


def test_what_does_not_pass_through_zero_has_no_coefficients() -> None:
    n = origin_numbers(activation("sigmoid"))
    assert (n.cusp, n.a1, n.a2, n.b1) == (None,) * 4
    assert math.isclose(n.A2, 1 / 16, rel_tol=1e-12)
    with pytest.raises(ValueError, match="is infinite: it jumps at 0"):
        activation("step").value_curvature(1.0)
