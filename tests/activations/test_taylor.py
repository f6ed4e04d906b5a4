"""Derivatives at 0 from either side, by autodiff and, where that fails, by interpolation."""

from __future__ import annotations

import math

import pytest
import torch

from leadline.activations import activation
from leadline.activations.taylor import one_sided_derivatives

EXACT = {
    "tanh": ([0, 1, 0, -2, 0, 16], None),
    "sin": ([0, 1, 0, -1, 0, 1], None),
    "cos": ([1, 0, -1, 0, 1, 0], None),
    "sigmoid": ([1 / 2, 1 / 4, 0, -1 / 8, 0, 1 / 4], None),
    "silu": ([0, 1 / 2, 1 / 2, 0, -1 / 2, 0], None),
    "mish": ([0, 0.6, 0.64, -0.096, -1.1008, -0.0448], None),
    "gaussian": ([1, 0, -2, 0, 12, 0], None),
    "relu": ([0, 1, 0, 0, 0, 0], [0] * 6),
    "elu": ([0, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]),
    "softsign": ([0, 1, -2, 6, -24, 120], [0, 1, 2, 6, 24, 120]),
    "step": ([1, 0, 0, 0, 0, 0], [0] * 6),
    "hardswish": ([0, 1 / 2, 1 / 3, 0, 0, 0], None),
}


@pytest.mark.parametrize("name", EXACT)
def test_against_known_derivatives(name: str) -> None:
    right, left = EXACT[name]
    got = activation(name).taylor(5)
    for side, want in zip(got, (right, left or right), strict=True):
        assert torch.allclose(side, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_what_autodiff_cannot_see_is_interpolated() -> None:
    def detached(z: torch.Tensor) -> torch.Tensor:
        return torch.where(z > 0, torch.tanh(z), torch.expm1(z)).detach()

    right, left = one_sided_derivatives(detached, 3)
    assert torch.allclose(right, torch.tensor([0, 1, 0, -2.0]).double(), rtol=0, atol=1e-6)
    assert torch.allclose(left, torch.tensor([0, 1, 1, 1.0]).double(), rtol=0, atol=1e-6)


def test_a_tensor_only_callable() -> None:
    scale = torch.tensor(1.5, dtype=torch.float64)
    right, _ = activation(lambda z: torch.mul(scale, torch.sin(z))).taylor(3)
    assert right.tolist() == pytest.approx([0, 1.5, 0, -1.5])
    assert math.isclose(float(right[3]), -1.5)


def test_negative_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order must be 0 or more, got -1"):
        activation("tanh").taylor(-1)
