"""Orthant probabilities with limits other than 0: the path of Plackett from independent variables."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.normal import upper_tail
from leadline.gaussian.orthant import upper_probability
from leadline.gaussian.orthant_path import panels_needed, path_nodes

__all__ = ["shifted_orthant_probability"]

_EPS = 2.3e-16
_FAR = 40.0
_ROWS = 256
_RULES = (16, 11)


def shifted_orthant_probability(rho: Tensor, h: Tensor) -> Expectation:
    r"""P(x_1 > h_1, ..., x_n > h_n) for 1 <= n <= 4 standard normal variables.

    .. math:: P_n(h, \rho) = \prod_i P_1(h_i) + \int_0^1\!dt \sum_{i<j} \rho_{ij}\,\varphi_2(h_i, h_j; t\rho_{ij})\,
              P_{n-2}(h \,|\, x_i = h_i, x_j = h_j)

    with P_1 by erfc and P_2 by Owen's T. The panels narrow towards t = 1 as for limits of 0.

    Args:
        rho: correlations, shape (R, n, n), float64.
        h: limits, shape (R, n), units of the standard deviations; infinite ones are allowed.
    Returns:
        Expectation of shape (R,), float64.
    Source: Plackett (1954); Owen (1956).

    >>> one = torch.eye(3, dtype=torch.float64)[None]
    >>> round(shifted_orthant_probability(one, torch.zeros(1, 3, dtype=torch.float64)).value.item(), 12)
    0.125
    """
    n = h.shape[-1]
    h = h.clamp(-_FAR, _FAR)
    if n <= 2:
        value = upper_tail(h[:, 0]) if n == 1 else upper_probability(h[:, 0], h[:, 1], rho[:, 0, 1])
        return Expectation(value, torch.full_like(value, 8 * _EPS))
    start = upper_tail(h).prod(dim=-1)
    value, error = start.clone(), torch.zeros_like(start)
    panels = panels_needed(rho)
    for count in panels.unique().tolist():
        for rows in (panels == count).nonzero().reshape(-1).split(_ROWS):
            fine, coarse = (_integral(rho[rows], h[rows], *path_nodes(order, count, rho.device)) for order in _RULES)
            value[rows], error[rows] = start[rows] + fine, (fine - coarse).abs() + 32 * _EPS
    return Expectation(value.clamp(0.0, 1.0), error)


def _integral(rho: Tensor, h: Tensor, rest: Tensor, weight: Tensor) -> Tensor:
    t = 1 - rest
    n = h.shape[-1]
    total = torch.zeros(rho.shape[0], dtype=torch.float64, device=rho.device)
    for i, j in itertools.combinations(range(n), 2):
        others = [v for v in range(n) if v not in (i, j)]
        r, hi, hj = rho[:, i, j, None], h[:, i, None], h[:, j, None]
        # 1 - (t r)^2 without cancellation
        free = ((1 - r.abs()) + r.abs() * rest) * (1 + r.abs() * t)
        density = torch.exp(-((hi - t * r * hj) ** 2) / (2 * free) - hj**2 / 2) / (2 * math.pi * free.sqrt())
        total = total + (r * density * _given(rho, h, t, free, i, j, others)) @ weight
    return total


def _given(rho: Tensor, h: Tensor, t: Tensor, free: Tensor, i: int, j: int, others: list[int]) -> Tensor:
    """Probability of the other variables, x_i and x_j being at their limits, at each t."""
    r, hi, hj = rho[:, i, j, None], h[:, i, None], h[:, j, None]

    def loading(k: int) -> tuple[Tensor, Tensor]:
        ik, jk = rho[:, i, k, None] * t, rho[:, j, k, None] * t
        return (ik - r * t * jk) / free, (jk - r * t * ik) / free

    def covariance(k: int, m: int) -> Tensor:
        on_i, on_j = loading(k)
        own = 1.0 if k == m else rho[:, k, m, None] * t
        return own - t * (on_i * rho[:, i, m, None] + on_j * rho[:, j, m, None])

    def limit(k: int, size: Tensor) -> Tensor:
        on_i, on_j = loading(k)
        return ((h[:, k, None] - on_i * hi - on_j * hj) / size).clamp(-_FAR, _FAR)

    sizes = [covariance(k, k).clamp_min(0.0).sqrt().clamp_min(1e-150) for k in others]
    if len(others) == 1:
        return upper_tail(limit(others[0], sizes[0]))
    (k, m), (sk, sm) = others, sizes
    partial = (covariance(k, m) / (sk * sm)).clamp(-1.0, 1.0)
    return upper_probability(limit(k, sk), limit(m, sm), partial)
