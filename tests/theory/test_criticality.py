"""Critical points: the published table, what must not be returned, and laws that hold for any activation."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from leadline.activations import activation
from leadline.theory.criticality import UniversalityClass, critical_point, fixed_point, nearest_point
from leadline.theory.criticality.half_stable import half_stable_points

SI, SMOOTH, CUSP = UniversalityClass.scale_invariant, UniversalityClass.smooth, UniversalityClass.cusp
MARGINAL, HALF = UniversalityClass.marginal, UniversalityClass.half_stable
PI = math.pi


def swish(beta: float) -> Any:
    return lambda z: z * torch.sigmoid(beta * z)  # no known form: by quadrature


# activation, class, C_W, C_b, K* (None: any), further numbers
TABLE: list[tuple[str, Any, UniversalityClass, float, float, float | None, dict[str, float]]] = [
    ("linear", "linear", SI, 1.0, 0.0, None, {"nu": 2.0}),
    ("relu", nn.ReLU(), SI, 2.0, 0.0, None, {"nu": 5.0}),
    ("leaky .01", nn.LeakyReLU(), SI, 1.99980002, 0.0, None, {"nu": 4.99880024}),
    ("leaky .2", nn.LeakyReLU(0.2), SI, 1.92307692, 0.0, None, {"nu": 4.55621302}),
    ("prelu", nn.PReLU(), SI, 1.88235294, 0.0, None, {"nu": 4.33564014}),
    ("abs", torch.abs, SI, 1.0, 0.0, None, {"nu": 2.0}),
    ("tanh", torch.tanh, SMOOTH, 1.0, 0.0, 0.0, {"a1": -2.0, "a2": 17 / 3, "p_perp": 1.0, "nu": 2 / 3}),
    ("sin", torch.sin, SMOOTH, 1.0, 0.0, 0.0, {"a1": -1.0, "a2": 2 / 3, "p_perp": 1.0}),
    ("erf", torch.erf, SMOOTH, PI / 4, 0.0, 0.0, {"a1": -2.0, "a2": 14 / 3, "p_perp": 1.0}),
    ("arctan", torch.atan, SMOOTH, 1.0, 0.0, 0.0, {"a1": -2.0, "a2": 23 / 3}),
    ("z + sin z", lambda z: z + torch.sin(z), SMOOTH, 0.25, 0.0, 0.0, {"a1": -0.5, "a2": 0.22916667}),
    ("elu", nn.ELU(), CUSP, 1.0, 0.0, 0.0, {"c": math.sqrt(2 / PI), "nu": 2 / 3, "p_perp": 2.0}),
    ("celu 2", nn.CELU(2.0), CUSP, 1.0, 0.0, 0.0, {"c": math.sqrt(2 / PI) / 2}),
    ("elu .5", nn.ELU(0.5), CUSP, 1.6, 0.0, 0.0, {"c": 0.3191538, "nu": 1.02666667}),
    ("selu", nn.SELU(), CUSP, 0.47677102, 0.0, 0.0, {"c": 1.1758089, "nu": 0.8910185}),
    ("softsign", nn.Softsign(), CUSP, 1.0, 0.0, 0.0, {"c": 3.1915382}),
    ("hardtanh", nn.Hardtanh(), MARGINAL, 1.0, 0.0, 0.0, {"nu": 2 / 3}),
    ("relu6", nn.ReLU6(), MARGINAL, 2.0, 0.0, 0.0, {}),
    (
        "gelu", nn.GELU(), HALF, 1.98305826, 0.17292239, (3 + math.sqrt(17)) / 2,
        {"chi_prime": -2.872528e-4, "h": 4.666770e-3, "nu": 4.904226},
    ),
    (
        "silu", nn.SiLU(), HALF, 1.98800468, 0.55514317, 14.32017362,
        {"chi_prime": 5.699584e-6, "h": 8.665136e-4, "nu": 4.923187},
    ),
    (
        "mish", nn.Mish(), HALF, 2.01352407, 0.09452179, 1.67016913,
        {"chi_prime": 1.578794e-2, "h": 1.728870e-2, "nu": 4.770687},
    ),
    ("swish 2", swish(2.0), HALF, 1.98800468, 0.55514317 / 4, 14.32017362 / 4, {"nu": 4.923187}),
    ("swish .01", swish(0.01), HALF, 1.98800468, 0.55514317e4, 14.32017362e4, {"nu": 4.923187}),
    ("2 sigmoid - 1", lambda z: 2 * torch.sigmoid(z) - 1, SMOOTH, 4.0, 0.0, 0.0, {}),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda r: r[0])
def test_the_table_to_six_digits_and_more(row: tuple[Any, ...]) -> None:
    _, obj, kind, C_W, C_b, K, more = row
    p = critical_point(obj)
    assert p.exists
    assert p.universality_class is kind
    assert (p.C_W, p.C_b) == (pytest.approx(C_W, rel=5e-9), pytest.approx(C_b, rel=3e-8, abs=1e-12))
    assert p.K is None if K is None else pytest.approx(K, rel=5e-9, abs=1e-12) == p.K
    for name, value in more.items():
        assert getattr(p, name) == pytest.approx(value, rel=3e-7), name
    assert p.error < 1e-9


NONE = [
    "sigmoid", "softplus", "logsigmoid", "hardsigmoid", "cos", "exp", "gaussian", "relu_squared", "tanhshrink", "step", "sign",
]  # fmt: skip
NONE = [*(pytest.param(name, id=name) for name in NONE), pytest.param(lambda z: torch.sin(z + 0.3), id="sin-shifted")]


@pytest.mark.parametrize("obj", NONE)
def test_activations_without_a_critical_point(obj: Any) -> None:
    p = critical_point(obj)
    assert not p.exists
    assert p.universality_class is UniversalityClass.none
    assert p.C_W is None
    assert p.C_b is None
    assert p.K is None
    assert "No C_W and C_b" in p.meaning


@pytest.mark.parametrize(("obj", "C_W"), [("gelu", 4.0), ("silu", 4.0), ("mish", 2.777778)])
def test_an_unstable_origin_is_not_returned_and_is_really_unstable(obj: str, C_W: float) -> None:
    p = critical_point(obj)
    assert p.K is not None
    assert p.K > 1
    assert f"K* = 0 at C_W = {C_W:g}" in p.notes[0]
    act, K = activation(obj), torch.tensor(1e-3, dtype=torch.float64)
    chi_parallel, chi_perp = C_W * act.second_moment_slope(K), C_W * act.derivative_moment(K)
    assert float(chi_parallel) > 1.001  # both susceptibilities are 1 at K = 0, and above it kernels grow
    assert float(chi_perp) > 1.0005
    assert float(C_W * act.second_moment(K)) > float(K)


def test_the_tanh_approximation_of_gelu_is_another_activation() -> None:
    exact, other = critical_point(nn.GELU()), critical_point(nn.GELU("tanh"))
    assert exact.K is not None
    assert other.K is not None
    assert 1e-4 < abs(other.K / exact.K - 1) < 1e-2
    assert other.universality_class is HALF


@pytest.mark.parametrize("row", [r for r in TABLE if r[2] is HALF], ids=lambda r: r[0])
def test_the_point_satisfies_its_definition(row: tuple[Any, ...]) -> None:
    p, act = critical_point(row[1]), activation(row[1])
    assert p.K is not None
    assert p.C_W is not None
    assert p.C_b is not None
    K = torch.tensor(p.K, dtype=torch.float64)
    assert float(p.C_W * act.second_moment_slope(K)) == pytest.approx(1, abs=1e-10)
    assert float(p.C_W * act.derivative_moment(K)) == pytest.approx(1, abs=1e-10)
    assert float(p.C_b + p.C_W * act.second_moment(K)) == pytest.approx(p.K, rel=1e-12)
    step = 1e-3 * p.K  # chi' and h are slopes of the susceptibilities
    up, down = K + step, K - step
    assert p.chi_prime is not None
    assert p.h is not None
    slope = p.C_W * float(act.second_moment_slope(up) - act.second_moment_slope(down)) / (2 * step)
    assert p.chi_prime == pytest.approx(slope, rel=1e-3)
    slope = p.C_W * float(act.derivative_moment(up) - act.derivative_moment(down)) / (2 * step)
    assert p.h == pytest.approx(slope / 2, rel=1e-4)


@pytest.mark.parametrize(
    "obj",
    [
        pytest.param("relu", marks=pytest.mark.slow),
        pytest.param("tanh", marks=pytest.mark.slow),
        pytest.param("elu", marks=pytest.mark.slow),
        pytest.param("gelu", marks=pytest.mark.slow),
        "silu",
        pytest.param("hardtanh", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("inside", "outside"), [(3.0, 0.2)])
def test_scaling_an_activation_scales_its_point(obj: str, inside: float, outside: float) -> None:
    """s(z) -> b s(a z): C_W goes with 1/(a b)^2, K* and C_b with 1/a^2, class, nu and exponents stay."""
    act, p = activation(obj), critical_point(obj)
    q = critical_point(activation(lambda z: outside * act.fn(inside * z), kinks=[k / inside for k in act.kinks]))
    assert (p.C_W, p.C_b, p.nu) != (None, None, None)
    assert q.universality_class is p.universality_class
    assert pytest.approx((p.C_W or 0) / (inside * outside) ** 2, rel=1e-7) == q.C_W
    assert q.C_b == pytest.approx((p.C_b or 0) / inside**2, rel=1e-6, abs=1e-12)
    assert q.nu == pytest.approx(p.nu, rel=1e-6)
    assert q.exponents == p.exponents
    if p.K is not None:
        assert pytest.approx(p.K / inside**2, rel=1e-7, abs=1e-12) == q.K


def test_undeclared_kinks_and_single_precision_carry_their_error() -> None:
    def single(z: torch.Tensor) -> torch.Tensor:
        if z.dtype != torch.float32:
            raise TypeError("float32 only")
        return z * torch.sigmoid(1.3 * z) + 0.0 * z

    p, exact = critical_point(single), critical_point(swish(1.3))
    assert p.universality_class is HALF
    assert exact.K is not None
    assert 1e-9 < p.error < 1e-4  # what single precision leaves, said so
    assert pytest.approx(exact.K, rel=10 * p.error) == p.K

    kinked = critical_point(lambda z: torch.where(z > 0, torch.tanh(z), 0.5 * torch.tanh(z)))
    assert kinked.universality_class is SMOOTH  # two slopes, no cusp
    assert pytest.approx(1.6, rel=1e-9) == kinked.C_W
    assert kinked.nu == pytest.approx((3 * 0.53125 / 0.625**2 - 1) / 3, rel=1e-9)


def test_degenerate_origins() -> None:
    flat = critical_point(lambda z: z - z**5)  # K' = K - 30 K^3
    assert flat.exponents is not None
    assert (flat.exponents.p_0, flat.exponents.p_perp, flat.exponents.p_parallel) == (0.5, 0.5, 1.5)
    grows = critical_point(lambda z: torch.where(z.abs() > 1, 2 * z - torch.sign(z), z))
    assert grows.universality_class is not MARGINAL  # as good as linear at 0, but kernels grow
    assert not critical_point(lambda z: 0.0 * z).exists


def test_a_line_of_half_stable_points_without_curvature() -> None:
    """Softshrink's kinks lie at its zeros, so <s s''> = 0 and g' = <s'^2> at every K: each K is a critical point."""
    act = activation(nn.Softshrink(0.5))
    points, line = half_stable_points(act)
    assert line
    K = torch.logspace(-1, 2, 7, dtype=torch.float64)
    C_W = 1 / act.derivative_moment(K)
    assert torch.allclose(C_W * act.second_moment_slope(K), torch.ones(7, dtype=torch.float64), atol=1e-12)
    assert bool((K - C_W * act.second_moment(K) > 0).all())  # and C_b is not negative
    assert points[0].K == 1.0
    assert "every K*" in critical_point(nn.Softshrink(0.5)).notes[0]


