"""What each layer adds to the mean tangent kernel, and learning rates that make all layers alike."""

from __future__ import annotations

import pytest
import torch

from leadline.theory.criticality import critical_point
from leadline.theory.flow import Layers
from leadline.theory.tangent import (
    critical_rates,
    equal_rates,
    layer_contributions,
    layer_contributions_between,
    scaling_sentence,
    tangent_flow,
    tangent_matrices,
)

LAW = {"C_b": (0.1, 0.2, 0.05, 0.1), "C_W": (1.2, 1.4, 1.1, 1.3), "lambda_b": (0.5, 0.8, 0.3, 0.6)}


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
def test_layers_sum_to_the_mean(name: str) -> None:
    layers = Layers.of(name, depth=4, lambda_W=(1.0, 0.7, 1.2, 0.9), **LAW)
    norm = torch.tensor([0.4, 1.3], dtype=torch.float64)
    parts = layer_contributions(layers, norm)
    torch.testing.assert_close(parts.total, tangent_flow(layers, norm).Theta[-1])
    torch.testing.assert_close(parts.share.sum(0), torch.ones_like(norm))
    x = torch.randn(3, 5, dtype=torch.float64)
    between = layer_contributions_between(layers, x)
    torch.testing.assert_close(between.total, tangent_matrices(layers, x)[-1])
    alone = layer_contributions(layers, x.square().mean(1))
    torch.testing.assert_close(between.weight.diagonal(dim1=1, dim2=2), alone.weight)
    # a layer with rate 0 adds nothing, and the others stay as they are
    off = Layers.of(name, depth=4, lambda_W=(1.0, 0.0, 1.2, 0.9), **LAW)
    torch.testing.assert_close(layer_contributions(off, norm).total, parts.total - parts.weight[1])


@pytest.mark.parametrize("name", ["relu", "tanh", "erf", "elu", "selu", "gelu", "silu"])
def test_critical_rates_make_layers_alike_and_depth_irrelevant(name: str) -> None:
    point = critical_point(name)
    norm = (point.K - point.C_b) / point.C_W if point.K else 1.0
    totals = []
    for depth in (200, 800):
        rates = critical_rates(point, depth)
        layers = Layers.of(name, depth=depth, C_W=point.C_W, C_b=point.C_b, lambda_b=rates[0], lambda_W=rates[1])
        parts = layer_contributions(layers, norm)
        for v in (parts.bias, parts.weight):
            late = v[depth // 2 :]
            assert float(late.min() / late.max()) > 0.96
        totals.append(parts.total)
    assert float(totals[1] / totals[0]) == pytest.approx(1, abs=0.1)


def test_uniform_rates_do_not_do_so_for_tanh() -> None:
    # control: with the rates of the scale-invariant class biases of early layers are lost
    totals = []
    for depth in (200, 800):
        rates = critical_rates(critical_point("relu"), depth)
        parts = layer_contributions(Layers.of("tanh", depth=depth, lambda_b=rates[0], lambda_W=rates[1]), 1.0)
        assert float(parts.bias[depth // 2] / parts.bias[-1]) < 0.6
        totals.append(parts.weight.sum())
    assert float(totals[1] / totals[0]) < 0.5


@pytest.mark.parametrize(("name", "C_W", "C_b"), [("tanh", 1.5, 0.1), ("relu", 1.0, 0.3), ("gelu", 2.2, 0.0)])
def test_equal_rates_are_exact_off_criticality(name: str, C_W: float, C_b: float) -> None:
    layers = equal_rates(Layers.of(name, depth=30, C_W=C_W, C_b=C_b), 0.7, bias=0.3, weight=2.0)
    parts = layer_contributions(layers, 0.7)
    torch.testing.assert_close(parts.bias, torch.full_like(parts.bias, 0.3 / 30))
    torch.testing.assert_close(parts.weight, torch.full_like(parts.weight, 2.0 / 30))


def test_sentences_and_refusals() -> None:
    assert scaling_sentence(critical_point("relu")).endswith("fall with depth as 1/L.")
    assert "L^0 l^-1" in scaling_sentence(critical_point("tanh"))
    assert "L^1 l^-2, weight rates as L^1 l^0" in scaling_sentence(critical_point("elu"))
    with pytest.raises(ValueError, match="has no critical point: use equal_rates"):
        critical_rates(critical_point("sigmoid"), 3)
    with pytest.raises(ValueError, match="vanishes or explodes"):
        equal_rates(Layers.of("relu", depth=3, C_W=(1.0, 0.0, 1.0)), 1.0)
    with pytest.raises(ValueError, match="at least 1 layer"):
        critical_rates(critical_point("relu"), 0)
