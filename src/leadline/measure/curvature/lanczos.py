"""The largest eigenvalue of a symmetric matrix that is only known by its products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Eigenvalue", "largest_eigenvalue"]

_BASIS_BYTES = 1_000_000_000  # beyond this the basis is not kept
_CLOSED = 1e-10  # a next vector this small, against the norm, has left an invariant subspace


@dataclass(frozen=True)
class Eigenvalue:
    """The largest eigenvalue, as Lanczos found it.

    ``value``: the largest Ritz value. ``residual``: norm of (matrix - value) on its unit vector: an eigenvalue lies
    within it of the value. ``lowest``: the smallest Ritz value, converged or not. ``products``: taken. ``converged``:
    the residual is within the tolerance. ``vector``: of unit length, shape (P,), where the basis was kept.
    """

    value: float
    residual: float
    lowest: float
    products: int
    converged: bool
    vector: Tensor | None = None


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    tolerance: float = 0.01,
    products: int = 30,
    keep_vector: bool = False,
) -> Eigenvalue:
    r"""Lanczos on a symmetric matrix until the residual of its largest Ritz pair is small.

    .. math:: A Q_k = Q_k T_k + \beta_k q_{k+1} e_k^T, \qquad \|A y - \vartheta y\| = \beta_k |s_k|

    T_k is tridiagonal, (theta, s) its largest eigenpair, y = Q_k s. The basis is orthogonalized again at each step
    while it fits in a gigabyte; beyond that plain Lanczos runs, whose largest Ritz value is as good (what rounding
    breaks is the count of copies, not the value). An eigenvalue whose vector has no share in the start is not found.

    Args:
        product: the matrix times a vector of shape (P,).
        start: vector to start from, shape (P,); a mixture of the gradient and noise is a good one.
        tolerance: on the residual, as a share of the value.
        products: the most to take, at least 1.
        keep_vector: also return the vector, where the basis was kept.

    Returns:
        Value, residual and cost.

    Raises:
        ValueError: the start is zero or not finite, or a product is not finite.

    Source: Parlett, The Symmetric Eigenvalue Problem (1980), chapter 13.

    >>> A = torch.diag(torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64))
    >>> found = largest_eigenvalue(lambda v: A @ v, torch.ones(3, dtype=torch.float64), tolerance=1e-9)
    >>> round(found.value, 9), found.converged
    (3.0, True)
    """
    length = float(start.norm())
    if not 0 < length < float("inf"):
        raise ValueError(f"got a start of length {length}, expected a vector that is finite and not zero.")
    most = min(max(products, 1), start.numel())
    kept = most * start.numel() * start.element_size() <= _BASIS_BYTES
    basis = torch.empty(most if kept else 0, start.numel(), dtype=start.dtype, device=start.device)
    current, previous = start / length, torch.zeros_like(start)
    diagonal: list[float] = []
    beside: list[float] = []
    for k in range(most):
        if kept:
            basis[k] = current
        step = product(current)
        diagonal.append(float(step @ current))
        if not diagonal[-1] - diagonal[-1] == 0:
            raise ValueError("a product with the matrix is not finite: the loss overflows at these weights.")
        step = step - diagonal[-1] * current - (beside[-1] if beside else 0.0) * previous
        if kept:
            for _ in range(2):  # twice is enough
                step = step - basis[: k + 1].T @ (basis[: k + 1] @ step)
        beta = float(step.norm())
        values, vectors = _tridiagonal(diagonal, beside)
        scale = float(values.abs().max())
        closed = beta <= _CLOSED * max(scale, 1e-300)
        top, share = float(values[-1]), float(vectors[-1, -1].abs())
        residual = 0.0 if closed else beta * share
        # at the first step the residual says nothing about whether the start has found the top
        done = closed or (k > 0 and residual <= tolerance * abs(top))
        if done or k == most - 1:
            vector = basis[: k + 1].T @ vectors[:, -1].to(start) if kept and keep_vector else None
            return Eigenvalue(top, residual, float(values[0]), k + 1, done, vector)
        beside.append(beta)
        current, previous = step / beta, current
    raise ValueError("at least one product is needed.")


def _tridiagonal(diagonal: list[float], beside: list[float]) -> tuple[Tensor, Tensor]:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        edge = torch.tensor(beside, dtype=torch.float64)
        matrix = matrix + torch.diag(edge, 1) + torch.diag(edge, -1)
    found = torch.linalg.eigh(matrix)
    return found.eigenvalues, found.eigenvectors
