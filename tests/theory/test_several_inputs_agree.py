"""Two roads to the tensors between several inputs: any activation by pairs, smooth ones on shared nodes."""

from __future__ import annotations

import pytest
import torch

from leadline.theory.flow import Layers, four_index, many_input_flow
from leadline.theory.tangent import tangent_tensors

GRAM = torch.tensor([[1.0, 0.4, -0.2], [0.4, 0.6, 0.1], [-0.2, 0.1, 0.9]], dtype=torch.float64)
LAWS = {"C_b": (0.1, 0.2, 0.05, 0.1), "C_W": (1.2, 1.4, 1.1, 1.3)}


@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_vertex_and_correction_are_the_same_by_both(name: str) -> None:
    layers = Layers.of(name, widths=(4, 12, 18, 12, 2), **LAWS)
    two = GRAM[:2, :2]
    pairs, nodes = many_input_flow(layers, two), tangent_tensors(layers, two)
    V = pairs.vertex
    scale = float(V.abs().max())
    assert torch.allclose(V, nodes.V, atol=2e-5 * scale)
    assert not torch.allclose(V, 1.001 * nodes.V, atol=2e-5 * scale)
    assert torch.allclose(pairs.K, nodes.K, atol=1e-9)
    assert torch.allclose(pairs.G1, nodes.G1, atol=2e-4 * float(nodes.G1.abs().max()))


def test_three_inputs_agree_within_the_stated_error() -> None:
    layers = Layers.of("tanh", widths=(4, 12, 18, 12, 2), **LAWS)
    pairs, nodes = many_input_flow(layers, GRAM), tangent_tensors(layers, GRAM)
    V = pairs.vertex
    error = four_index(pairs.V_error, 3)
    assert bool(((V - nodes.V).abs() <= 2 * error + 2e-5 * float(V.abs().max())).all())
