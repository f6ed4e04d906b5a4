"""Generalization against depth: the numbers of the closed form, and what the phases do."""

from __future__ import annotations

import json
import math

import pytest
import torch
from rich.console import Console

from leadline.theory.dynamics import (
    GradientDescent,
    expected_error,
    generalization_profile,
    linearized_training,
)
from leadline.theory.flow import Layers, kernel_matrices
from leadline.theory.tangent import tangent_matrices

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = X / X.norm(dim=1, keepdim=True) * 3**0.5
VALUES = torch.sin(2 * X[:, 0]) + 0.5 * X[:, 1] * X[:, 2]
DATA = 12
ERF = {"ordered": (0.5, 0.05), "critical": (math.pi / 4, 0.0), "chaotic": (2.5, 0.05)}


def test_numbers_are_those_of_the_closed_form() -> None:
    rates = {"lambda_b": [0.1, 0.2, 0.3], "lambda_W": [1.0, 0.5, 2.0]}
    found = generalization_profile(
        "erf", X, VALUES, DATA, depths=[3, 1], settings=ERF, time=7, rule=GradientDescent(0.01), **rates
    )
    assert found.depths == (1, 3)
    layers = Layers.of("erf", depth=3, C_W=2.5, C_b=0.05, **rates)
    K, Theta = kernel_matrices(layers, X)[-1], tangent_matrices(layers, X)[-1]
    error = expected_error(linearized_training(K, Theta, VALUES[:DATA], [7], GradientDescent(0.01)), VALUES)
    assert float(found.total[2, 1]) == pytest.approx(float(error.total[0, DATA:].mean()), rel=1e-10)
    assert float(found.bias[2, 1]) == pytest.approx(float(error.bias[0, DATA:].mean()), rel=1e-10)


def test_chaos_multiplies_the_variance_with_depth() -> None:
    """Bias-free ReLU: C_W multiplies K by (C_W/2)^depth and Theta by a number, so the variance and not the bias."""
    C_W, depths = 2.6, [2, 3, 4]
    found = generalization_profile(
        "relu", X, VALUES, DATA, depths=depths, settings={"critical": (2.0, 0.0), "chaotic": (C_W, 0.0)}, lambda_b=0.0
    )
    torch.testing.assert_close(found.bias[1], found.bias[0], rtol=1e-7, atol=1e-9)
    ratio = torch.tensor([(C_W / 2) ** d for d in depths], dtype=torch.float64)
    torch.testing.assert_close(found.variance[1], found.variance[0] * ratio, rtol=1e-7, atol=1e-9)


def test_off_criticality_depth_costs_bias_or_variance_and_order_costs_time() -> None:
    end = generalization_profile("erf", X, VALUES, DATA, depths=[3, 30], settings=ERF)
    soon = generalization_profile("erf", X, VALUES, DATA, depths=[3, 30], settings=ERF, time=1000)
    ordered, critical, chaotic = range(3)
    assert float(end.total[chaotic, 1]) > end.guess > float(end.total[critical, 1])
    # order: inputs look alike, so differences between them are learned, but only after a time exponential in depth
    assert float(end.variance[ordered, 1]) < 1e-6 * float(end.variance[ordered, 0])
    assert float(end.bias[ordered, 1]) < 0.5 * end.guess
    assert float(soon.bias[ordered, 1]) > 0.9 * float(VALUES[DATA:].var(correction=0))
    assert float(soon.bias[critical, 1]) == pytest.approx(float(end.bias[critical, 1]), rel=0.1)


def test_profile_prints_plots_and_serialises() -> None:
    found = generalization_profile("erf", X, VALUES, DATA, depths=[1, 3], settings=ERF)
    console = Console(width=110, record=True)
    console.print(found)
    assert console.export_text().count("chaotic") == 2
    assert json.loads(json.dumps(found.to_dict()))["settings"][1]["label"] == "critical"
    figure = found.plot()
    assert [ax.get_title("left") for ax in figure.axes] == ["squared bias", "variance over initializations", "sum"]
    lines = figure.axes[2].get_lines()
    assert lines[1].get_ydata()[1] == pytest.approx(float(found.total[1, 1]))
    assert found.best[0] in ERF


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="leave some for the test"):
        generalization_profile("erf", X, VALUES, 20, depths=[1], settings=ERF)
    with pytest.raises(ValueError, match="got depths"):
        generalization_profile("erf", X, VALUES, DATA, depths=[], settings=ERF)
