"""The few operations on kernels that differ between a full matrix and a banded one; all else is elementwise algebra."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.activations.pair import Pair
from leadline.rules.banded import Banded
from leadline.rules.banded_grid import Grid

__all__ = [
    "Kernel",
    "constant",
    "gram",
    "grid_of",
    "identity",
    "mean_over_groups",
    "outer",
    "scale_points",
    "spread_over_groups",
]

Kernel = Any  # a matrix over points (Tensor) or a Banded: both add, multiply and have a diagonal


def grid_of(K: Kernel | None) -> Grid | None:
    """Pairs of a banded kernel, None for a full matrix."""
    return K.grid if isinstance(K, Banded) else None


def outer(u: Tensor, v: Tensor, grid: Grid | None) -> Kernel:
    """u_p v_q."""
    if grid is None:
        return torch.outer(u, v)
    p, q, _ = grid.index
    back = None if u is v else v.index_select(0, p) * u.index_select(0, q)
    return Banded(u.index_select(0, p) * v.index_select(0, q), grid, back)


def scale_points(c: float | Tensor, d: float | Tensor, K: Kernel) -> Kernel:
    """c_p K_pq d_q for numbers or vectors over points."""
    if not isinstance(c, Tensor) and not isinstance(d, Tensor):
        return K * (c * d)
    if isinstance(K, Banded):
        vectors = [x if isinstance(x, Tensor) else K.new_ones(K.grid.points) * x for x in (c, d)]
        return outer(vectors[0], vectors[0] if c is d else vectors[1], K.grid) * K
    left = c[:, None] if isinstance(c, Tensor) else c
    right = d[None, :] if isinstance(d, Tensor) else d
    return left * K * right


def constant(value: float, size: int, like: Tensor, grid: Grid | None) -> Kernel:
    """The same number at every pair; dtype and device of ``like``."""
    if grid is None:
        return like.new_full((size, size), value)
    return Banded(like.new_full((grid.pairs,), value), grid)


def identity(size: int, like: Tensor, grid: Grid | None) -> Kernel:
    """One on the diagonal."""
    if grid is None:
        return torch.eye(size, dtype=like.dtype, device=like.device)
    values = like.new_zeros(grid.pairs)
    values[:size] = 1.0
    return Banded(values, grid, comb=True)


_ROUNDING = 1e-6


def _bounded(K: Tensor) -> Tensor:
    """Covariances no larger than their variances allow: many sums round past a correlation of 1 where inputs collapse."""
    scale = K.diagonal().clamp_min(0).sqrt()
    most = scale[:, None] * scale[None, :]
    over = (K.abs() > most) & (K.abs() <= most * (1 + _ROUNDING))
    over.fill_diagonal_(False)
    return torch.where(over, most * K.sign(), K) if bool(over.any()) else K


def gram(activation: Activation, K: Kernel, rtol: float, order: int) -> Kernel:
    """<f_p f_q> (``order`` 0) or <f'_p f'_q> (1) of a Gaussian with covariance K."""
    if not isinstance(K, Banded):
        K = _bounded(K)
        return activation.gram(K, rtol=rtol) if order == 0 else activation.gram_derivative(K, rtol=rtol)
    P = K.grid.points
    p, q, _ = K.grid.index
    variances = K.diagonal().clamp_min(0)
    own = activation.second_moment(variances) if order == 0 else activation.derivative_moment(variances)
    a, b = variances.index_select(0, p[P:]), variances.index_select(0, q[P:])
    limit = (a * b).sqrt()
    values: Tensor | None = None
    c = torch.minimum(torch.maximum(K.values[P:], -limit), limit)
    if activation.slopes is not None and K.dtype == torch.float32:
        # a closed form that needs no more than single precision, at millions of pairs
        rho = torch.where(limit > 0, c / limit.clamp_min(1e-30), c)
        pair = Pair(a, b, c, rho, ((1 - rho) * (1 + rho)).clamp_min(0))
        values = activation._dual(pair) if order == 0 else activation._dual_derivative(pair)
    if values is None:
        values = activation.dual(a, c, b, rtol) if order == 0 else activation.dual_derivative(a, c, b, rtol)
    return Banded(torch.cat([own, values]), K.grid)


def mean_over_groups(K: Kernel, groups: Tensor) -> Tensor:
    """Mean over sites of the kernel between equal sites, as a dense layer on flattened sites sees it.

    Args:
        K: kernel over points.
        groups: points of each sample, shape (samples, sites).

    Returns:
        Kernel between samples, shape (samples, samples).
    """
    if isinstance(K, Banded):
        _check_groups(groups, K.grid)
        return K.select().mean(0)
    return torch.stack([K[groups[:, s]][:, groups[:, s]] for s in range(groups.shape[1])]).mean(0)


def spread_over_groups(D: Tensor, groups: Tensor, size: int, grid: Grid | None) -> Kernel:
    """The transpose of :func:`mean_over_groups`."""
    sites = groups.shape[1]
    if grid is not None:
        _check_groups(groups, grid)
        values = D.new_zeros(grid.pairs)
        for plane, (a, b) in enumerate(grid.sample_pairs[0]):
            values[plane * grid.sites : (plane + 1) * grid.sites] = D[a, b] / sites
        return Banded(values, grid, comb=True)
    spread = D.new_zeros(size, size)
    for s in range(sites):
        i = groups[:, s]
        spread[i[:, None], i[None, :]] = D / sites
    return spread


def _check_groups(groups: Tensor, grid: Grid) -> None:
    if groups.shape != (grid.samples, grid.sites) or not bool((groups.reshape(-1) == torch.arange(grid.points)).all()):
        raise ValueError(
            "a dense layer over part of an image's sites is not predicted at this size; pass smaller images."
        )