@pytest.mark.parametrize(("obj", "K", "chi_parallel", "chi_perp"), [
    ("gelu", 3.03498, 0.9999, 0.9940), ("silu", 14.5931, 1.0000, 1.0005),
])  # fmt: skip
def test_the_stable_neighbour_of_a_half_stable_point(obj: str, K: float, chi_parallel: float, chi_perp: float) -> None:
    near = critical_point(obj).neighbour
    assert near is not None
    assert pytest.approx(K, rel=3e-6) == near.K
    assert near.chi_parallel == pytest.approx(chi_parallel, abs=6e-5)
    assert near.chi_parallel < 1
    assert near.chi_perp == pytest.approx(chi_perp, abs=6e-5)
    assert critical_point("mish").neighbour is None


@pytest.mark.parametrize(
    "name",
    [
        "sigmoid",
        pytest.param("softplus", marks=pytest.mark.slow),
        pytest.param("cos", marks=pytest.mark.slow),
        pytest.param("exp", marks=pytest.mark.slow),
        "relu_squared",
        pytest.param("gaussian", marks=pytest.mark.slow),
        pytest.param("tanhshrink", marks=pytest.mark.slow),
    ],
)
def test_a_nearest_point_is_a_fixed_point_that_cannot_be_improved_on(name: str) -> None:
    act, near = activation(name), critical_point(name).nearest
    assert near is not None
    K = torch.tensor(near.K, dtype=torch.float64)
    assert float(near.C_b + near.C_W * act.second_moment(K)) == pytest.approx(near.K, rel=1e-8)
    assert float(near.C_W * act.derivative_moment(K)) == pytest.approx(near.chi_perp, rel=1e-8)
    assert max(near.chi_perp, abs(near.chi_parallel)) <= 1 + 1e-9
    grid = torch.logspace(-2.9, 1.9, 60, dtype=torch.float64)
    # no tuning with both susceptibilities at most 1 has a larger chi_perp
    top = 1 / torch.maximum(act.second_moment_slope(grid).abs(), act.derivative_moment(grid))
    C_W = torch.minimum(top, grid / act.second_moment(grid))
    assert float((C_W * act.derivative_moment(grid)).max()) <= near.chi_perp + 1e-7


