"""Rows and chains are the same for theory and measurement, on networks of every kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leadline.program import trace
from leadline.theory import predict
from leadline.theory.steps import chains, rowed_steps
from measure.nets import NETS, PostActivation


@pytest.mark.parametrize("name", NETS)
def test_chains_are_those_along_which_theory_has_susceptibilities(name: str) -> None:
    program = trace(*NETS[name]())
    prediction = predict(program)
    assert [row.step for row in prediction.rows] == [step.name for step in rowed_steps(program)]
    chain = chains(program)
    assert chain.keys() == {step.name for step in program.steps}
    with_value = {row.step for row in prediction.rows if "chi_perp" in row.values}
    assert with_value == {step.name for step in rowed_steps(program) if chain[step.name] is not None}


def test_a_chain_starts_at_weights_and_sums() -> None:
    program = trace(PostActivation(), torch.randn(3, 16))
    assert chains(program) == {
        "linear": None,
        "linear_1": "linear",
        "add": None,
        "relu": "add",  # the first sum is of two Gaussians
        "linear_2": "add",
        "add_1": None,
        "relu_1": None,  # the second is not
        "linear_3": "relu_1",
        "add_2": None,
        "relu_2": None,
        "linear_4": "relu_2",
    }


def test_views_and_norms_go_on_with_a_chain() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(16, 32, 3), nn.LayerNorm(32), nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(2 * self.norm(self.conv(x).permute(0, 2, 3, 1))))

    program = trace(Net(), torch.randn(2, 16, 5, 5))
    chain = chains(program)
    ops = {step.op: chain[step.name] for step in program.steps}
    assert ops["conv"] is None
    assert {ops[op] for op in ops if op != "conv"} == {"conv2d"}
    assert {step.op for step in rowed_steps(program)} == {"conv", "layer_norm", "pointwise", "linear"}
