"""What is no number, no covariance or out of range is refused in one sentence, not by a traceback or a silent nan."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from leadline.activations import activation, curvature_roots, four_point, joint_moment, mixed_moment, shape
from leadline.flow import flow
from leadline.gaussian import (
    bump_expectation,
    correlation,
    expectation,
    half_space_expectation,
    hermite_polynomials,
    joint_expectation,
    mean_product,
    orthant_probability,
)
from leadline.gaussian.arguments import checked
from leadline.theory.aspect_ratio import log_normal_spread, mutual_information, residual_flow, residual_growth
from leadline.theory.bayes import gp_posterior
from leadline.theory.covariance_sde import covariance_sde_relu, log_variance_law, smooth_drift
from leadline.theory.criticality import critical_point, depth_scale, fixed_point
from leadline.theory.dynamics import linearized_training, mode_strength
from leadline.theory.flow import (
    Layers,
    asymptotic_kernel,
    connected_four_point,
    depth_scales,
    effective_action,
    four_index,
    kernel_moment,
    single_input_flow,
    spread_per_layer,
)
from leadline.theory.gaussian_preactivations import noise_distance, normal_distance
from leadline.theory.jacobian import partial_jacobian
from leadline.theory.spectra import jacobian_spectrum
from leadline.theory.tangent import critical_rates, relu_dispersion, tangent_flow, tangent_tensors

NAN = math.nan
I2, ONE = torch.eye(2, dtype=torch.float64), torch.ones((), dtype=torch.float64)
NO_COVARIANCE = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
TANH, LAYERS = activation("tanh"), Layers.of("tanh", depth=3)
V4 = torch.ones(2, 2, 2, 2)

CASES: list[tuple[Callable[[], object], str]] = [
    (lambda: orthant_probability(NO_COVARIANCE), "negative eigenvalue: give that of actual variables"),
    (lambda: orthant_probability(torch.ones(3)), r"shape \(3,\): give one of n variables"),
    (lambda: TANH.hermite(1.0, -1), "got order=-1: give a number that is not negative"),
    (lambda: TANH.hermite("a", 2), "got K='a': give a number or a tensor|got 'a' where a variance is expected"),
    (lambda: activation("tanh", kinks=[NAN]), r"got kinks=\[nan\]: give finite numbers"),
    (lambda: activation("tanh", kinks="ab"), "got kinks='ab': give a list of numbers"),
    (lambda: residual_growth([0.1], C_W=-1.0, slope_moment=0.5), "got C_W=-1.0: give a number that is not negative"),
    (lambda: residual_growth([NAN], C_W=1.0, slope_moment=0.5), r"got scales=\[nan\]: give finite numbers"),
    (lambda: covariance_sde_relu(NAN), "got c_plus=nan: give a finite number"),
    (lambda: effective_action(NAN * I2, I2, V4, 8), "got K with nan in it"),
    (lambda: effective_action(I2, I2, V4, -1.0), "got n=-1.0: give a number that is not negative"),
    (lambda: flow("tanh", depth=3, inputs="a", networks=0), "got inputs='a': give a number or a tensor"),
    (lambda: Layers.of("tanh", depth="3"), "got depth='3': give a whole number"),
    (lambda: Layers.of("tanh", depth=2.5), "got depth=2.5: give a whole number"),
    (lambda: Layers.of("tanh", widths=[4, NAN, 1]), r"got widths=\[4, nan, 1\]: give finite numbers"),
    (lambda: Layers.of("tanh", depth=2, C_W=None), "got C_W=None: give a number or a list of numbers"),
    (lambda: curvature_roots(TANH, -1.0, 10.0), "give 0 < low < high"),
    (lambda: four_point(TANH, "a"), "got covariance='a': give a tensor"),
    (lambda: joint_moment([TANH], "a"), "got covariance='a': give a tensor"),
    (lambda: mixed_moment(TANH, "a", 1.0, 0.5, 1.0), "got orders='a': give two whole numbers"),
    (lambda: shape("tanh", "10"), "got width='10': give a whole number"),
    (lambda: TANH.second_moment("a"), "got 'a' where a variance is expected"),
    (lambda: TANH.gram("a"), "K must be square in its last two axes, got 'a'"),
    (lambda: TANH.flat_fraction(1.0, "a"), "got tol='a': give a fraction"),
    (lambda: TANH.taylor(1.5), "got order=1.5: give a whole number"),
    (lambda: bump_expectation((1.0, 1.0), NO_COVARIANCE), "negative eigenvalue"),
    (lambda: bump_expectation((1.0, NAN), I2), r"got rates=\[1.0, nan\]: give finite numbers"),
    (lambda: correlation("a", ONE, ONE), "got Kaa='a': give a tensor"),
    (lambda: expectation(torch.tanh, "a"), "got K='a': give a number or a tensor"),
    (lambda: expectation(torch.tanh, 1.0, rtol=-1.0), "got rtol=-1.0: give a number that is not negative"),
    (lambda: half_space_expectation([()], I2), r"shape \(2, 2\) for 1 functions"),
    (lambda: hermite_polynomials(ONE, -1), "got order=-1"),
    (lambda: joint_expectation([torch.tanh], "a"), "got covariance='a': give a tensor"),
    (lambda: mean_product(torch.tanh, None, ONE, ONE), "got Kaa=None: give a tensor"),
    (lambda: log_normal_spread(-1.0, 0.1), "got nu=-1.0: give a number that is not negative"),
    (lambda: mutual_information(0.1, 1.5, 1), "got m1=1.5: give a whole number"),
    (lambda: residual_flow("relu", 3, K=1.0, C_W=NAN), "got C_W=nan: give a finite number"),
    (lambda: gp_posterior(I2, torch.ones(1, 1), "a"), "got noise='a': give a number"),
    (lambda: log_variance_law(-1.0), "got T=-1.0: give a number that is not negative"),
    (lambda: smooth_drift(torch.ones(3), 0.0, -2.0), r"covariance of shape \(3,\): give one of m inputs"),
    (lambda: critical_point("tanh", residual="a"), "got residual='a': give a number"),
    (lambda: depth_scale(NAN), "got chi=nan: give a finite number"),
    (lambda: fixed_point("tanh", "1", 0.0, 1.0), "got C_W='1': give a number"),
    (lambda: linearized_training(I2, I2, torch.ones(1, 1), ()), "training starts at 0"),
    (lambda: mode_strength(1.0, NAN, 0.1, 2.0), "got s=nan: give a finite number"),
    (lambda: asymptotic_kernel("tanh", ONE, (NAN, 1.0)), "a layer, its kernel"),
    (lambda: connected_four_point(I2, 8.0, (0,) * 4, (0,) * 4), "vertex of shape"),
    (lambda: connected_four_point(V4, 8.0, (0,) * 4, (0, 0, 0, 7)), "give numbers from 0 to 1"),
    (lambda: depth_scales("tanh", "1"), "got C_W='1': give a number"),
    (lambda: four_index(I2, 2), r"for 2 inputs: give \(..., 3, 3\)"),
    (lambda: kernel_moment("relu", "ab", 2), "got widths='ab': give a list of whole numbers"),
    (lambda: single_input_flow(LAYERS, "a"), "got norm='a': give a number or a tensor"),
    (lambda: spread_per_layer("relu", NAN), "got K=nan: give a finite number"),
    (lambda: noise_distance(1.5), "got count=1.5: give a whole number"),
    (lambda: normal_distance(torch.ones(5), variance=-1.0), "got variance=-1.0: give a number that is not negative"),
    (lambda: partial_jacobian("tanh", 2, C_W="a"), "got C_W='a': give a number or a tensor"),
    (lambda: jacobian_spectrum("tanh", NAN, K=1.0, C_W=1.0), "got depth=nan: give a finite number"),
    (lambda: critical_rates(critical_point("tanh"), 3, bias=-1.0), "got bias=-1.0"),
    (lambda: relu_dispersion(Layers.of("relu", depth=2, C_W=2.0), -1.0), "got norm=-1.0"),
    (lambda: tangent_flow(LAYERS, None), "got norm=None: give a number or a tensor"),
    (lambda: tangent_tensors(LAYERS, "a"), "got gram='a': give a tensor"),
    (lambda: tangent_tensors(LAYERS, NAN * I2), "got gram with nan in it"),
]


@pytest.mark.parametrize(("call", "message"), CASES, ids=[message[:40] for _, message in CASES])
def test_one_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_what_is_good_passes() -> None:
    @checked(infinite=("time",), negative=("size",), nan=("K",))
    def f(time: float, size: torch.Tensor | float | None, K: torch.Tensor, counts: object = ()) -> int:
        return 1

    for size in (None, 2, 0.0, torch.zeros(3), torch.tensor(1.0)):
        assert f(math.inf, size, NAN * I2) == 1
    assert f(torch.tensor(1.0), 1.0, K=I2, counts="anything") == 1
    assert f.__name__ == "f"
