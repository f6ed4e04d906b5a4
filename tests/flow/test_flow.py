"""The representation group flow: reference values, the ensemble beside it, what it prints and writes."""

from __future__ import annotations

import json
import math

import pytest
import torch

from leadline.flow import FIELDS, Flow, flow
from leadline.flow.exponents import fit_power

LAWS = {
    "C_b": (0.1, 0.2, 0.05, 0.1), "C_W": (1.2, 1.4, 1.1, 1.3), "lambda_b": (0.5, 0.8, 0.3, 0.6),
    "lambda_W": (1.0, 0.7, 1.2, 0.9),
}  # fmt: skip
# recursion values that were checked against ensembles of networks
TANH = {
    "K": 0.42013500, "V": 0.11371388, "G1": -0.043996439, "Theta": 2.2586924, "A": 0.53540175, "B": 3.5032724,
    "D": -0.21890539, "F": 0.27162456, "H1": -0.01654017, "P": -1.170651, "Q": -0.54732944, "R": -12.163871,
    "S": 6.79076, "T": 1.4095955, "U": 2.1731157,
}  # fmt: skip
NORM = 0.6675


def tanh(width: int, networks: int = 0) -> Flow:
    widths = (4, width, 3 * width // 2, width, 2)
    return flow("tanh", widths=widths, **LAWS, inputs=NORM, networks=networks, seed=3)


def test_every_tensor_has_its_reference_value() -> None:
    found = tanh(12)
    assert set(TANH) == set(FIELDS)
    for name, value in TANH.items():
        assert float(getattr(found, name)[-1]) == pytest.approx(value, rel=2e-7), name


def test_the_same_input_given_as_a_vector_and_among_several() -> None:
    x = torch.tensor([0.7, -0.4, 1.1, 0.9], dtype=torch.float64)
    y = torch.tensor([-0.3, 0.8, 0.6, 0.9], dtype=torch.float64)
    one = flow("tanh", widths=(4, 12, 18, 12, 2), **LAWS, inputs=x, networks=0)
    two = flow("tanh", widths=(4, 12, 18, 12, 2), **LAWS, inputs=torch.stack([x, y]), networks=0)
    assert two.K.shape == (4, 2, 2)
    assert two.A is not None
    assert two.A.shape == (4, 2, 2, 2, 2)
    for name in FIELDS:
        a, b = one.of_first(name), two.of_first(name)
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6), name
    assert two.correlation is not None
    assert one.correlation is None


def test_kernels_between_inputs_of_a_kinked_activation() -> None:
    x = torch.tensor([[1.0, 0.5], [0.2, -1.0]], dtype=torch.float64)
    found = flow("relu", depth=5, width=32, C_W=2.0, inputs=x, networks=0)
    assert found.K.shape == (5, 2, 2)
    assert found.V.shape == (5, 2, 2, 2, 2)
    one = flow("relu", depth=5, width=32, C_W=2.0, inputs=x[0], networks=0)
    assert found.Theta is not None
    assert one.Theta is not None
    assert found.Theta[:, 0, 0].tolist() == pytest.approx(one.Theta.tolist())
    assert found.A is not None
    assert one.A is not None
    assert found.A[:, 0, 0, 0, 0].tolist() == pytest.approx(one.A.tolist())
    assert found.R is None
    assert any("R, S, T, U between inputs" in reason for reason in found.reasons)
    assert found.V[:, 0, 0, 0, 0].tolist() == pytest.approx(
        flow("relu", depth=5, width=32, C_W=2.0, inputs=x[0], networks=0).V
    )


def agrees(found: Flow, name: str, predicted: float) -> bool:
    measured = found.measured[name][-1]
    return abs(measured.value - predicted) < 4 * measured.error


def test_the_ensemble_agrees_and_would_not_with_a_wrong_coefficient() -> None:
    found = flow("tanh", widths=(4, 64, 96, 64, 8), **LAWS, inputs=NORM, networks=4000, seed=1)
    K = found.corrected("K")
    assert K is not None
    assert agrees(found, "K", float(K[-1]))
    assert agrees(found, "V", float(found.V[-1]))
    assert not agrees(found, "V", 1.2 * float(found.V[-1]))
    # without what the layer before hands on, chi_parallel^2 V
    assert not agrees(found, "V", float(found.V[-1] - found.chi_parallel[-1] ** 2 * found.V[-2]))


