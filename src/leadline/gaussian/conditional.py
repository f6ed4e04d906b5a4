"""Products of three or four functions: a lattice in one or two variables, Mehler's series in the other two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.hermite import hermite_polynomials

__all__ = ["lattice_expectation"]

Pointwise = Callable[[Tensor], Tensor]

_REACH = 7.0
_ORDERS = (7, 15, 31)
_ENOUGH = 1e-7
_FEW = 8
_POINTS = 3_000_000
_EPS = 2.3e-16


def lattice_expectation(functions: Sequence[Pointwise], K: Tensor, step: float) -> Expectation:
    r"""Expectation of a product of three or four functions on a lattice of a given spacing.

    .. math:: \Big\langle f_1 f_2\, \sum_k r^k c_k(\mu_3) d_k(\mu_4)\Big\rangle_{z_1 z_2},\qquad
              c_k(\mu) = \langle f_3(\mu + \tau_3 x)\, h_k(x)\rangle_x

    with mean, standard deviation and correlation r of z_3, z_4 given z_1, z_2; the outer pair is the one that
    leaves the smallest r. Equally spaced points converge geometrically for smooth functions, like a power of
    the spacing for others.

    Args:
        functions: three or four pointwise functions of a tensor.
        K: covariances, shape (R, m, m), float64, positive semidefinite.
        step: spacing, in standard deviations, of the outer lattice (of half of it with three functions) and of
            the inner nodes.
    Returns:
        Expectation of shape (R,); the error adds the differences from the four outer and two inner lattices
        of twice the spacing, and a bound on the tail of the series. It is infinite where fewer than about
        eight points carry the sum.
    Source: Trefethen & Weideman, The exponentially convergent trapezoidal rule (2014); Mehler (1866).
    """
    m = len(functions)
    outer, r = _outer_variables(K, m - 2)
    value, error = torch.empty_like(r), torch.empty_like(r)
    choices, which = torch.unique(outer, dim=0, return_inverse=True)
    for c, choice in enumerate(choices.tolist()):
        order = torch.tensor([*choice, *(i for i in range(m) if i not in choice)], device=K.device)
        rows = (which == c).nonzero().reshape(-1)
        fs = [functions[i] for i in order.tolist()]
        inner = 2 * int(_REACH / step) + 1
        lattice = inner ** (m - 2) * (2 if m == 3 else 1)
        degrees = _degrees(r[rows])
        for degree in degrees.unique().tolist():
            for part in rows[degrees == degree].split(max(1, _POINTS // (inner * lattice))):
                out = _lattice(fs, K[part][:, order][:, :, order], step, degree)
                value[part], error[part] = out.value, out.error
    return Expectation(value, error)


def _outer_variables(K: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """For each row the variables to condition on, and the correlation of the other two that remains."""
    m = K.shape[-1]
    best = torch.zeros(K.shape[0], count, dtype=torch.long, device=K.device)
    smallest = torch.full((K.shape[0],), math.inf, dtype=K.dtype, device=K.device)
    for choice in itertools.combinations(range(m), count):
        rest = [i for i in range(m) if i not in choice]
        order = torch.tensor([*choice, *rest], device=K.device)
        r = _split(K[:, order][:, :, order], count)[2].abs()
        better = r < smallest - 1e-9
        best[better] = torch.tensor(choice, device=K.device)
        smallest = torch.where(better, r, smallest)
    return best, smallest


def _degrees(r: Tensor) -> Tensor:
    """Degree of the series at which the correlation that remains has died out, or the highest."""
    degree = torch.full(r.shape, _ORDERS[-1], dtype=torch.long, device=r.device)
    for order in reversed(_ORDERS[:-1]):
        degree = torch.where(r.abs() ** (order + 1) <= _ENOUGH, order, degree)
    return degree


def _split(K: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the lower factor of the outer variables and their loadings, inner deviations, correlation."""
    sd = K.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt().clamp_min(1e-30)
    left = K / (sd[:, :, None] * sd[:, None, :])
    left = torch.where(torch.eye(K.shape[-1], dtype=torch.bool, device=K.device), 1.0, left)
    columns = []
    for j in range(count):
        top = left[:, j, j]
        column = torch.where(top[:, None] > 1e-14, left[:, :, j] / top.clamp_min(1e-14).sqrt()[:, None], 0.0)
        columns.append(column)
        left = left - column[:, :, None] * column[:, None, :]
    tau = left[:, count:, count:].diagonal(dim1=-2, dim2=-1).clamp_min(0.0)
    tau = torch.where(tau > 1e-14, tau, 0.0).sqrt()
    product = tau[:, 0] * tau[:, 1]
    r = torch.where(product > 0, left[:, count, count + 1] / product.clamp_min(1e-30), 0.0).clamp(-1.0, 1.0)
    loadings = torch.stack(columns, dim=-1) * sd[:, :, None]
    return loadings, tau * sd[:, count:], r


