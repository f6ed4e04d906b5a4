"""Bayesian inference at any width, by weighting sampled last kernels with the evidence of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.bayes.posterior import gp_posterior, targets

__all__ = ["SampledPosterior", "importance_posterior"]

_FEWEST = 50


@dataclass(frozen=True)
class SampledPosterior:
    """Posterior over sampled kernels, each number with its standard error.

    ``mean`` (m, outputs); ``covariance`` (m, outputs, m, outputs); ``log_evidence`` (); ``kernel`` (m, m), the
    posterior mean of the last kernel; ``effective``: number of equally weighted samples that would say as much.
    """

    mean: Tensor
    mean_error: Tensor
    covariance: Tensor
    covariance_error: Tensor
    log_evidence: Tensor
    log_evidence_error: Tensor
    kernel: Tensor
    kernel_error: Tensor
    effective: float


@checked(nan=("kernels", "Y"))
def importance_posterior(kernels: Tensor, Y: Tensor, noise: float) -> SampledPosterior:
    r"""Posterior of a finite network from samples of its last kernel under the prior: no expansion in 1/n.

    .. math:: E[f|Y] = \frac{\sum_k w_k f(\hat G_k)}{\sum_k w_k} , \qquad w_k = p(Y|\hat G_k) , \qquad
        \ln p(Y) = \ln \frac1N \sum_k w_k

    Args:
        kernels: N samples of the covariance of one output over m inputs given the hidden layers, data first,
            shape (N, m, m), units of z squared; ``leadline.measure.ensemble`` draws them.
        Y: targets at the first M inputs, shape (M,) or (M, outputs), units of z.
        noise: variance of the noise on every target, units of z squared.

    Returns:
        Means with standard errors (of ratios, to first order).

    Raises:
        ValueError: shapes do not fit, or fewer than 50 samples carry the weight, so that no error is to be trusted.

    Source: Roberts, Yaida and Hanin (2022), section 6.4, before the expansion.
    """
    if kernels.ndim != 3:
        raise ValueError(f"got kernels of shape {tuple(kernels.shape)}: give (samples, m, m).")
    y = targets(kernels, Y)
    each = gp_posterior(kernels, y, noise)
    w = (each.log_evidence - each.log_evidence.max()).exp()
    effective = float(w.sum() ** 2 / w.square().sum())
    if effective < _FEWEST:
        raise ValueError(
            f"got {len(w)} kernels of which the data leave {effective:.0f} effective ones: give more samples, "
            f"more noise or fewer data (at least {_FEWEST} effective)."
        )
    share = w / w.sum()

    def average(values: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.tensordot(share, values, 1)
        return mean, torch.tensordot(share.square(), (values - mean).square(), 1).sqrt()

    mean, mean_error = average(each.mean)
    apart = each.mean - mean
    one = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    spread = torch.einsum("nab,ij->naibj", each.covariance, one) + torch.einsum("nai,nbj->naibj", apart, apart)
    evidence = each.log_evidence.max() + (w.sum() / len(w)).log()
    error = w.std() / w.mean() / math.sqrt(len(w))
    return SampledPosterior(mean, mean_error, *average(spread), evidence, error, *average(kernels), effective)
