"""One input: the coefficients of 1/n of the tangent kernel against reference values and exact special cases."""

from __future__ import annotations

import math

import pytest
import torch

from leadline.activations import activation
from leadline.theory.flow import Layers
from leadline.theory.tangent import TangentFlow, tangent_flow
from leadline.theory.tangent.moments import moments

LAW = {
    "C_b": (0.1, 0.2, 0.05, 0.1),
    "C_W": (1.2, 1.4, 1.1, 1.3),
    "lambda_b": (0.5, 0.8, 0.3, 0.6),
    "lambda_W": (1.0, 0.7, 1.2, 0.9),
}
NORM = 0.6675
# fmt: off
REFERENCE = {
    ("tanh", (4, 12, 18, 12, 2)): {
        "K": ".42013500", "V": ".11371388", "G1": "-.043996439", "Theta": "2.2586924", "A": ".53540175",
        "B": "3.5032724", "D": "-.21890539", "F": ".27162456", "H1": "-.01654017", "P": "-1.170651",
        "Q": "-.54732944", "R": "-12.163871", "S": "6.79076", "T": "1.4095955", "U": "2.1731157",
    },
    ("gelu", (4, 16, 24, 16, 2)): {
        "K": ".27487603", "V": ".47814167", "G1": ".16708364", "Theta": "1.4792826", "A": "4.0338661",
        "B": "1.4809196", "D": "1.2695041", "F": ".58789704", "H1": ".64760222", "P": ".30395762",
        "Q": "1.1231852", "R": "-1.3884744", "S": "2.8715799", "T": "3.2437702", "U": ".87854448",
    },
    ("tanh", (4, 32, 32, 1)): {
        "K": ".42048653", "Theta": "1.7696059", "A": ".23148211", "B": "1.9434156", "H1": "-.016949",
        "P": "-.64055772", "Q": "-.27509182", "R": "-6.1350524", "S": "3.9221642", "T": ".54465594",
        "U": "1.2904455",
    },
}
# fmt: on


def law(widths: tuple[int, ...], name: str) -> TangentFlow:
    depth = len(widths) - 1
    return tangent_flow(Layers.of(name, widths=widths, **{k: v[:depth] for k, v in LAW.items()}), NORM)


@pytest.mark.parametrize(("name", "widths"), REFERENCE, ids=str)
def test_reference_values(name: str, widths: tuple[int, ...]) -> None:
    flow = law(widths, name)
    for field, digits in REFERENCE[name, widths].items():
        unit = 10.0 ** -len(digits.split(".")[1])
        assert abs(float(getattr(flow, field)[-1]) - float(digits)) < 0.51 * unit, field


def test_relu_grows_as_its_asymptotics_say() -> None:
    depth = 2000
    flow = tangent_flow(Layers.of("relu", depth=depth, C_W=2.0, lambda_b=0.0), 1.0)
    theta, K = flow.Theta[-1], flow.K[-1]
    for got, slope in (
        (flow.V[-1] / K**2, 5),
        (flow.D[-1] / (theta * K), 3),
        (flow.F[-1] / (theta * K), 1),
        (flow.A[-1] / theta**2, 7 / 3),
        (flow.B[-1] / theta**2, 2 / 3),
    ):
        assert float(got) / depth == pytest.approx(slope, rel=2e-3)
    assert bool((flow.H1 == 0).all())


