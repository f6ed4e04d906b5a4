"""Products of activations of three, four or more jointly Gaussian variables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from leadline.activations.base import Activation
from leadline.activations.half_spaces import as_steps, multiply
from leadline.gaussian import (
    Expectation,
    bump_expectation,
    exponential_expectation,
    half_space_expectation,
    joint_expectation,
)
from leadline.gaussian.arguments import checked
from leadline.gaussian.joint import as_covariances, equal_variables, holder_scale
from leadline.gaussian.orthant_many import orthant

__all__ = ["four_point", "joint_moment"]

_STEPS = 4
_NODES = (2, 4)  # of each interval of a mixture of steps: the coarser ones for the error
_EXACT = 1e-10  # what quadrature of one or two variables reaches


@checked(negative=("rtol",), nan=("covariance",))
@torch.no_grad()
def joint_moment(
    activations: Sequence[Activation], covariance: Tensor, *, rtol: float = 1e-4, seed: int = 0
) -> Expectation:
    r"""Expectation of a product of activations, one of each of m jointly Gaussian variables.

    .. math:: \langle \sigma_1(z_1)\cdots\sigma_m(z_m)\rangle,\qquad z\sim N(0, K)

    In closed form (for four steps, one integral over [0, 1]) where all of them are sums of monomials with and
    without steps or, at 0, its smoothings (piecewise polynomials such as ReLU, HardTanh, step, powers; erf, GELU),
    all of them sums of exponentials (sin, cos, exp), or all exp(-z^2); by ``gaussian.joint_expectation`` elsewhere, and
    where the closed form has lost its digits.

    Args:
        activations: m of them; the same one may be repeated.
        covariance: K, shape (..., m, m), units of z squared; may be singular.
        rtol: wanted error relative to :math:`\prod_i\langle|\sigma_i|^m\rangle^{1/m}` where nothing closed is known.
        seed: of the sampling that the hardest cases need.
    Returns:
        Expectation of the shape (...), dtype and device of K.
    Raises:
        ValueError: K is not square, not of the size of ``activations``, or not positive semidefinite.

    >>> from leadline.activations import activation
    >>> K = 0.5 * torch.eye(4, dtype=torch.float64) + 0.5
    >>> step = joint_moment([activation("step")] * 4, K)
    >>> round(step.value.item(), 12)
    0.2
    """
    m = len(activations)
    K = as_covariances(covariance, m)
    flat = K.reshape(-1, m, m)
    closed = _closed(activations, flat)
    kinks = [a.kinks for a in activations]
    functions = [a.fn for a in activations]
    if closed is None:
        value, error = (flat.new_full((flat.shape[0],), v) for v in (math.nan, math.inf))
        bad = torch.ones(flat.shape[0], dtype=torch.bool, device=flat.device)
    else:
        value, error = closed.value, closed.error
        wanted = torch.where(_different(flat) > 2, rtol, min(rtol, _EXACT))
        wanted = wanted * holder_scale(functions, flat, kinks)
        bad = ~(error <= wanted)
        if bool(bad.any()) and (steps := _steps(activations, flat[bad])) is not None:
            _keep_better(value, error, bad, steps)
            bad = ~(error <= wanted)
    if bool(bad.any()):
        out = joint_expectation(functions, flat[bad], kinks=kinks, rtol=rtol, seed=seed)
        _keep_better(value, error, bad, out)
    shape = covariance.shape[:-2]
    dtype = covariance.dtype if covariance.is_floating_point() else torch.get_default_dtype()
    return Expectation(value.reshape(shape), error.reshape(shape)).to(dtype)


@checked(negative=("rtol",), nan=("covariance",))
@torch.no_grad()
def four_point(act: Activation, covariance: Tensor, *, rtol: float = 1e-4, seed: int = 0) -> Expectation:
    r"""<sigma_a sigma_b sigma_c sigma_d> for every quadruple of inputs.

    Args:
        act: the activation.
        covariance: K of m inputs, shape (..., m, m), units of z squared.
        rtol: wanted error of quadruples with three or four different inputs and no closed form, relative to
            the product of the :math:`\langle\sigma^4\rangle^{1/4}`; with two it is 1e-10.
        seed: of the sampling that the hardest cases need.
    Returns:
        Expectation of shape (..., m, m, m, m), symmetric, dtype and device of K.
    Raises:
        ValueError: K is not square or not positive semidefinite.

    >>> from leadline.activations import activation
    >>> K = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    >>> out = four_point(activation("identity"), K)
    >>> round(out.value[0, 0, 1, 1].item(), 12)
    1.5
    """
    m = covariance.shape[-1]
    as_covariances(covariance, m)
    sets = list(itertools.combinations_with_replacement(range(m), 4))
    index = torch.tensor(sets, device=covariance.device).reshape(-1, 4)
    blocks = covariance[..., index[:, :, None], index[:, None, :]]
    out = joint_moment([act] * 4, blocks, rtol=rtol, seed=seed)
    number: dict[tuple[int, ...], int] = {s: i for i, s in enumerate(sets)}
    table = [number[tuple(sorted(q))] for q in itertools.product(range(m), repeat=4)]
    where = torch.tensor(table, dtype=torch.long, device=covariance.device).reshape(m, m, m, m)
    return Expectation(out.value[..., where], out.error[..., where])


def _mixture(steps: Sequence[tuple[list[float], list[float]]], K: Tensor) -> Expectation:
    """Product of mixtures of steps, (weights, limits) of each variable."""
    weights = torch.tensor(list(itertools.product(*(w for w, _ in steps))), dtype=K.dtype, device=K.device).prod(-1)
    limits = torch.tensor(list(itertools.product(*(k for _, k in steps))), dtype=K.dtype, device=K.device)
    out = orthant(K[:, None].expand(-1, len(limits), -1, -1), limits)
    return Expectation(out.value @ weights, out.error @ weights.abs())


def _keep_better(value: Tensor, error: Tensor, rows: Tensor, new: Expectation) -> None:
    """Take over, in place, those of the new values at some rows whose errors are smaller."""
    better = ~(new.error >= error[rows])
    value[rows] = torch.where(better, new.value, value[rows])
    error[rows] = torch.where(better, new.error, error[rows])


def _different(K: Tensor) -> Tensor:
    """How many different variables each covariance has, shape (R,)."""
    count = torch.full(K.shape[:1], K.shape[-1], device=K.device)
    for rows, blocks in equal_variables(K):
        count[rows] = len(blocks)
    return count


def _closed(activations: Sequence[Activation], K: Tensor) -> Expectation | None:
    """The product's closed form for flat covariances, or None."""
    rates = [a.bump_rate for a in activations if a.bump_rate is not None]
    if len(rates) == len(activations):
        return bump_expectation(rates, K)
    waves = [a.exponential_terms for a in activations if a.exponential_terms is not None]
    if len(waves) == len(activations):
        return exponential_expectation(waves, K)
    terms = [a.half_space_terms for a in activations if a.half_space_terms is not None]
    if len(terms) < len(activations):
        return None
    bare = all(t.noise in (None, 0.0) for ts in terms for t in ts)
    if not bare:
        return half_space_expectation(terms, K) if len(terms) <= _STEPS else None
    value, error = (K.new_full((K.shape[0],), v) for v in (math.nan, math.inf))
    for rows, blocks in equal_variables(K):
        merged = [multiply([terms[i] for i in b]) for b in blocks]
        if sum(any(t.noise is not None for t in ts) for ts in merged) > _STEPS:
            continue
        index = torch.tensor([b[0] for b in blocks], device=K.device)
        out = half_space_expectation(merged, K[rows][:, index][:, :, index])
        value[rows], error[rows] = out.value, out.error
    return Expectation(value, error)


def _steps(activations: Sequence[Activation], K: Tensor) -> Expectation | None:
    """The product as a mixture of steps on two numbers of nodes, where all are constant beyond their knots."""
    terms = [a.half_space_terms for a in activations if a.half_space_terms is not None]
    if len(terms) < len(activations) or any(t.noise not in (None, 0.0) for ts in terms for t in ts):
        return None
    value, error = (K.new_full((K.shape[0],), v) for v in (math.nan, math.inf))
    for rows, blocks in equal_variables(K):
        merged = [multiply([terms[i] for i in b]) for b in blocks]
        index = torch.tensor([b[0] for b in blocks], device=K.device)
        part, found = K[rows][:, index][:, :, index], []
        for order in _NODES:
            steps = [s for ts in merged if (s := as_steps(ts, order)) is not None]
            if len(steps) == len(merged) <= _STEPS:
                found.append(_mixture(steps, part))
        if found:
            coarse, fine = found
            value[rows], error[rows] = fine.value, (fine.value - coarse.value).abs() + fine.error
    return Expectation(value, error)
