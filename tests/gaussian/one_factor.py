"""Exact expectations of covariances with one common factor: one integral, whatever the number of variables.

z_i = l_i y + sqrt(d_i) x_i with independent y, x_i, so <prod f_i> is the mean over y of prod <f_i(l_i y + .)>.
"""

from __future__ import annotations

import math

import torch

from leadline.gaussian import expectation
from leadline.gaussian.two import conditional_mean


def covariance(loadings: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return loadings[:, None] * loadings + torch.diag(own)


def draw(variables: int, size: float, shared: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Loadings of both signs and own variances; ``shared`` is about the correlation's absolute value."""
    g = torch.Generator().manual_seed(seed)
    l = torch.randn(variables, generator=g, dtype=torch.float64)  # noqa: E741
    l = l.sign() * math.sqrt(size * shared) * (1 + 0.2 * l.abs())  # noqa: E741
    return l, torch.full((variables,), size * (1 - shared), dtype=torch.float64)


def exact(functions, kinks, loadings: torch.Tensor, own: torch.Tensor) -> float:
    ladder = [0.75 * 2.0**j for j in range(8)]
    parts = []
    for f, ks in zip(functions, kinks, strict=True):
        cuts = torch.tensor([*ks, *ladder, *(-v for v in ladder)], dtype=torch.float64)
        parts.append((f, cuts))

    def product(y: torch.Tensor) -> torch.Tensor:
        out = torch.ones_like(y)
        for (f, cuts), load, d in zip(parts, loadings.tolist(), own.tolist(), strict=True):
            mean = load * y
            out = out * conditional_mean(f, mean, torch.full_like(mean, math.sqrt(d)), cuts)[0]
        return out

    bends = [k / load for ks, load in zip(kinks, loadings.tolist(), strict=True) for k in ks]
    return float(expectation(product, torch.ones((), dtype=torch.float64), kinks=bends).value)