def test_tanh_at_criticality_grows_as_its_asymptotics_say() -> None:
    depth = 600
    rates = [1 / layer for layer in range(1, depth + 1)]
    flow = tangent_flow(Layers.of("tanh", depth=depth, C_W=1.0, lambda_b=rates, lambda_W=1.0), 0.5)
    theta, K = flow.Theta, flow.K

    def slope(v: torch.Tensor) -> float:
        return float(v[-1] - v[depth // 2]) / (depth - 1 - depth // 2)

    for got, wanted in (
        (flow.A / theta**2, 0.065),
        (flow.B / theta**2, 0.332),
        (flow.D / (theta * K), -0.148),
        (flow.F / (theta * K), 0.249),
        (flow.H1 / theta, -0.064),
    ):
        assert slope(got) == pytest.approx(wanted, abs=1.5e-3)


def test_linear_networks_have_no_curvature_of_their_own() -> None:
    flow = tangent_flow(Layers.of("linear", depth=4, C_W=1.0), 1.0)
    assert float(flow.P[-1]) == 0
    assert float(flow.R[-1]) == float(flow.U[-1]) == 0
    # one hidden layer, unit rates: H = 1 + |h|^2/n + |w|^2 (1 + x^2), F from w and h alone
    two = tangent_flow(Layers.of("linear", depth=2, C_W=1.0), 1.0)
    assert float(two.Theta[-1]) == pytest.approx(4)
    assert float(two.A[-1]) == pytest.approx(2)  # Var of |h|^2/n
    assert float(two.B[-1]) == pytest.approx(4)  # (w_i . w_j) (1 + x^2)
    assert float(two.S[-1]) == pytest.approx(4)  # k B'


def test_inputs_are_batched() -> None:
    layers = Layers.of("gelu", depth=4, C_W=1.9, C_b=0.1)
    norms = torch.tensor([[0.3, 1.0], [2.0, 1.0]], dtype=torch.float64)
    together = tangent_flow(layers, norms)
    for i, j in ((0, 0), (1, 0), (1, 1)):
        alone = tangent_flow(layers, norms[i, j])
        for field in ["Theta", "H1", "A", "B", "D", "F", "P", "Q", "R", "S", "T", "U"]:
            torch.testing.assert_close(getattr(together, field)[:, i, j], getattr(alone, field), rtol=1e-9, atol=1e-12)
    single = tangent_flow(layers, norms.float())
    assert single.A.dtype == torch.float32
    torch.testing.assert_close(single.A.double(), together.A, rtol=3e-5, atol=1e-5)


def test_only_ratios_of_widths_matter() -> None:
    thin, wide = (law(w, "tanh") for w in ((4, 10, 15, 10, 2), (4, 100, 150, 100, 2)))
    for field in ["A", "B", "D", "F", "H1", "P", "Q", "R", "S", "T", "U"]:
        assert torch.equal(getattr(thin, field), getattr(wide, field))
    other = law((4, 100, 50, 100, 2), "tanh")
    assert not math.isclose(float(other.A[-1]), float(thin.A[-1]), rel_tol=0.05)


def test_small_kernels_keep_their_digits() -> None:
    # with C_b = 0 and K -> 0 tanh becomes linear, up to corrections of order K
    deep = tangent_flow(Layers.of("tanh", depth=5, C_W=1.0), 1e-6)
    line = tangent_flow(Layers.of("linear", depth=5, C_W=1.0), 1e-6)
    for field in ("Theta", "B", "F", "S"):
        torch.testing.assert_close(getattr(deep, field), getattr(line, field), rtol=1e-4, atol=0)
    # s^2 = z^2 - …, s'^2 = 1 - 2 z^2 + 7 z^4/3 - …, s s'^2 s'' = -2 z^2 + …
    for K in (1e-8, 1e-6, 1e-4):
        m = moments(activation("tanh"), torch.tensor(K, dtype=torch.float64))
        for got, wanted in ((m.d1, -2), (m.d2, 14), (m.cov / K**2, -4), (m.var_d / K**2, 8), (m.bend / K, -2)):
            assert float(got) == pytest.approx(wanted, rel=100 * K + 1e-6)


def test_refusals() -> None:
    relu = Layers.of("relu", depth=3, C_W=2.0)
    with pytest.raises(ValueError, match=r"relu has a corner at 0, where <s''\^2> diverges"):
        tangent_flow(relu, 1.0, second=True)
    with pytest.raises(ValueError, match="R, S, T and U of relu are not here"):
        _ = tangent_flow(relu, 1.0).R
    with pytest.raises(ValueError, match="jumps at 0"):
        tangent_flow(Layers.of(lambda z: (z > 0).to(z.dtype), depth=3), 1.0)
    with pytest.raises(ValueError, match="after the first layer each must be positive"):
        tangent_flow(Layers.of("tanh", depth=3, C_W=(1.0, 0.0, 1.0)), 1.0)
    with pytest.raises(ValueError, match="out of the range of floats"):
        tangent_flow(Layers.of("relu", depth=400, C_W=20.0), 1.0)
    with pytest.raises(ValueError, match="negative"):
        tangent_flow(relu, -1.0)
