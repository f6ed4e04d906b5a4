"""Draws of Gaussian functions of points, and gathering over points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from leadline.rules.banded import dense
from leadline.rules.kernel import Kernel

__all__ = ["REPLICATES", "conditional", "regression", "square_root", "standard_draws", "take"]

REPLICATES = 8  # independent blocks of draws, whose scatter gives the standard error


def standard_draws(count: int, size: int, seed: int) -> Tensor:
    """Standard normal draws, quasi-random in few dimensions, whose sample covariance is the identity in each block.

    The blocks (replicates) are independent, so that their scatter gives the standard error.

    Returns:
        Shape (count, size).
    """
    block = count // REPLICATES
    out = torch.empty(count, size, dtype=torch.float64)
    for r in range(REPLICATES):
        rows = out[r * block : (r + 1) * block]
        if size <= 32:
            engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=(seed * REPLICATES + r) % (2**31))
            u = engine.draw(block, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
            # another source with the same points would be dependent: shuffle the order
            order = torch.randperm(block, generator=torch.Generator().manual_seed(seed * REPLICATES + r))
            rows.copy_(torch.special.ndtri(u)[order])
        else:
            generator = torch.Generator().manual_seed(seed * REPLICATES + r)
            half = torch.randn(block // 2, size, generator=generator, dtype=torch.float64)
            rows.copy_(torch.cat([half, -half]))
        if size <= block // 4:
            cov = rows.T @ rows / block
            rows.copy_(torch.linalg.solve_triangular(torch.linalg.cholesky(cov), rows.T, upper=False).T)
    return out


def square_root(K: Kernel) -> Tensor:
    """A matrix whose product with its transpose is the covariance K, also where K is singular."""
    K = dense(K)
    scale = float(K.diagonal().abs().max())
    if not math.isfinite(scale):
        raise ValueError("a second moment on the way is not finite, so nothing can be drawn from it.")
    if scale == 0.0:
        return torch.zeros_like(K)
    eye = torch.eye(K.shape[0], dtype=K.dtype, device=K.device)
    jitter = 1e-12 if K.dtype == torch.float64 else 1e-6
    factor, info = torch.linalg.cholesky_ex(K + jitter * scale * eye)
    if int(info) == 0:
        return factor
    try:
        values, vectors = torch.linalg.eigh(K)
    except torch.linalg.LinAlgError as error:  # entries near the largest number that there is
        raise ValueError("a second moment on the way is too large, so nothing can be drawn from it.") from error
    return vectors * values.clamp_min(0).sqrt()


_SINGULAR = 1e-9  # share of the largest eigenvalue below which a joint covariance has no inverse


def regression(joint: Tensor, C: Tensor) -> Tensor:
    """Coefficients of the best linear guess of a Gaussian from others.

    Args:
        joint: covariance of the others (Q, Q), which may be singular.
        C: their covariance with it (Q, P).

    Returns:
        Shape (Q, P).
    """
    return torch.linalg.pinv(joint, rtol=_SINGULAR, hermitian=True) @ C


def conditional(earlier: Tensor, joint: Tensor, C: Tensor, covariance: Tensor, z: Tensor) -> Tensor:
    """Gaussian draws given other ones.

    Args:
        earlier: draws of the others (draws, Q).
        joint: their covariance (Q, Q).
        C: covariance of the others with these (Q, P).
        covariance: of these (P, P).
        z: standard normal draws (draws, P).

    Returns:
        Shape (draws, P).
    """
    gain = regression(joint, C)
    return earlier @ gain + z @ square_root(covariance - C.T @ gain).T


def take(values: Tensor, index: Tensor, dim: int) -> Tensor:
    """``index_select`` in which -1 stands for zero."""
    values = dense(values)
    picked = values.index_select(dim, index.clamp_min(0))
    if bool((index < 0).any()):
        shape = [1] * picked.ndim
        shape[dim] = -1
        picked = picked * (index >= 0).reshape(shape).to(picked)
    return picked
