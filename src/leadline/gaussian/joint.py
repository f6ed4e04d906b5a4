"""Expectations of products of functions of three, four or more jointly Gaussian variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.arguments import checked
from leadline.gaussian.conditional import lattice_expectation
from leadline.gaussian.cross import mean_cross_product
from leadline.gaussian.one import expectation
from leadline.gaussian.sampling import correlation_root, normal_points

__all__ = ["as_covariances", "equal_variables", "holder_scale", "joint_expectation"]

Pointwise = Callable[[Tensor], Tensor]

# Spacings of the lattice, and what a kink does to the meaning of its error estimate.
_STEPS = (0.5, 0.25, 0.125)
_CAUTION = 2.0
_REPLICATES = 16
_SIGMAS = 3.0
_FIRST = 2048
# A spread that falls faster than this from one size to the next was lucky.
_FALL = 0.4
_SLICE = 1 << 14
_POINTS = 1 << 21
_EXACT = 1e-10
# What points that stop at 6.2 standard deviations, and sums of a million terms, leave out.
_FLOOR = 1e-9


@checked(negative=("rtol",), nan=("covariance",))
def joint_expectation(
    functions: Sequence[Pointwise],
    covariance: Tensor,
    *,
    kinks: Sequence[Sequence[float]] | None = None,
    rtol: float = 1e-4,
    seed: int = 0,
    most: int = 1 << 18,
) -> Expectation:
    r"""Expectation of a product of functions, one of each of m jointly Gaussian variables.

    .. math:: \Big\langle \prod_{i=1}^m f_i(z_i) \Big\rangle,\qquad z \sim N(0, K)

    Equal variables (equal entries of K) are merged first; what then has one or two variables is integrated to
    1e-10. Three or four take a lattice in one or two of them and Mehler's series in the rest, the lattice
    refined twice where its own error estimate asks for it. What is still not good enough, and more variables,
    is sampled at scrambled Sobol points, doubled in number until three standard errors over 16 independent
    scrambles meet the tolerance, or until ``most`` points a scramble.

    Args:
        functions: m pointwise functions of a tensor, called in float64.
        covariance: K, shape (..., m, m), units of z squared; may be singular.
        kinks: for each function the points where it or a derivative of it jumps; None: none.
        rtol: wanted error relative to :math:`\prod_i \langle|f_i|^m\rangle^{1/m}` with three variables or more.
        seed: of the scrambles; the same seed gives the same answer.
        most: largest number of points of each scramble, a power of two.
    Returns:
        Expectation of the shape (...), dtype and device of K; the error of a sampled case is three standard
        errors, that of a lattice the spread of its coarser parts: estimates, not bounds.
    Raises:
        ValueError: K is not square, not of the size of ``functions``, or not positive semidefinite.
    Source: Owen, Monte Carlo theory, methods and examples (2013), chapters 15-17.

    >>> import torch
    >>> K = 0.5 * torch.eye(4, dtype=torch.float64) + 0.5
    >>> out = joint_expectation([torch.sin] * 4, K)
    >>> exact = (math.exp(-5) - 4 * math.exp(-2) + 3 * math.exp(-1)) / 8
    >>> abs(out.value.item() - exact) <= out.error.item() < 1e-4
    True
    """
    m = len(functions)
    K = as_covariances(covariance, m)
    lists = [()] * m if kinks is None else list(kinks)
    if len(lists) != m:
        raise ValueError(f"kinks must be one sequence for each of {m} functions, got {len(lists)}")
    flat = K.reshape(-1, m, m)
    value, error = (flat.new_full((flat.shape[0],), v) for v in (math.nan, math.inf))
    for rows, blocks in equal_variables(flat):
        merged = [_product([functions[i] for i in b]) for b in blocks]
        cuts = [tuple(k for i in b for k in lists[i]) for b in blocks]
        index = torch.tensor([b[0] for b in blocks], device=flat.device)
        part = flat[rows][:, index][:, :, index]
        if len(blocks) == 1:
            out = expectation(merged[0], part[:, 0, 0], kinks=cuts[0], rtol=_EXACT)
        elif len(blocks) == 2:
            (f, g), (a, c, b) = merged, (part[:, 0, 0], part[:, 0, 1], part[:, 1, 1])
            out = mean_cross_product(f, g, a, c, b, kinks_f=cuts[0], kinks_g=cuts[1], rtol=_EXACT)
        else:
            scale = holder_scale(merged, part, cuts)
            out = _many(merged, part, scale, rtol, seed, most, kinked=any(cuts))
        value[rows], error[rows] = out.value, out.error
    shape = covariance.shape[:-2]
    return Expectation(value.reshape(shape), error.reshape(shape)).to(_dtype(covariance))


def _dtype(covariance: Tensor) -> torch.dtype:
    return covariance.dtype if covariance.is_floating_point() else torch.get_default_dtype()


def _product(functions: Sequence[Pointwise]) -> Pointwise:
    if len(functions) == 1:
        return functions[0]
    return lambda z: torch.stack([f(z).to(torch.float64) for f in functions]).prod(dim=0)


def as_covariances(covariance: Tensor, m: int) -> Tensor:
    """Covariance matrices in float64, checked; rows that are not finite are left for the caller to skip.

    Args:
        covariance: shape (..., m, m), units of z squared.
        m: variables that there are functions for.
    Returns:
        The same, symmetrised, in float64.
    Raises:
        ValueError: the matrices are not square, not of size m, or not positive semidefinite beyond rounding
            (1e-9 relative in float64, 1e-4 in float32, 1e-2 in 16 bits).
    """
    if covariance.ndim < 2 or tuple(covariance.shape[-2:]) != (m, m):
        raise ValueError(
            f"covariance must have shape (..., {m}, {m}) for {m} functions, got {tuple(covariance.shape)}; "
            "pass one function for each variable"
        )
    slack = {torch.float64: 1e-9, torch.float32: 1e-4}.get(covariance.dtype, 1e-2)
    K = covariance.detach().to(torch.float64)
    K = (K + K.mT) / 2
    d = K.diagonal(dim1=-2, dim2=-1)
    sd = torch.where(d > 0, d, 1.0).sqrt()
    finite = torch.isfinite(K).all(dim=-1).all(dim=-1)
    rho = torch.where(finite[..., None, None], K / (sd[..., :, None] * sd[..., None, :]), 0.0)
    smallest = torch.linalg.eigvalsh(rho)[..., 0] if rho.numel() else rho.new_zeros(1)
    if bool((smallest < -slack * m).any()):
        raise ValueError(
            f"covariance must be positive semidefinite, got correlations with an eigenvalue of "
            f"{float(smallest.min()):.3g}; pass the covariance of actual variables"
        )
    return K


def equal_variables(K: Tensor) -> Iterator[tuple[Tensor, list[list[int]]]]:
    """Group covariances by which of their variables are one and the same.

    Args:
        K: shape (R, m, m), float64; rows that are not finite belong to no group.
    Yields:
        Row numbers, and the variables in blocks of equal ones, in order of their first.
    """
    m = K.shape[-1]
    d = K.diagonal(dim1=-2, dim2=-1)
    equal = (d[:, :, None] == d[:, None, :]) & (d[:, :, None] == K)
    equal |= torch.eye(m, dtype=torch.bool, device=K.device)
    first = equal.to(torch.long).argmax(dim=-1)
    finite = torch.isfinite(K).all(dim=-1).all(dim=-1)
    if not bool(finite.any()):
        return
    patterns, which = torch.unique(first[finite], dim=0, return_inverse=True)
    numbers = finite.nonzero().reshape(-1)
    for p, pattern in enumerate(patterns.tolist()):
        heads = list(dict.fromkeys(pattern))
        yield numbers[which == p], [[i for i in range(m) if pattern[i] == h] for h in heads]


def holder_scale(functions: Sequence[Pointwise], K: Tensor, kinks: Sequence[Sequence[float]]) -> Tensor:
    """Product over the variables of <|f|^m>^(1/m), which bounds the expectation of the product.

    Args:
        functions: m pointwise functions.
        K: shape (R, m, m), float64.
        kinks: of each function.
    Returns:
        Shape (R,).
    """
    m = len(functions)
    scale = torch.ones(K.shape[0], dtype=torch.float64, device=K.device)
    for i, f in enumerate(functions):
        power = expectation(lambda z, f=f: f(z).abs() ** m, K[:, i, i], kinks=kinks[i], rtol=1e-3)  # type: ignore[misc]
        scale = scale * power.value ** (1 / m)
    return scale


def _many(
    functions: Sequence[Pointwise], K: Tensor, scale: Tensor, rtol: float, seed: int, most: int, *, kinked: bool
) -> Expectation:
    """Lattices of falling spacing, then sampling, of every row until one meets the tolerance."""
    value, error = torch.zeros_like(scale), torch.full_like(scale, math.inf)
    open_rows = torch.arange(scale.numel(), device=K.device)
    for step in _STEPS if len(functions) <= 4 else ():
        out = lattice_expectation(functions, K[open_rows], step)
        _keep_better(value, error, open_rows, out.value, (_CAUTION if kinked else 1.0) * out.error)
        open_rows = open_rows[error[open_rows] > rtol * scale[open_rows]]
        if open_rows.numel() == 0:
            return Expectation(value, error)
    out = _sample(functions, K[open_rows], scale[open_rows], rtol, seed, most)
    _keep_better(value, error, open_rows, out.value, out.error)
    return Expectation(value, error)


def _keep_better(value: Tensor, error: Tensor, rows: Tensor, new: Tensor, miss: Tensor) -> None:
    """Take over, in place, the new values whose errors are smaller."""
    better = miss < error[rows]
    value[rows[better]], error[rows[better]] = new[better], miss[better]


def _sample(functions: Sequence[Pointwise], K: Tensor, scale: Tensor, rtol: float, seed: int, most: int) -> Expectation:
    """Means over scrambled point sets, of every row until its spread meets the tolerance."""
    sd, factor = correlation_root(K)
    root = sd[:, :, None] * factor
    count, m = root.shape[0], root.shape[-1]
    value, error = torch.zeros_like(scale), torch.full_like(scale, math.inf)
    sums = torch.zeros(count, _REPLICATES, dtype=torch.float64, device=K.device)
    open_rows = torch.arange(count, device=K.device)
    total = 0
    for batch in normal_points(m, _REPLICATES, _FIRST, most, seed, K.device):
        for points in batch.split(_SLICE, dim=1):
            for rows in open_rows.split(max(1, _POINTS // (_REPLICATES * points.shape[1]))):
                sums[rows] += _values(functions, points, root[rows]).sum(dim=-1)
        total += batch.shape[1]
        means = sums[open_rows] / total
        value[open_rows] = means.mean(dim=1)
        spread = means.std(dim=1) / math.sqrt(_REPLICATES)
        # No point of any scramble differs: what has a probability below 3/points may be missing, and where every
        # point gave 0 that may be all there is.
        unseen = torch.where(value[open_rows] == 0, 1.0, 3.0 / (_REPLICATES * total)) * scale[open_rows]
        spread = torch.where(spread == 0, unseen / _SIGMAS, spread)
        before = error[open_rows]
        now = (_SIGMAS * spread + _FLOOR * scale[open_rows]).nan_to_num(math.inf)
        error[open_rows] = torch.where(before.isfinite(), torch.maximum(now, _FALL * before), now)
        open_rows = open_rows[error[open_rows] > rtol * scale[open_rows]]
        if open_rows.numel() == 0:
            break
    return Expectation(value, error)


def _values(functions: Sequence[Pointwise], points: Tensor, root: Tensor) -> Tensor:
    """Products of the functions at the points of every covariance, shape (rows, replicates, n)."""
    product: Tensor | None = None
    for i, f in enumerate(functions):
        z = torch.einsum("rj,snj->rsn", root[:, i], points)
        factor = f(z).to(torch.float64)
        product = factor if product is None else product * factor
    return product if product is not None else points.new_zeros(0)