def test_a_nearest_point_says_where_more_is_possible() -> None:
    softplus = critical_point("softplus").nearest
    assert softplus is not None
    assert not softplus.bounded
    assert softplus.depth_scale == pytest.approx(11.955, rel=1e-3)
    assert nearest_point(activation(lambda z: 0 * z + 1.0)) is None


def test_subtracting_the_value_at_zero_is_offered() -> None:
    p = critical_point("sigmoid")
    assert "with 0.5 subtracted" in p.notes[0]
    assert "C_W = 16" in p.notes[0]
    assert pytest.approx(16) == critical_point(lambda z: torch.sigmoid(z) - 0.5).C_W


@pytest.mark.parametrize("gamma", [0.6, *(pytest.param(g, marks=pytest.mark.slow) for g in (0.3, 0.9, 0.99))])
def test_a_skip_scales_the_point_and_adds_to_the_fluctuations(gamma: float) -> None:
    relu = critical_point("relu", residual=gamma)
    assert pytest.approx(2 * (1 - gamma**2)) == relu.C_W
    want = {0.3: 6.276, 0.6: 6.099, 0.9: 2.451, 0.99: 0.280}  # the three-point vertex included
    even_only = {0.3: 4.468, 0.6: 2.970, 0.9: 0.796, 0.99: 0.080}
    assert relu.nu == pytest.approx(want[gamma], abs=6e-4)
    assert relu.nu != pytest.approx(even_only[gamma], rel=0.2)
    tanh = critical_point("tanh", residual=gamma)
    assert tanh.nu == pytest.approx(2 / 3 * (1 - gamma**4))
    assert tanh.a1 == pytest.approx(-2 * (1 - gamma**2))
    gelu, bare = critical_point("gelu", residual=gamma), critical_point("gelu")
    assert pytest.approx(bare.K) == gelu.K
    assert gelu.C_b == pytest.approx((1 - gamma**2) * (bare.C_b or 0))
    found = fixed_point(activation("gelu"), gelu.C_W or 0, gelu.C_b or 0, gelu.K or 0, residual=gamma)
    assert pytest.approx(gelu.K, rel=1e-6) == found.K
    assert found.chi_perp == pytest.approx(1, abs=1e-7)


def test_everything_prints_and_becomes_json() -> None:
    for obj in ("relu", "tanh", "elu", "hardtanh", "gelu", "sigmoid", "step"):
        p = critical_point(obj)
        out = json.loads(json.dumps(p.to_dict(), allow_nan=False))
        assert out["exists"] is p.exists
        assert out["universality_class"] == str(p.universality_class)
        assert p.meaning in str(p)
    assert "1.98305826" in str(critical_point("gelu"))


@pytest.mark.parametrize(("residual", "said"), [(-0.1, "residual strength"), (math.nan, "residual strength")])
def test_refusals(residual: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        critical_point("tanh", residual=residual)
    with pytest.raises(ValueError, match="no activation called"):
        critical_point("nosuch")
    assert "skip alone" in critical_point("tanh", residual=1.0).notes[0]
