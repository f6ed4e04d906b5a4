"""Kernels of inputs that have collapsed round past what a covariance may be."""

from __future__ import annotations

import pytest
import torch

from leadline.activations import activation
from leadline.rules.kernel import gram


@pytest.mark.parametrize("order", [0, 1])
def test_a_correlation_that_rounds_past_one_counts_as_one(order: int) -> None:
    K = torch.tensor([[1.0, 1.0 + 3e-8], [1.0 + 3e-8, 1.0]], dtype=torch.float64)
    exact = gram(activation("relu"), torch.ones(2, 2, dtype=torch.float64), 1e-10, order)
    assert torch.allclose(gram(activation("relu"), K, 1e-10, order), exact, rtol=1e-9)


def test_what_is_no_covariance_is_still_refused() -> None:
    K = torch.tensor([[1.0, 1.01], [1.01, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="must not exceed"):
        gram(activation("relu"), K, 1e-10, 0)
