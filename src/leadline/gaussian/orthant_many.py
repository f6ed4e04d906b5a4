"""Orthant probabilities of up to four centred Gaussian variables, for whole batches of covariances."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.arguments import checked
from leadline.gaussian.orthant_path import panels_needed, path_nodes
from leadline.gaussian.orthant_shifted import shifted_orthant_probability

__all__ = ["orthant", "orthant_probability"]

_EPS = 2.3e-16
_RULES = (16, 11)
_ROWS = 512
_SLACK = 1e-6


@checked(nan=("covariance",))
def orthant_probability(covariance: Tensor, limits: Tensor | None = None) -> Expectation:
    r"""P(z_1 > k_1, ..., z_n > k_n) for n <= 4 centred Gaussian variables; without ``limits`` all k are 0.

    .. math:: P_2 = \tfrac14 + \tfrac{\arcsin\rho}{2\pi},\quad
              P_3 = \tfrac18 + \tfrac1{4\pi}\sum_{i<j}\arcsin\rho_{ij},\quad
              P_4 = \tfrac1{16} + \int_0^1\! dt \sum_{i<j}
              \frac{\rho_{ij}}{2\pi\sqrt{1-t^2\rho_{ij}^2}}\, P_2(\rho_{kl|ij}(t))

    Four variables have no elementary form: the correlations are scaled from 0 to their values, and their
    growth is integrated on panels that narrow towards t = 1, where a singular covariance has its singularity.

    Args:
        covariance: shape (..., n, n), n = 0..4, units of z squared; a variance of 0 counts as independent.
        limits: k, shape (..., n), units of z; they take one integral over [0, 1] from three variables on.
    Returns:
        Expectation of shape (...), float64.
    Raises:
        ValueError: more than four variables, entries that are not those of a covariance, or limits of another shape.
    Source: Plackett, A reduction formula for normal multivariate integrals (1954).

    >>> round(orthant_probability(torch.full((4, 4), 0.5) + 0.5 * torch.eye(4)).value.item(), 12)
    0.2
    """
    n = covariance.shape[-1] if covariance.ndim else 0
    if covariance.ndim < 2 or covariance.shape[-2] != n:
        raise ValueError(f"got a covariance of shape {tuple(covariance.shape)}: give one of n variables, (..., n, n).")
    if n > 4:
        raise ValueError(f"orthant probabilities are known for up to 4 variables, got {n}; integrate by sampling")
    if limits is not None and limits.shape[-1:] != (n,):
        raise ValueError(f"got limits of shape {tuple(limits.shape)} for {n} variables: give one for each, (..., {n}).")
    K = covariance.detach().to(torch.float64)
    finite = torch.where(torch.isfinite(K).all(-1, keepdim=True).all(-2, keepdim=True), K, 0.0)
    slack = _SLACK * finite.diagonal(dim1=-2, dim2=-1).abs().sum(-1)
    if n and bool((torch.linalg.eigvalsh((finite + finite.mT) / 2)[..., 0] < -slack).any()):
        raise ValueError("got a covariance with a negative eigenvalue: give that of actual variables.")
    return orthant(K, limits)


def orthant(covariance: Tensor, limits: Tensor | None = None) -> Expectation:
    """As :func:`orthant_probability` for what is known to be a covariance up to rounding.

    Args:
        covariance: shape (..., n, n), n = 0..4.
        limits: shape (..., n), or None for 0.
    Returns:
        Expectation of shape (...), float64.
    """
    n = covariance.shape[-1]
    K = covariance.detach().to(torch.float64)
    sd = K.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    scale = sd[..., :, None] * sd[..., None, :]
    rho = torch.where(scale > 0, K / torch.where(scale > 0, scale, 1.0), 0.0).clamp(-1.0, 1.0)
    if limits is not None and n:
        k = limits.detach().to(torch.float64).expand(K.shape[:-1])
        # what does not vary is at 0, on one side of its limit
        h = torch.where(sd > 0, k / torch.where(sd > 0, sd, 1.0), torch.sign(k) * torch.inf)
        out = shifted_orthant_probability(rho.reshape(-1, n, n), h.reshape(-1, n))
        return Expectation(out.value.reshape(K.shape[:-2]), out.error.reshape(K.shape[:-2]))
    if n < 4:
        value = torch.full(K.shape[:-2], 0.5**n, dtype=torch.float64, device=K.device)
        for i, j in itertools.combinations(range(n), 2):
            value = value + torch.asin(rho[..., i, j]) * 2.0 ** (1 - n) / math.pi
        return Expectation(value.clamp(0.0, 1.0), torch.full_like(value, 4 * _EPS))
    flat = rho.reshape(-1, 4, 4)
    out = Expectation(flat.new_empty(flat.shape[0]), flat.new_empty(flat.shape[0]))
    panels = panels_needed(flat)
    for count in panels.unique().tolist():
        for rows in (panels == count).nonzero().reshape(-1).split(_ROWS):
            out.value[rows], out.error[rows] = _four(flat[rows], count)
    _parallel(flat, out)
    return Expectation(out.value.reshape(K.shape[:-2]), out.error.reshape(K.shape[:-2]))


def _parallel(rho: Tensor, out: Expectation) -> None:
    """Where two of four variables are one, three are left; where one is minus another, nothing. In place."""
    for i, j in itertools.combinations(range(4), 2):
        same = (rho[:, i, j] >= 1 - 2 * _EPS).nonzero().reshape(-1)
        if same.numel():
            rest = torch.tensor([v for v in range(4) if v != j], device=rho.device)
            three = orthant(rho[same][:, rest][:, :, rest])
            out.value[same], out.error[same] = three.value, three.error
    opposite = (rho <= -1 + 2 * _EPS).flatten(1).any(dim=1)
    out.value[opposite], out.error[opposite] = 0.0, 4 * _EPS


def _four(rho: Tensor, panels: int) -> tuple[Tensor, Tensor]:
    """P_4 and its error from correlations of shape (R, 4, 4): two rules on the same panels."""
    fine, coarse = (_path_integral(rho, *path_nodes(order, panels, rho.device)) for order in _RULES)
    value = (1 / 16 + fine).clamp(0.0, 1.0)
    return value, (fine - coarse).abs() + 16 * _EPS


def _path_integral(rho: Tensor, rest: Tensor, weight: Tensor) -> Tensor:
    t = 1 - rest
    total = torch.zeros(rho.shape[0], dtype=torch.float64, device=rho.device)
    for i, j in itertools.combinations(range(4), 2):
        k, m = (v for v in range(4) if v not in (i, j))
        r = rho[:, i, j, None]
        # 1 - (t r)^2 without cancellation.
        free = ((1 - r.abs()) + r.abs() * rest) * (1 + r.abs() * t)
        partial = _partial(rho, t, r, free, i, j, (k, m))
        two = 0.25 + torch.asin(partial) / (2 * math.pi)
        total = total + (r / (2 * math.pi * free.sqrt()) * two) @ weight
    return total


def _partial(rho: Tensor, t: Tensor, r: Tensor, free: Tensor, i: int, j: int, pair: tuple[int, int]) -> Tensor:
    """Correlation of a pair given the variables i and j, at each t."""

    def covariance(k: int, m: int) -> Tensor:
        ik, jk, im, jm = (rho[:, a, b, None] * t for a, b in ((i, k), (j, k), (i, m), (j, m)))
        own = 1.0 if k == m else rho[:, k, m, None] * t
        return own - (ik * im + jk * jm - r * t * (ik * jm + jk * im)) / free

    k, m = pair
    size = (covariance(k, k).clamp_min(0.0) * covariance(m, m).clamp_min(0.0)).sqrt()
    return (covariance(k, m) / size.clamp_min(1e-300)).clamp(-1.0, 1.0)
