"""Mean products of nearly parallel or antiparallel pairs, where the Mehler series converges too slowly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.interpolate import chebyshev_matrix, chebyshev_points, chebyshev_transform
from leadline.gaussian.two import expectation2

__all__ = ["near_parallel"]

_FEW = 40
_SIZES = (12, 24, 48, 96)


def near_parallel(
    f: Callable[[Tensor], Tensor], ka: Tensor, rho: Tensor, kb: Tensor, kinks: Sequence[float], rtol: float
) -> Expectation:
    r"""Mean product of f for flat pairs, by quadrature of each or by a table in the angle arccos(rho).

    In the angle the mean product is smooth up to both ends even where f has kinks (ReLU: sin + (pi - angle) cos), so
    one Chebyshev table serves all pairs with one common variance. Its error is read off the last coefficients.

    Args:
        f: pointwise function of a tensor.
        ka, rho, kb: variances and correlations, shape (N,), float64.
        kinks: points where f or a derivative of it jumps.
        rtol: wanted error relative to the root of the product of the second moments.
    Returns:
        Expectation of shape (N,).
    """
    common = ka.numel() > _FEW and float(torch.cat([ka, kb]).max()) == float(torch.cat([ka, kb]).min())
    if not common:
        return _direct(f, ka, rho, kb, kinks, rtol)
    value, error = torch.empty_like(rho), torch.empty_like(rho)
    for side in (rho >= 0, rho < 0):
        if not bool(side.any()):
            continue
        out = _table(f, ka[side], rho[side], kinks, rtol)
        if out is None:
            out = _direct(f, ka[side], rho[side], kb[side], kinks, rtol)
        value[side], error[side] = out.value, out.error
    return Expectation(value, error)


def _direct(
    f: Callable[[Tensor], Tensor], ka: Tensor, rho: Tensor, kb: Tensor, kinks: Sequence[float], rtol: float
) -> Expectation:
    return expectation2(f, f, ka, rho * (ka * kb).sqrt(), kb, kinks_f=kinks, kinks_g=kinks, rtol=rtol)


def _table(
    f: Callable[[Tensor], Tensor], k: Tensor, rho: Tensor, kinks: Sequence[float], rtol: float
) -> Expectation | None:
    """Chebyshev table over the angles present, or None when the finest one misses the tolerance."""
    angle = torch.acos(rho)
    low, high = float(angle.min()), float(angle.max())
    K = k[:1]
    scale = _direct(f, K, torch.ones_like(K), K, kinks, 1e-3).value.abs()
    for size in _SIZES:
        if size >= angle.numel():
            return None
        points = chebyshev_points(size, low, high, rho.device)
        nodes = _direct(f, K.expand(size), torch.cos(points), K.expand(size), kinks, 0.1 * rtol)
        cheb = chebyshev_transform(size, rho.device) @ nodes.value
        miss = float(cheb[-max(3, size // 8) :].abs().sum())
        if miss <= 0.5 * rtol * float(scale):
            value = (cheb[:, None] * chebyshev_matrix(angle, size, low, high)).sum(dim=0)
            return Expectation(value, torch.full_like(value, miss + float(nodes.error.max())))
    return None
