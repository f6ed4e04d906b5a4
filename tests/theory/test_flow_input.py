"""What the flow takes: any name of an activation, variances, covariances; and what it refuses, in one sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from leadline.activations import activation
from leadline.theory.bayes import gp_posterior
from leadline.theory.covariance_sde import covariance_sde
from leadline.theory.criticality import fixed_point
from leadline.theory.deep_linear import linear_kernel_moment
from leadline.theory.dynamics import linearized_training
from leadline.theory.flow import (
    Layers,
    asymptotic_angle,
    asymptotic_kernel,
    correlation_flow,
    depth_scales,
    kernel_flow,
    kernel_moment,
    log_law,
    log_normal_limit,
    many_input_flow,
    single_input_flow,
    spread_per_layer,
)
from leadline.theory.jacobian import partial_jacobian

ONE = torch.ones(1, dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
TANH = Layers.of("tanh", depth=3)
HALF: Any = [2, 2.5, 3]
UNSHAPED: Any = "tanh"
SKEW = torch.tensor([[1.0, 0.3], [0.1, 1.0]], dtype=torch.float64)

TAKES = {
    "kernel_flow": lambda a: float(kernel_flow(a, [0.0], [1.5], ONE)[0][-1]),
    "kernel_moment": lambda a: kernel_moment(a, [5, 7], 2),
    "log_law": lambda a: log_law(a, [5, 7]).mean,
    "log_normal_limit": lambda a: log_normal_limit(a, [5, 7]).variance,
    "asymptotic_angle": lambda a: asymptotic_angle(a, ONE),
    "spread_per_layer": lambda a: spread_per_layer(a),
    "fixed_point": lambda a: fixed_point(a, 1.5, 0.1, 1.0).K,
    "depth_scales": lambda a: depth_scales(a, 1.5, 0.1).chi_perp,
}


@pytest.mark.parametrize("name", TAKES)
def test_an_activation_may_be_a_name_or_a_module(name: str) -> None:
    call = TAKES[name]
    want = call(activation("relu"))
    assert call("relu") == want
    assert call(torch.nn.ReLU()) == want
    assert call("abs") != want
    with pytest.raises(ValueError, match="no activation called"):
        call("rleu")


def test_the_asymptotic_kernel_takes_a_name_too() -> None:
    depth = torch.tensor([10.0, 100.0])
    assert torch.equal(asymptotic_kernel("tanh", depth, (3, 0.2)), asymptotic_kernel(torch.nn.Tanh(), depth, (3, 0.2)))


REFUSED = {
    "negative C_W of a flow": (lambda: kernel_flow("tanh", [0.0], [-1.0], ONE), "not negative"),
    "C_b that is no number": (lambda: kernel_flow("tanh", [math.nan], [1.0], ONE), r"C_b=\[nan\]: give finite numbers"),
    "unequal lengths": (lambda: kernel_flow("tanh", [0.0], [1.0, 1.0], ONE), "got 1 values of C_b and 2 of C_W"),
    "kernel that is no number": (lambda: kernel_flow("tanh", [0.0], [1.0], math.nan * ONE), "first with nan in it"),
    "input that is no number": (lambda: single_input_flow(TANH, math.nan), "norm=nan: give a finite number"),
    "negative C_W of a fixed point": (lambda: fixed_point("tanh", -1.0, 0.1, 1.0), "variances"),
    "fixed point from no number": (lambda: fixed_point("tanh", 1.0, 0.1, math.nan), "K=nan: give a finite number"),
    "scales of no number": (lambda: depth_scales("tanh", math.nan, 0.1), "C_W=nan: give a finite number"),
    "scales of a negative C_b": (lambda: depth_scales("tanh", 1.0, -0.1), "variances"),
    "half a neuron": (lambda: Layers.of("tanh", widths=HALF), "whole numbers"),
    "vertex of a skew matrix": (lambda: many_input_flow(TANH, SKEW), "not symmetric or not finite"),
    "vertex of no number": (lambda: many_input_flow(TANH, math.nan * EYE), "gram with nan in it"),
    "correlations of a skew matrix": (lambda: correlation_flow(TANH, SKEW), "not symmetric or not finite"),
    "moment of no neuron": (lambda: kernel_moment("relu", [3, 0], 2), "at least 1"),
    "law of no neuron": (lambda: log_law("relu", [0]), "at least 1"),
    "limit of no neuron": (lambda: log_normal_limit("relu", [0]), "at least 1"),
    "linear moment of no neuron": (lambda: linear_kernel_moment([0], 2), "at least 1"),
    "targets that are no numbers": (lambda: gp_posterior(EYE, math.nan * ONE, 0.1), "NaN or infinite"),
    "kernel that cannot be trained": (lambda: linearized_training(math.nan * EYE, EYE, ONE), "K with nan in it"),
    "time before the start": (lambda: linearized_training(EYE, EYE, ONE, [-1.0]), "training starts at 0"),
    "Jacobian of no number": (lambda: partial_jacobian("tanh", 3, C_W=math.nan), "C_W=nan: give a finite number"),
    "SDE of an unshaped activation": (lambda: covariance_sde(UNSHAPED), r"shape\(activation, width\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_variance_no_covariance_no_width_is_refused(case: str) -> None:
    call, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        call()
