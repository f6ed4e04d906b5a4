"""Truncated moments of two correlated standard normal variables."""

from __future__ import annotations

import math

import torch
from scipy import special
from torch import Tensor

from leadline.gaussian.normal import upper_tail

__all__ = ["truncated_moments", "upper_probability"]

_FAR = 40.0


def upper_probability(h: Tensor, k: Tensor, rho: Tensor) -> Tensor:
    r"""P(X > h, Y > k) for standard normal X, Y of correlation rho, by Owen's T function.

    Args:
        h: lower limits of X.
        k: lower limits of Y, shape of h.
        rho: correlations in [-1, 1], shape of h.
    Returns:
        Probabilities with an absolute error of a few 1e-16, shape of h, float64.
    Source: Owen (1956), with scipy's ``owens_t``.

    >>> import torch
    >>> zero = torch.zeros((), dtype=torch.float64)
    >>> round(upper_probability(zero, zero, zero + 0.5).item(), 12)
    0.333333333333
    """
    x, y = -h, -k
    tau = ((1 - rho) * (1 + rho)).clamp_min(0.0).sqrt()
    split = (x * y > 0) | ((x * y == 0) & (x + y >= 0))
    outside = torch.where(split, 0.0, 0.5)
    half = (upper_tail(-x) + upper_tail(-y)) / 2 - outside
    value = half - _owen(x, y, rho, tau) - _owen(y, x, rho, tau)
    # At |rho| = 1 the pair is one variable.
    parallel = upper_tail(-torch.minimum(x, y))
    opposite = (upper_tail(-x) - upper_tail(y)).clamp_min(0.0)
    value = torch.where(tau > 0, value, torch.where(rho > 0, parallel, opposite))
    return value.clamp(0.0, 1.0)


def _owen(x: Tensor, y: Tensor, rho: Tensor, tau: Tensor) -> Tensor:
    """T(x, (y - rho x)/(x tau)); at x = 0 the limit from above, along y = x where both vanish."""
    slope = (y - rho * x) / torch.where(x * tau == 0, 1.0, x * tau)
    slope = torch.where(x == 0, torch.inf * torch.sign(y), slope)
    slope = torch.where((x == 0) & (y == 0), (1 - rho) / torch.where(tau == 0, 1.0, tau), slope)
    # T is a C routine of scipy, on the host.
    out = special.owens_t(x.cpu().numpy(), slope.cpu().numpy())
    return torch.as_tensor(out, dtype=torch.float64, device=x.device)


def truncated_moments(h: Tensor, k: Tensor, rho: Tensor, p: int, q: int) -> list[list[Tensor]]:
    r"""Moments E[X^i Y^j 1(X > h) 1(Y > k)] for i <= p, j <= q.

    Stein's identity lowers one power at a time: the boundary terms are one-variable truncated moments of Y
    given X = h and of X given Y = k.

    Args:
        h: lower limits of X.
        k: lower limits of Y, shape of h.
        rho: correlations in [-1, 1], shape of h.
        p: highest power of X.
        q: highest power of Y.
    Returns:
        Nested list m with m[i][j] of the shape of h.
    """
    h, k = h.clamp(-_FAR, _FAR), k.clamp(-_FAR, _FAR)
    tau = ((1 - rho) * (1 + rho)).clamp_min(0.0).sqrt()
    y_at_h = _conditional(rho * h, tau, k, q)
    x_at_k = _conditional(rho * k, tau, h, p)
    dh, dk = _density(h), _density(k)
    m = [[torch.zeros_like(h) for _ in range(q + 1)] for _ in range(p + 1)]
    m[0][0] = upper_probability(h, k, rho)
    for j in range(1, q + 1):
        lower = (j - 1) * m[0][j - 2] if j > 1 else 0.0
        m[0][j] = lower + k ** (j - 1) * dk * x_at_k[0] + rho * dh * y_at_h[j - 1]
    for i in range(1, p + 1):
        for j in range(q + 1):
            lower = (i - 1) * m[i - 2][j] if i > 1 else 0.0
            cross = j * m[i - 1][j - 1] if j > 0 else 0.0
            m[i][j] = lower + h ** (i - 1) * dh * y_at_h[j] + rho * (cross + k**j * dk * x_at_k[i - 1])
    return m


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _conditional(mean: Tensor, tau: Tensor, limit: Tensor, order: int) -> list[Tensor]:
    """E[Y^j 1(Y > limit)] for Y ~ N(mean, tau^2), j = 0..order."""
    gap = limit - mean
    u = torch.where(tau > 0, gap / torch.where(tau > 0, tau, 1.0), torch.inf * torch.sign(gap))
    u = torch.where((tau == 0) & (gap == 0), 0.0, u)
    edge = tau * _density(u)
    out = [upper_tail(u)]
    for j in range(1, order + 1):
        lower = (j - 1) * tau * tau * out[j - 2] if j > 1 else 0.0
        out.append(mean * out[j - 1] + lower + limit ** (j - 1) * edge)
    return out
