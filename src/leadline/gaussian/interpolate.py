"""Mehler series for millions of pairs with as many variances: coefficients interpolated in log K."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.gaussian.hermite import hermite_series

__all__ = ["chebyshev_matrix", "chebyshev_points", "interpolated_series"]

_SIZES = (12, 24, 48, 96)
_SPAN = math.log(1e8)
_CHUNK = 8192


def chebyshev_points(n: int, low: float, high: float, device: torch.device | None = None) -> Tensor:
    """The n Chebyshev points of the first kind on [low, high], shape (n,), float64."""
    angle = (torch.arange(n, dtype=torch.float64, device=device) + 0.5) * (math.pi / n)
    return (low + high) / 2 + (high - low) / 2 * torch.cos(angle)


def chebyshev_matrix(x: Tensor, n: int, low: float, high: float) -> Tensor:
    """Chebyshev polynomials T_0..T_{n-1} of x scaled to [low, high], shape (n, *x.shape)."""
    t = ((2 * x - low - high) / (high - low)) if high > low else torch.zeros_like(x)
    rows = torch.empty(n, *x.shape, dtype=x.dtype, device=x.device)
    rows[0] = 1.0
    if n > 1:
        rows[1] = t
    for k in range(2, n):
        rows[k] = 2 * t * rows[k - 1] - rows[k - 2]
    return rows


def chebyshev_transform(n: int, device: torch.device | None = None) -> Tensor:
    """Matrix from values at the n Chebyshev points to coefficients, shape (n, n)."""
    t = chebyshev_points(n, -1.0, 1.0, device)
    matrix = chebyshev_matrix(t, n, -1.0, 1.0) * (2.0 / n)
    matrix[0] /= 2
    return matrix


def interpolated_series(
    f: Callable[[Tensor], Tensor],
    ka: Tensor,
    kb: Tensor,
    rho: Tensor,
    kinks: Sequence[float],
    rtol: float,
    order: int = 64,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Mean products of f for flat pairs, with Chebyshev interpolants in log K standing in for c_k(K).

    Args:
        f: pointwise function of a tensor.
        ka: variances of the first points, shape (N,), float64.
        kb: variances of the second points.
        rho: correlations.
        kinks: points where f or a derivative of it jumps.
        rtol: wanted error relative to the root of the product of the second moments.
        order: highest Hermite degree.
    Returns:
        (values, error bounds, scales) of shape (N,), or None where no interpolant meets a tenth of rtol.
    """
    low = math.log(max(min(float(ka.min()), float(kb.min())), 1e-300))
    high = math.log(max(float(ka.max()), float(kb.max()), 1e-300))
    if high - low > _SPAN or not math.isfinite(high):
        return None
    for size in _SIZES:
        points = chebyshev_points(size, low, high, ka.device)
        series = hermite_series(f, points.exp(), order, kinks)
        # Columns: the coefficients, the root of their tail, the root of the energy; each relative to the
        # energy.
        table = torch.cat([series.coefficients, series.tail[:, -1:].sqrt(), series.energy.sqrt()[:, None]], dim=1)
        cheb = chebyshev_transform(size, ka.device) @ table
        miss = cheb[-max(3, size // 8) :, : order + 1].abs().amax(dim=0).norm() / series.energy.sqrt().min()
        if float(miss) <= 0.1 * rtol:
            break
    else:
        return None
    value, bound, scale = (torch.empty_like(rho) for _ in range(3))
    for i in range(0, rho.numel(), _CHUNK):
        p = slice(i, i + _CHUNK)
        left = cheb.T @ chebyshev_matrix(ka[p].log(), size, low, high)
        right = cheb.T @ chebyshev_matrix(kb[p].log(), size, low, high)
        product = left.mul_(right)
        acc = product[order].clone()
        for k in range(order - 1, -1, -1):
            acc.mul_(rho[p]).add_(product[k])
        value[p] = acc
        scale[p] = product[order + 2]
        bound[p] = product[order + 1].abs() * rho[p].abs() ** (order + 1) + 2 * float(miss) * scale[p]
    return value, bound, scale
