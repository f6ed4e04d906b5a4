"""Sums of squares at the ends of single precision."""

from __future__ import annotations

import pytest
import torch

from leadline.program.squares import square_sum


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30])
def test_no_square_underflows_or_overflows(scale: float) -> None:
    entries = torch.randn(7, 33, generator=torch.Generator().manual_seed(0)) * scale
    exact = entries.double().square().sum()
    assert abs(square_sum(entries) / exact - 1) < 1e-6


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_any_shape_and_precision(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    entries = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.isclose(square_sum(entries), entries.double().square().sum(), rtol=1e-6, atol=0)


def test_not_finite_stays_not_finite() -> None:
    assert not torch.isfinite(square_sum(torch.tensor([1.0, float("inf")])))
    assert not torch.isfinite(square_sum(torch.tensor([1.0, float("nan")])))


def test_batched() -> None:
    entries = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(torch.func.vmap(square_sum)(entries), entries.double().square().sum((1, 2)), rtol=1e-6)