# without the part that the layer before hands on, or the one that the layer adds
WRONG = {
    "A": lambda f: f.A[-1] - f.chi_perp[-1] ** 2 * f.A[-2], "B": lambda f: f.B[-1] - f.chi_perp[-1] ** 2 * f.B[-2],
    "D": lambda f: 0.0, "F": lambda f: f.chi_parallel[-1] ** 2 * f.F[-2], "Theta": lambda f: 1.005 * f.Theta[-1],
}  # fmt: skip


@pytest.mark.slow
def test_tangent_kernels_of_networks_agree_after_extrapolation_in_width() -> None:
    small, large = (tanh(n, 250_000) for n in (24, 48))
    for name, wrong in WRONG.items():
        a, b = small.measured[name][-1], large.measured[name][-1]
        if name == "Theta":
            assert small.corrected(name) is not None
            predicted = float(large.corrected(name)[-1])
            value, error = b.value, b.error
        else:
            predicted = TANH[name]
            value, error = 2 * b.value - a.value, math.hypot(2 * b.error, a.error)
        assert abs(value - predicted) < 3.5 * error, name
        rejected = abs(value - float(wrong(large))) / error
        assert rejected > 3.5, (name, rejected)


def test_what_does_not_exist_is_none_and_said() -> None:
    corner = flow("relu", depth=4, width=32, C_W=2.0, networks=0)
    assert corner.A is not None
    assert corner.R is None
    assert any("slope jumps" in reason for reason in corner.reasons)
    step = flow(torch.sign, depth=4, width=32, networks=0)
    assert step.Theta is None
    assert step.reasons


def test_json_has_every_field() -> None:
    found = flow("gelu", depth=5, width=16, C_W=2.0, C_b=0.1, networks=200, seed=0)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert tuple(data["tensors"]) == FIELDS
    assert len(data["tensors"]["K"]) == 5
    assert set(data["measured"]) == {"K", "V", "G1", "Theta", "A", "B", "D", "F"}
    assert data["networks"] == {"kernels": 200, "tangent_kernels": 200}


def test_large_corrections_are_warned_of() -> None:
    assert any("exceeds" in w for w in flow("relu", depth=40, width=16, C_W=2.0, networks=0).warnings)
    assert any("next order" in w for w in flow("tanh", depth=100, width=512, networks=0).warnings)
    assert not flow("relu", depth=4, width=512, C_W=2.0, networks=0).warnings


def test_powers_of_depth() -> None:
    layers = torch.arange(1.0, 101.0)
    exact = fit_power("x", layers**-1.5, -1.5)
    assert exact.fitted == pytest.approx(-1.5)
    assert exact.settled
    bending = fit_power("x", torch.exp(-0.1 * layers), None)
    assert not bending.settled
    assert fit_power("x", torch.sin(layers), None).fitted is None
    # a kernel that stays has the power 0, not what rounding makes of it
    still = fit_power("x", 3.56155281 + 4e-16 * torch.sin(layers).double(), 0.0)
    assert still.fitted == 0.0
    assert still.settled
    assert fit_power("x", layers.double() ** -1e-6, 0.0).fitted == pytest.approx(-1e-6)


def test_it_prints_and_draws() -> None:
    pytest.importorskip("matplotlib")
    found = flow("tanh", depth=10, width=32, networks=100)
    text = str(found)
    assert "K+G1/n" in text
    assert "100 networks drawn" in text
    titles = [ax.get_title(loc="left") for ax in found.plot().axes]
    assert len(titles) == 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"depth": 0}, "at least 1 layer"),
        ({"depth": 3, "widths": [1, 2]}, "one of the two"),
        ({"depth": 3, "C_W": -1.0}, "not negative"),
        ({"depth": 3, "inputs": -1.0}, "not negative"),
        ({"depth": 3, "inputs": torch.full((2,), math.nan)}, "finite"),
        ({"depth": 3, "networks": 1}, "at least 2"),
    ],
)
def test_bad_numbers_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        flow("tanh", **wrong)


@pytest.mark.parametrize(("name", "C_W"), [("tanh", 1.0), ("relu", 2.0), ("elu", 1.0)])
@pytest.mark.parametrize("lambda_b", [0.0, 1.0])
def test_deep_flows_have_the_powers_of_their_class(name: str, C_W: float, lambda_b: float) -> None:
    found = flow(name, depth=1500, width=100, C_W=C_W, lambda_b=lambda_b, networks=0)
    expected = [p for p in found.powers if p.theory is not None]
    assert len(expected) >= 5
    for p in expected:
        assert p.fitted == pytest.approx(p.theory, abs=0.02), p
        assert p.settled
    # a network that is not critical has no powers to expect
    assert all(p.theory is None for p in flow(name, depth=20, C_W=1.1 * C_W, networks=0).powers)
