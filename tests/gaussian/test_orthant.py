"""Bivariate normal probabilities and truncated moments against quadrature."""

from __future__ import annotations

import math

import pytest
import torch

from leadline.gaussian import expectation2
from leadline.gaussian.orthant import truncated_moments, upper_probability


def test_orthant_probability_closed_form() -> None:
    rho = torch.tensor([-1, -0.9999999, -0.5, 0, 0.3, 0.9999999, 1], dtype=torch.float64)
    zero = torch.zeros_like(rho)
    exact = 0.25 + torch.asin(rho) / (2 * math.pi)
    assert torch.allclose(upper_probability(zero, zero, rho), exact, rtol=0, atol=2e-16)


@pytest.mark.parametrize(("h", "k"), [(0.0, 0.7), (-1.2, 0.4), (2.0, 2.0), (-0.5, -3.0), (0.0, -1.0)])
def test_moments_against_quadrature(h: float, k: float) -> None:
    rho = torch.tensor([-0.999, -0.3, 0.0, 0.6, 0.99999], dtype=torch.float64)
    m = truncated_moments(torch.full_like(rho, h), torch.full_like(rho, k), rho, 2, 3)
    one = torch.ones_like(rho)
    for i in range(3):
        for j in range(4):
            want = expectation2(
                lambda z, i=i: z**i * (z > h), lambda z, j=j: z**j * (z > k), one, rho, one,
                kinks_f=(h,), kinks_g=(k,),
            )  # fmt: skip
            assert torch.all((m[i][j] - want.value).abs() <= 2e-14 + want.error), (i, j)
