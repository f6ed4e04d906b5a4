"""Measured rows agree with predicted ones within their standard errors, and a wrong law is rejected."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from leadline.measure import Measurement, compare, measure
from leadline.program import trace
from leadline.theory import Prediction, predict
from measure.nets import Image, Residual, dense, gpt2, stated

GRADIENTS = ("partial_jacobian", "tangent_kernel")
MOMENTS = ("kernel", "peak", "correlation", "site_correlation", "flat_fraction")
ALL = (*MOMENTS, *GRADIENTS, "chi_parallel", "chi_perp", "spread")


def disagreements(prediction: Prediction, measurement: Measurement, names: Iterable[str]) -> list[str]:
    """Quantities that are further apart than four standard errors and two percent (correlations: 0.02)."""
    found = []
    for row, name, value in compare(prediction, measurement):
        if name not in names or value.predicted is None:
            continue
        if value.measured is None:
            found.append(f"{row.step} {name}: not measured")
            continue
        p, m = value.predicted, value.measured
        slack = 0.02 if "correlation" in name else 0.02 * abs(p.value) + (1e-3 if "chi" in name else 0)
        if abs(m.value - p.value) > 4 * (m.error**2 + p.error**2) ** 0.5 + slack:
            found.append(f"{row.step} {name}: predicted {p.value:.4g}, measured {m.value:.4g} +- {m.error:.2g}")
    return found


@pytest.fixture(scope="module")
def tanh() -> tuple[nn.Module, torch.Tensor, Measurement]:
    torch.manual_seed(0)
    model, x = dense(), torch.randn(2, 32)
    program = trace(model, x, law={str(i): {"C_W": 1.5, "C_b": 0.1} for i in range(0, 10, 2)})
    return model, x, measure(model, x, draws=128, program=program)


def test_a_tanh_network_agrees_in_every_quantity(tanh: tuple[nn.Module, torch.Tensor, Measurement]) -> None:
    model, x, measurement = tanh
    law = {str(i): {"C_W": 1.5, "C_b": 0.1} for i in range(0, 10, 2)}
    prediction = predict(trace(model, x, law=law))
    assert disagreements(prediction, measurement, ALL) == []
    occurring = {name for row in prediction.rows for name in row.values}
    assert set(ALL) - {"site_correlation"} <= occurring
    largest = max(r.values["kernel"].error / r.values["kernel"].value for r in measurement.rows[:-1])
    assert largest < 0.01


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_wrong_weight_variance_is_rejected(factor: float, tanh: tuple[nn.Module, torch.Tensor, Measurement]) -> None:
    model, x, measurement = tanh
    wrong = {str(i): {"C_W": 1.5 * factor, "C_b": 0.1} for i in range(0, 10, 2)}
    found = disagreements(predict(trace(model, x, law=wrong)), measurement, ALL)
    for name in ("kernel", "partial_jacobian", "chi_perp"):
        assert any(name in line for line in found)


def test_a_wrong_bias_variance_is_rejected(tanh: tuple[nn.Module, torch.Tensor, Measurement]) -> None:
    model, x, measurement = tanh
    wrong = {str(i): {"C_W": 1.5, "C_b": 0.2} for i in range(0, 10, 2)}
    found = disagreements(predict(trace(model, x, law=wrong)), measurement, ALL)
    assert any("kernel" in line for line in found)
    assert any("correlation" in line for line in found)


@pytest.mark.parametrize(
    ("build", "shape"), [(Image, (2, 16, 8, 8)), (Residual, (3, 16))], ids=["convolutions", "residual"]
)
def test_convolutions_and_residual_blocks_agree(build: Any, shape: tuple[int, ...]) -> None:
    model, x = build(), torch.randn(shape)
    program = trace(model, x, law=stated(model))
    measurement = measure(model, draws=96, program=program, seed=1)
    assert disagreements(predict(program), measurement, ALL) == []
    off = {k: v | {"C_W": v["C_W"] * 1.1} for k, v in stated(model).items()}
    found = disagreements(predict(trace(model, x, law=off)), measurement, ALL)
    assert any("kernel" in line for line in found)
    assert any("partial_jacobian" in line for line in found)


def test_a_transformer_agrees_in_kernels_and_gradients() -> None:
    model, batch = gpt2()
    law = {}
    for name, module in model.named_modules():
        if type(module).__name__ == "Conv1D":  # the residual projections are scaled down by 1/sqrt(2 layers)
            law[name] = {"C_W": module.weight.shape[0] * 4e-4 / (4 if name.endswith("c_proj") else 1)}
    law["transformer.wpe"] = {"C_W": 4e-4}
    program = trace(model, batch, law=law)
    measurement = measure(model, program=program, draws=64)
    names = (*MOMENTS, "partial_jacobian")
    assert disagreements(predict(program), measurement, names) == []
    law |= {k: {"C_W": v["C_W"] * 4} for k, v in law.items() if k.endswith("c_proj")}
    found = disagreements(predict(trace(model, batch, law=law)), measurement, names)
    assert any("add" in line and "kernel" in line for line in found)
    assert any("partial_jacobian" in line for line in found)


def test_standard_errors_are_those_of_repetitions() -> None:
    model, x = dense(width=32, depth=2), torch.randn(2, 32)
    program = trace(model, x)
    repeats = [measure(model, program=program, draws=32, seed=1000 * i) for i in range(40)]
    for name in sorted(set(ALL) - {"site_correlation", "peak"}):
        ratios = []
        for i in range(len(repeats[0].rows)):
            found = [m.rows[i].values[name] for m in repeats if name in m.rows[i].values]
            if found and found[0].error > 0:
                value, error = torch.tensor([(v.value, v.error) for v in found]).T
                ratios.append(float(value.std() / error.square().mean().sqrt()))
        assert 0.75 < sum(ratios) / len(ratios) < 1.3, name  # one ratio of 40 repetitions has an error of 0.11
