"""Bayesian inference at finite width: the 1/n corrections of posterior, evidence and hidden kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.bayes.posterior import Posterior, factored, gp_posterior, targets

__all__ = ["FiniteWidthPosterior", "finite_width_posterior"]


@dataclass(frozen=True)
class FiniteWidthPosterior:
    r"""Posterior at infinite width and the coefficients of 1/n beside it.

    ``infinite``: the Gaussian process. Coefficients of 1/n: ``mean`` (m, outputs); ``covariance`` (m, m), the
    same for every output; ``cross_covariance`` (m, outputs, m, outputs), a further covariance, between
    different outputs too (0 at infinite width); ``log_evidence`` (); ``kernel`` (m, m), the shift that the data
    give the last kernel's posterior mean, prior shift G1 included. ``prior`` (m, m): K itself.
    """

    infinite: Posterior
    prior: Tensor
    mean: Tensor
    covariance: Tensor
    cross_covariance: Tensor
    log_evidence: Tensor
    kernel: Tensor

    def mean_at(self, width: float) -> Tensor:
        """Posterior mean at width n, to order 1/n, shape (m, outputs)."""
        return self.infinite.mean + self.mean / width

    def covariance_at(self, width: float) -> Tensor:
        """Posterior covariance of all outputs at width n, to order 1/n, shape (m, outputs, m, outputs)."""
        one = torch.eye(self.mean.shape[1], dtype=self.mean.dtype, device=self.mean.device)
        within = torch.einsum("ab,ij->aibj", self.infinite.covariance + self.covariance / width, one)
        return within + self.cross_covariance / width

    def log_evidence_at(self, width: float) -> Tensor:
        """Log evidence at width n, to order 1/n."""
        return self.infinite.log_evidence + self.log_evidence / width

    def kernel_at(self, width: float) -> Tensor:
        """Posterior mean of the last kernel at width n, to order 1/n, shape (m, m)."""
        return self.prior + self.kernel / width


@checked(nan=("K", "Y"))
def finite_width_posterior(K: Tensor, V: Tensor, G1: Tensor, Y: Tensor, noise: float) -> FiniteWidthPosterior:
    r"""Corrections of order 1/n to what data say about a network of width n.

    Given the last kernel :math:`\hat G = K + \delta` the outputs are Gaussian and independent, so the posterior
    of anything is its mean over :math:`\hat G` with weight :math:`p(Y|\hat G)`. With
    :math:`E\delta = G_1/n`, :math:`\mathrm{Cov}\,\delta = V/n` and all derivatives with respect to K,

    .. math::
        \mu + \tfrac1n [G_1 \cdot d\mu + V \cdot (\tfrac12 dd\mu + d\mu\, d\ln p)] , \qquad
        \ln p + \tfrac1n [G_1 \cdot d\ln p + \tfrac12 V \cdot (dd\ln p + d\ln p\, d\ln p)] , \qquad
        E[\hat G|Y] = K + \tfrac1n [G_1 + V \cdot d\ln p]

    The sum over outputs in d ln p lets one output's data move another's prediction.

    Args:
        K: infinite-width covariance of one output over m inputs, data first, shape (m, m), units of z squared.
        V: four-point vertex, n Cov(G_ab, G_cd), shape (m, m, m, m), units of z to the fourth.
        G1: coefficient of 1/n in E G - K, shape (m, m), units of z squared.
        Y: targets at the first M inputs, shape (M,) or (M, outputs), units of z.
        noise: variance of the noise on every target, units of z squared.

    Returns:
        The posterior at infinite width and its corrections. They are the first order of an expansion: where they
        are not small at the width of interest, use :func:`importance_posterior`.

    Raises:
        ValueError: shapes do not fit, the noise is negative, or K is no covariance.

    Source: Roberts, Yaida and Hanin (2022), section 6.4; derivation own.
    """
    if K.ndim != 2:
        raise ValueError(f"got a kernel of shape {tuple(K.shape)}: give (m, m).")
    y = targets(K, Y)
    m, M, outputs = K.shape[0], y.shape[0], y.shape[1]
    if tuple(V.shape) != (m,) * 4 or tuple(G1.shape) != (m, m):
        raise ValueError(
            f"got V of shape {tuple(V.shape)} and G1 of shape {tuple(G1.shape)} beside a kernel of {m} inputs: "
            f"give {(m,) * 4} and {(m, m)}."
        )
    infinite = gp_posterior(K, y, noise)
    L, _ = factored(K[:M, :M], noise)
    inverse = torch.cholesky_inverse(L)
    alpha = inverse @ y
    # A change d of the kernel moves the mean by T d[:, X] alpha and the covariance by T d T^T.
    T = torch.eye(m, dtype=K.dtype, device=K.device)
    T[:, :M] -= K[:, :M] @ inverse

    slope = torch.zeros_like(K)  # d ln p
    slope[:M, :M] = (alpha @ alpha.T - outputs * inverse) / 2
    learned = G1 + torch.einsum("abcd,cd->ab", V, slope)
    # E of d C^{-1} d, the second derivatives' common part
    twice = torch.einsum("abcd,bc->ad", V[:, :M, :M, :], inverse)
    moves = torch.einsum("xa,abcd,bi,dj,yc->xiyj", T, V[:, :M, :, :M], alpha, alpha, T)
    mean = T @ (learned[:, :M] - twice[:, :M]) @ alpha
    covariance = T @ (learned - twice) @ T.T
    bend = -(alpha * (twice[:M, :M] @ alpha)).sum() + outputs / 2 * (inverse * twice[:M, :M]).sum()
    evidence = (G1 * slope).sum() + (bend + ((learned - G1) * slope).sum()) / 2
    return FiniteWidthPosterior(infinite, K, mean, covariance, moves, evidence, learned)
