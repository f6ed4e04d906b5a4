"""Gaussian-process posterior and log evidence of a wide network, from any kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked

__all__ = ["Posterior", "factored", "gp_posterior", "targets"]

_LARGEST_JITTER = 1e-6  # relative to the mean variance: beyond it the kernel is no covariance


@dataclass(frozen=True)
class Posterior:
    """Posterior of the outputs at m inputs, the first M of which carry data.

    ``mean`` (..., m, outputs); ``covariance`` (..., m, m), the same for every output; ``log_evidence`` (...), of
    all outputs together; ``jitter`` (...): what had to be added to the noise variance before the kernel of the
    data could be factored, 0 where nothing had to.
    """

    mean: Tensor
    covariance: Tensor
    log_evidence: Tensor
    jitter: Tensor


@checked(nan=("K", "Y"))
def gp_posterior(K: Tensor, Y: Tensor, noise: float) -> Posterior:
    r"""Posterior and log evidence of independent Gaussian outputs with covariance K.

    .. math:: \mu = K_{\cdot X} C^{-1} Y, \quad \Sigma = K - K_{\cdot X} C^{-1} K_{X\cdot}, \quad C = K_{XX} + s^2,
        \qquad \ln p(Y) = -\tfrac12 \operatorname{tr} Y^T C^{-1} Y - \tfrac{n_L}{2}\ln\det C
        - \tfrac{n_L M}{2}\ln 2\pi

    Args:
        K: covariance of one output over m inputs, shape (..., m, m), units of z squared; data first.
        Y: targets at the first M inputs, shape (M,) or (M, outputs), units of z.
        noise: variance s^2 of the noise on every target, units of z squared.

    Returns:
        The posterior at all m inputs (of the noise-free outputs), with the jitter that was needed.

    Raises:
        ValueError: shapes do not fit, the noise is negative, or K is no covariance.

    Source: Neal (1996); Lee et al. (2018); Roberts, Yaida and Hanin (2022), section 6.3.

    >>> out = gp_posterior(torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64), torch.tensor([2.0]), noise=1.0)
    >>> round(out.mean[1].item(), 12), round(out.covariance[1, 1].item(), 12)
    (0.5, 0.875)
    """
    y = targets(K, Y)
    M = y.shape[0]
    L, jitter = factored(K[..., :M, :M], noise)
    white = torch.linalg.solve_triangular(L, y.expand(*K.shape[:-2], *y.shape), upper=False)
    cross = torch.linalg.solve_triangular(L, K[..., :M, :], upper=False)
    half_logdet = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    evidence = -white.square().sum((-2, -1)) / 2 - y.shape[1] * (half_logdet + M / 2 * math.log(2 * math.pi))
    return Posterior(cross.mT @ white, K - cross.mT @ cross, evidence, jitter)


def targets(K: Tensor, Y: Tensor) -> Tensor:
    """Targets as a matrix, checked against the kernel.

    Args:
        K: kernel, shape (..., m, m).
        Y: targets at the first M inputs, shape (M,) or (M, outputs).

    Returns:
        Shape (M, outputs), dtype and device of K.

    Raises:
        ValueError: K is not square, or Y has another number of axes, no row, more rows than K, or is not finite.
    """
    if K.ndim < 2 or K.shape[-1] != K.shape[-2]:
        raise ValueError(f"got a kernel of shape {tuple(K.shape)}: give (..., m, m), data first.")
    if Y.ndim not in (1, 2) or not 1 <= Y.shape[0] <= K.shape[-1]:
        wanted = f"(M,) or (M, outputs) with M from 1 to {K.shape[-1]}, the size of the kernel"
        raise ValueError(f"got targets of shape {tuple(Y.shape)}: give {wanted}.")
    if not bool(torch.isfinite(Y).all()):
        raise ValueError("got targets with entries that are NaN or infinite: give finite ones.")
    return (Y[:, None] if Y.ndim == 1 else Y).to(K)


def factored(K: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    r"""Cholesky factor of K + noise, with as little jitter as it takes.

    .. math:: L L^T = K + s^2 + \text{jitter}

    Args:
        K: positive semi-definite, shape (..., M, M), units of z squared.
        noise: variance s^2, units of z squared.

    Returns:
        L, shape (..., M, M), and the jitter, shape (...): 0 where none was needed, else the first of
        4 M eps, 10 times that, … (times the mean variance) with which the factorization went through.

    Raises:
        ValueError: the noise is negative or not a number, K is not finite, or a jitter of 1e-6 of the mean
            variance is not enough.
    """
    if not noise >= 0:
        raise ValueError(f"got a noise variance of {noise}: give 0 or more.")
    if not bool(torch.isfinite(K).all()):
        raise ValueError("got a kernel with entries that are NaN or infinite: give a finite one.")
    eye = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)
    scale = K.diagonal(dim1=-2, dim2=-1).mean(-1) + noise
    jitter = torch.zeros_like(scale)
    size = 4 * K.shape[-1] * torch.finfo(K.dtype).eps
    while True:
        L, info = torch.linalg.cholesky_ex(K + (noise + jitter)[..., None, None] * eye)
        failed = info > 0
        if not bool(failed.any()):
            return L, jitter
        if size > max(_LARGEST_JITTER, 400 * K.shape[-1] * torch.finfo(K.dtype).eps):
            worst = float(torch.linalg.eigvalsh(K).min())
            raise ValueError(f"got a kernel with eigenvalue {worst:.3g}: give a positive semi-definite one.")
        jitter = torch.where(failed, size * scale, jitter)
        size *= 10
