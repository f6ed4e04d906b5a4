"""Moments of a nonlinearity whose input's variance differs from one draw of the weights to the next."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.gaussian import hermite_coefficients
from leadline.gaussian.one import distinct

__all__ = ["averaged_over_scale", "lognormal", "lognormal_pair", "slope_in_mean"]


def averaged_over_scale(act: Activation, K: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Response to the scale, change of the mean, and growth of the own variance, averaged over a log-normal scale."""
    G, weight = lognormal(mean, variance)
    g, fourth = act.second_moment(G), act.fourth_moment(G)
    M, bare = (weight * g).sum(0), act.second_moment(K)
    own = (weight * (fourth - g.square())).sum(0)
    moved = (weight * (g - M).square()).sum(0)
    random = variance > 1e-12 * mean.square()
    slope = act.second_moment_slope(mean)
    gain = torch.where(random, (moved / torch.where(random, variance, torch.ones_like(variance))).sqrt(), slope.abs())
    before = act.fourth_moment(K) - bare.square()
    alive = before > 1e-14 * bare.square()
    inflation = torch.where(alive, own / torch.where(alive, before, torch.ones_like(before)), torch.ones_like(own))
    return torch.sign(slope) * gain, M - bare, inflation.clamp_min(0)


def slope_in_mean(act: Activation, K: Tensor) -> Tensor:
    """Derivative of <f(x + a)^2> with respect to a, at a = 0."""
    few, back = distinct(K)
    first = hermite_coefficients(lambda z: act(z) ** 2, few, 1, act.kinks)[:, 1]
    return (first / few.clamp_min(1e-300).sqrt())[back.reshape(-1)]


def lognormal(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes of a log-normal scale at each point, shape (7, P), and their weights (7, 1).

    Its first two moments are exact, so that the spread is right beyond the first order in 1/n.

    Returns:
        The nodes and the weights.
    """
    t, weight = _normal_nodes(7, mean)
    spread = _log_variance(mean, variance)
    return mean * torch.exp(t[:, None] * spread.sqrt() - spread / 2), weight[:, None]


def lognormal_pair(
    one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], shared: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes of two log-normal scales with the given (mean, variance) and covariance, (49, P) each, and weights (49, 1)."""
    (a, v), (b, w) = one, two
    t, weight = _normal_nodes(7, a)
    s, u = _log_variance(a, v), _log_variance(b, w)
    together = torch.log1p((shared / (a * b).clamp_min(1e-300)).clamp_min(-0.99))
    rho = (together / (s * u).sqrt().clamp_min(1e-150)).clamp(-1, 1)[None]
    x, y = t.repeat_interleave(len(t))[:, None], t.repeat(len(t))[:, None]
    G = a * torch.exp(x * s.sqrt() - s / 2)
    H = b * torch.exp((rho * x + (1 - rho.square()).sqrt() * y) * u.sqrt() - u / 2)
    return G, H, torch.outer(weight, weight).reshape(-1, 1)


def _normal_nodes(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.as_tensor(nodes).to(like), torch.as_tensor(weights / weights.sum()).to(like)


def _log_variance(mean: Tensor, variance: Tensor) -> Tensor:
    return torch.log1p(variance.clamp_min(0) / torch.where(mean > 0, mean.square(), torch.ones_like(mean)))
