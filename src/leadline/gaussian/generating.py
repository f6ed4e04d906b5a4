"""Expectations that the generating function of the Gaussian gives: sums of exponentials, Gaussian bumps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.arguments import check_size, checked

__all__ = ["bump_expectation", "exponential_expectation"]

_EPS = 2.3e-16


@checked(nan=("covariance",))
def exponential_expectation(functions: Sequence[Sequence[tuple[complex, complex]]], covariance: Tensor) -> Expectation:
    r"""Expectation of a product of sums of exponentials, sine and cosine among them.

    .. math:: \Big\langle\prod_i \sum_k a_{ik} e^{b_{ik} z_i}\Big\rangle
              = \sum_{k_1\dots k_m} \prod_i a_{ik_i}\, e^{b^T K b/2}

    Args:
        functions: pairs (a, b) of each variable; sin is ((-i/2, i), (i/2, -i)). Their sum must be real.
        covariance: shape (..., m, m), units of z squared.
    Returns:
        Expectation of shape (...), float64; its error is the rounding of the terms, which cancel where odd
        functions meet small variances.
    """
    check_size(covariance, len(functions))
    K = covariance.detach().to(torch.float64)
    value = torch.zeros(K.shape[:-2], dtype=torch.float64, device=K.device)
    size = torch.zeros_like(value)
    for terms in itertools.product(*functions):
        a = math.prod((complex(t[0]) for t in terms), start=complex(1.0))
        b = torch.tensor([complex(t[1]) for t in terms], dtype=torch.complex128, device=K.device)
        # Real and imaginary parts of b^T K b, each a sum of real products.
        re = ((b.real * (K @ b.real)) - (b.imag * (K @ b.imag))).sum(dim=-1) / 2
        im = (b.real * (K @ b.imag)).sum(dim=-1)
        grown = re.exp()
        value = value + grown * (a.real * im.cos() - a.imag * im.sin())
        size = size + grown * abs(a) * (1 + re.abs() + im.abs())
    return Expectation(value, 8 * _EPS * size)


@checked(negative=("rates",), nan=("covariance",))
def bump_expectation(rates: Sequence[float], covariance: Tensor) -> Expectation:
    r"""Expectation of a product of Gaussian bumps :math:`e^{-q_i z_i^2}`.

    .. math:: \Big\langle\prod_i e^{-q_i z_i^2}\Big\rangle = \det(1 + 2 Q^{1/2} K Q^{1/2})^{-1/2}

    Args:
        rates: q of each variable, >= 0, units of 1/z squared.
        covariance: shape (..., m, m), units of z squared.
    Returns:
        Expectation of shape (...), float64.
    Raises:
        ValueError: the covariance has another size, or is none.
    """
    check_size(covariance, len(rates))
    K = covariance.detach().to(torch.float64)
    root = torch.tensor(rates, dtype=torch.float64, device=K.device).sqrt()
    matrix = torch.eye(len(rates), dtype=torch.float64, device=K.device) + 2 * root[:, None] * K * root
    determinant = torch.linalg.det(matrix)
    if bool((determinant <= 0).any()):
        raise ValueError("got a covariance with a negative eigenvalue: give that of actual variables.")
    value = determinant.rsqrt()
    return Expectation(value, 64 * _EPS * value)
