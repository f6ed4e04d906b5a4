"""Mean products <f(z_a) f(z_b)> over whole tensors of pairs: Mehler series first, quadrature where needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.angle import near_parallel
from leadline.gaussian.arguments import checked
from leadline.gaussian.hermite import HermiteSeries, hermite_series
from leadline.gaussian.interpolate import interpolated_series
from leadline.gaussian.one import distinct
from leadline.gaussian.two import correlation

__all__ = ["mean_product", "mean_product_gram"]

Near = Callable[[Tensor, Tensor, Tensor, float], Expectation]

_ORDERS = (48, 240)
_ROUNDING = 4e-14
_TILE = 1 << 16
_MANY_VARIANCES = 4096


@checked(negative=("rtol",), nan=("Kaa", "Kab", "Kbb"))
def mean_product(
    f: Callable[[Tensor], Tensor],
    Kaa: Tensor,
    Kab: Tensor,
    Kbb: Tensor,
    *,
    kinks: Sequence[float] = (),
    rtol: float = 1e-10,
    near: Near | None = None,
) -> Expectation:
    r"""Mean product of f at two jointly Gaussian points, elementwise over broadcast tensors of any size.

    .. math:: \langle f(z_a) f(z_b)\rangle = \sum_k c_k(K_{aa}) c_k(K_{bb}) \rho^k

    Pairs whose tail bound misses the tolerance (|rho| near 1, or a kink) go to quadrature.

    Args:
        f: pointwise function of a tensor.
        Kaa: variances of the first points, broadcast, units of z squared.
        Kab: covariances.
        Kbb: variances of the second points.
        kinks: points where f or a derivative of it jumps.
        rtol: wanted error relative to :math:`\sqrt{\langle f_a^2\rangle\langle f_b^2\rangle}`.
        near: takes flat (Kaa, rho, Kbb, rtol) of the pairs that the series misses; None: quadrature.
    Returns:
        Expectation of the broadcast shape, dtype and device of the inputs.
    Raises:
        ValueError: the entries are not those of a covariance.
    Source: Mehler (1866); O'Donnell, Analysis of Boolean Functions (2014), section 11.2.

    >>> import torch
    >>> one = torch.tensor(1.0, dtype=torch.float64)
    >>> out = mean_product(torch.sin, one, 0.5 * one, one)
    >>> bool((out.value - torch.exp(-one) * torch.sinh(0.5 * one)).abs() <= out.error)
    True
    """
    near = near or _quadrature(f, kinks)
    dtype = torch.promote_types(torch.promote_types(Kaa.dtype, Kab.dtype), Kbb.dtype)
    a, c, b = torch.broadcast_tensors(Kaa, Kab, Kbb)
    shape = a.shape
    rho = correlation(a, c, b).reshape(-1)
    ka, kb = a.detach().to(torch.float64).reshape(-1), b.detach().to(torch.float64).reshape(-1)
    values, inverse = distinct(torch.stack([ka, kb]))
    inverse = inverse.reshape(2, -1)
    if values.numel() > _MANY_VARIANCES:
        got = interpolated_series(f, ka, kb, rho, kinks, rtol)
        if got is not None:
            value, bound, scale = got
            return _finish(ka, rho, kb, value, bound, scale, near, rtol, shape, dtype)
    series = _series(f, values, kinks, _top(rho), rtol)
    value, bound = torch.empty_like(rho), torch.empty_like(rho)
    tail = series.tail[:, -1].sqrt()
    n = series.coefficients.shape[1] - 1
    step = max(1, (1 << 20) // (n + 1)) if values.numel() > 1 else _TILE
    for i in range(0, rho.numel(), step):
        p = slice(i, i + step)
        if values.numel() == 1:
            value[p] = _horner(series.coefficients[0] ** 2, rho[p])
        else:
            products = series.coefficients[inverse[0, p]] * series.coefficients[inverse[1, p]]
            value[p] = _horner_rows(products, rho[p])
        bound[p] = tail[inverse[0, p]] * tail[inverse[1, p]] * rho[p].abs() ** (n + 1)
    scale = (series.energy[inverse[0]] * series.energy[inverse[1]]).sqrt()
    return _finish(ka, rho, kb, value, bound, scale, near, rtol, shape, dtype)


@checked(negative=("rtol",), nan=("K",))
def mean_product_gram(
    f: Callable[[Tensor], Tensor],
    K: Tensor,
    *,
    kinks: Sequence[float] = (),
    rtol: float = 1e-10,
    near: Near | None = None,
) -> Expectation:
    """Mean products of f for every pair of a covariance matrix.

    Args:
        f: pointwise function of a tensor.
        K: covariance matrices, shape (..., m, m), units of z squared; taken as symmetric.
        kinks: points where f or a derivative of it jumps.
        rtol: wanted error relative to the root of the product of the two second moments.
        near: as for ``mean_product``.
    Returns:
        Expectation of the shape, dtype and device of K; the diagonal is the one-variable second moment.
    Raises:
        ValueError: K is not square, or is not a covariance.
    """
    if K.ndim < 2 or K.shape[-1] != K.shape[-2]:
        raise ValueError(f"K must be square in its last two axes, got shape {tuple(K.shape)}; pass (..., m, m)")
    near = near or _quadrature(f, kinks)
    m = K.shape[-1]
    flat = K.detach().reshape(-1, m, m).to(torch.float64)
    diagonal = flat.diagonal(dim1=-2, dim2=-1)
    rho = correlation(diagonal[:, :, None].to(K.dtype), K.reshape(-1, m, m), diagonal[:, None, :].to(K.dtype))
    rho.diagonal(dim1=-2, dim2=-1).zero_()
    values, inverse = distinct(diagonal)
    inverse = inverse.reshape(diagonal.shape)
    series = _series(f, values, kinks, _top(rho), rtol)
    n = series.coefficients.shape[1] - 1
    value = torch.empty_like(flat)
    tail, energy = series.tail[:, -1].sqrt()[inverse], series.energy[inverse]
    for batch in range(flat.shape[0]):
        rows = max(1, _TILE // m)
        for i in range(0, m, rows):
            r = rho[batch, i : i + rows]
            if values.numel() == 1:
                value[batch, i : i + rows] = _horner(series.coefficients[0] ** 2, r)
            else:
                left = series.coefficients[inverse[batch, i : i + rows]].T.contiguous()
                right = series.coefficients[inverse[batch]].T.contiguous()
                acc = torch.outer(left[n], right[n])
                for k in range(n - 1, -1, -1):
                    acc.mul_(r).addr_(left[k], right[k])
                value[batch, i : i + rows] = acc
    bound = tail[:, :, None] * tail[:, None, :] * rho.abs() ** (n + 1)
    scale = (energy[:, :, None] * energy[:, None, :]).sqrt()
    bad = (bound > rtol * scale).triu(diagonal=1)
    if bool(bad.any()):
        where = bad.nonzero(as_tuple=True)
        ka, kb = diagonal[where[0], where[1]], diagonal[where[0], where[2]]
        out = near(ka, rho[where], kb, rtol)
        mirrored = (where[0], where[2], where[1])
        value[where], value[mirrored] = out.value, out.value
        bound[where], bound[mirrored] = out.error, out.error
    value.diagonal(dim1=-2, dim2=-1).copy_(energy)
    error = bound + _ROUNDING * scale
    return Expectation(value.reshape(K.shape), error.reshape(K.shape)).to(K.dtype)


def _series(f: Callable[[Tensor], Tensor], K: Tensor, kinks: Sequence[float], top: float, rtol: float) -> HermiteSeries:
    """The shortest series whose tail bound meets rtol at the largest |rho|, or the longest one there is."""
    for order in _ORDERS:
        series = hermite_series(f, K, order, kinks)
        relative = (series.tail / series.energy.clamp_min(1e-300)[:, None]).nan_to_num(0.0).amax(dim=0)
        power = top ** torch.arange(1, order + 2, dtype=torch.float64, device=K.device)
        enough = (relative * power <= rtol / 2).nonzero()
        if enough.numel():
            n = int(enough[0])
            return HermiteSeries(series.coefficients[:, : n + 1].contiguous(), series.energy)
    return series


def _top(rho: Tensor) -> float:
    """Largest |rho|, of those that are numbers."""
    return float(rho.abs().nan_to_num(0.0).max()) if rho.numel() else 0.0


def _horner(c: Tensor, x: Tensor) -> Tensor:
    acc = torch.full_like(x, float(c[-1]))
    for v in reversed(c[:-1].tolist()):
        acc.mul_(x).add_(v)
    return acc


def _horner_rows(c: Tensor, x: Tensor) -> Tensor:
    columns = c.T.contiguous()
    acc = columns[-1].clone()
    for k in range(columns.shape[0] - 2, -1, -1):
        acc.mul_(x).add_(columns[k])
    return acc


def _quadrature(f: Callable[[Tensor], Tensor], kinks: Sequence[float]) -> Near:
    return lambda ka, rho, kb, rtol: near_parallel(f, ka, rho, kb, kinks, rtol)


def _finish(
    ka: Tensor,
    rho: Tensor,
    kb: Tensor,
    value: Tensor,
    bound: Tensor,
    scale: Tensor,
    near: Near,
    rtol: float,
    shape: torch.Size,
    dtype: torch.dtype,
) -> Expectation:
    """Send the pairs that miss the tolerance to quadrature, and restore shape and dtype."""
    same = (rho == 1) & (ka == kb)
    value = torch.where(same, scale, value)
    bound = torch.where(same, 0.0, bound)
    bad = (bound > rtol * scale).nonzero().reshape(-1)
    if bad.numel():
        out = near(ka[bad], rho[bad], kb[bad], rtol)
        value[bad], bound[bad] = out.value, out.error
    error = bound + _ROUNDING * scale
    return Expectation(value.reshape(shape), error.reshape(shape)).to(dtype)