def _lattice(functions: Sequence[Pointwise], K: Tensor, step: float, degree: int) -> Expectation:
    """One batch of covariances, the outer variables first."""
    count = len(functions) - 2
    loadings, tau, r = _split(K, count)
    x, w = _nodes(step / 2 if count == 1 else step, K.device)
    grid = torch.cartesian_prod(*[x] * count).reshape(-1, count)
    weight = torch.cartesian_prod(*[w] * count).reshape(-1, count).prod(dim=-1)
    z = torch.einsum("rij,nj->irn", loadings, grid)
    outer = weight * functions[0](z[0]).to(torch.float64)
    if count == 2:
        outer = outer * functions[1](z[1]).to(torch.float64)
    fine3, coarse3, tail3 = _coefficients(functions[-2], z[-2], tau[:, 0], step, degree)
    fine4, coarse4, tail4 = _coefficients(functions[-1], z[-1], tau[:, 1], step, degree)
    powers = r[:, None] ** torch.arange(degree + 1, dtype=r.dtype, device=r.device)
    product = outer * torch.einsum("rnk,rnk,rk->rn", fine3, fine4, powers)
    rough = (outer * torch.einsum("rnk,rnk,rk->rn", coarse3, coarse4, powers)).sum(dim=1)
    value = product.sum(dim=1)
    # Every lattice of twice the spacing is an estimate of its own.
    shape = (-1, *[x.numel()] * count)
    parts = [
        product.reshape(shape)[(slice(None), *(slice(s, None, 2) for s in start))].flatten(1).sum(dim=1) * 2**count
        for start in itertools.product((0, 1), repeat=count)
    ]
    miss = (torch.stack(parts) - value).abs().amax(dim=0) + (rough - value).abs()
    tail = (outer.abs() * (tail3 * tail4).sqrt()).sum(dim=1) * r.abs() ** (degree + 1)
    # What lies beyond the reach, from the lattice's faces.
    faces = (grid.abs() > x.max() - step / 4).any(dim=-1)
    edge = 2 * product[:, faces].abs().sum(dim=1) / step
    size, largest = product.abs().sum(dim=1), product.abs().amax(dim=1)
    error = 2 * miss + tail + edge + 64 * _EPS * size
    # Where a handful of points carries everything, as much may have fallen between them.
    return Expectation(value, torch.where(size < _FEW * largest + 1e-300, torch.inf, error))


def _nodes(step: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Equally spaced points out to the reach, and the Gaussian mass of each."""
    half = int(_REACH / step)
    x = step * torch.arange(-half, half + 1, dtype=torch.float64, device=device)
    return x, step * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _coefficients(f: Pointwise, mean: Tensor, tau: Tensor, step: float, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hermite coefficients of f(mean + tau x) on all and on every second inner node, and the energy left out."""
    x, w = _nodes(step, mean.device)
    values = f(mean[..., None] + tau[:, None, None] * x).to(torch.float64)
    basis = hermite_polynomials(x, degree).T * w[:, None]
    fine = values @ basis
    coarse = values[..., ::2] @ (2 * basis[::2])
    energy = (values * values) @ w
    return fine, coarse, (energy - (fine * fine).sum(dim=-1)).clamp_min(0.0) + _EPS * energy
