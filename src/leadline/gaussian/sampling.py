"""Points of randomised quasi-Monte Carlo, and square roots of covariances that may be singular."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["correlation_root", "normal_points"]

_BITS = 2.0**-31
_RANK = 1e-14


def normal_points(
    variables: int, replicates: int, first: int, most: int, seed: int, device: torch.device | None = None
) -> Iterator[Tensor]:
    """Scrambled Sobol points of the standard Gaussian, in batches that double what went before.

    Args:
        variables: dimension m.
        replicates: independent scrambles R.
        first: points of the first batch, a power of two.
        most: points in all.
        seed: of the scrambles.
        device: where the points live.
    Yields:
        Shape (R, n, m), float64, with n = first, first, 2 first, 4 first, ... up to ``most`` points in all.
    Source: Sobol (1967), Matousek (1998) for the scrambling, by torch's engine.
    """
    engines = [torch.quasirandom.SobolEngine(variables, scramble=True, seed=seed * 7919 + r) for r in range(replicates)]
    total, count = 0, first
    while total < most:
        u = torch.stack([e.draw(count, dtype=torch.float64) for e in engines])
        # The engine gives the left ends of cells of width 2^-30: their centres keep the quantile finite.
        yield torch.special.ndtri((u + _BITS).clamp_max(1 - _BITS)).to(device)
        total += count
        count = total


def correlation_root(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations s and a pivoted Cholesky factor L of the correlations: K = s L L^T s.

    Args:
        covariance: shape (R, m, m), float64, units of z squared.
    Returns:
        s of shape (R, m), at least 1e-30; L of shape (R, m, m), its columns of falling size, zero beyond the
        rank.
    """
    sd = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt().clamp_min(1e-30)
    left = covariance / (sd[:, :, None] * sd[:, None, :])
    m, rows = covariance.shape[-1], torch.arange(covariance.shape[0], device=covariance.device)
    left = torch.where(torch.eye(m, dtype=torch.bool, device=covariance.device), 1.0, left.clamp(-1.0, 1.0))
    factor = torch.zeros_like(left)
    for k in range(m):
        pivot = left.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
        top = left[rows, pivot, pivot]
        column = left[rows, :, pivot] / top.clamp_min(_RANK).sqrt()[:, None]
        factor[:, :, k] = torch.where(top[:, None] > _RANK, column, 0.0)
        left = left - factor[:, :, k, None] * factor[:, None, :, k]
    return sd, factor
