"""Mean products of nearly parallel or antiparallel pairs, where the Mehler series converges too slowly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.hermite import common_nodes
from leadline.gaussian.interpolate import chebyshev_matrix, chebyshev_points, chebyshev_transform
from leadline.gaussian.two import conditional_mean, expectation2

__all__ = ["near_parallel"]

_FEW = 40
_ANGLES = (8, 12, 20, 32, 48, 72)
_VARIANCES = (6, 9, 13, 18, 26)
_GENTLE = 0.35
_HERMITE = 32
_CHUNK = 4096

Pointwise = Callable[[Tensor], Tensor]


def near_parallel(
    f: Pointwise, ka: Tensor, rho: Tensor, kb: Tensor, kinks: Sequence[float], rtol: float
) -> Expectation:
    r"""Mean product of f for flat pairs, by quadrature of each or by a table in angle and variances.

    In the angle arccos(rho) the mean product is smooth up to both ends even where f has a kink (for ReLU it
    is sin + (pi - angle) cos), and it is smooth in the logarithms of the variances unless f has kinks away
    from 0. So one Chebyshev table, its error read off its last coefficients, serves many pairs.

    Args:
        f: pointwise function of a tensor.
        ka: variances of the first points, shape (N,), float64.
        rho: correlations, shape (N,).
        kb: variances of the second points, shape (N,).
        kinks: points where f or a derivative of it jumps.
        rtol: wanted error relative to the root of the product of the second moments.
    Returns:
        Expectation of shape (N,).
    """
    value, error = torch.empty_like(rho), torch.empty_like(rho)
    for side in (rho >= 0, rho < 0):
        if not bool(side.any()):
            continue
        a, r, b = ka[side], rho[side], kb[side]
        low, high = float(torch.minimum(a, b).min()), float(torch.maximum(a, b).max())
        out = None
        if a.numel() > _FEW and low > 0:
            if all(k == 0 for k in kinks):
                out = _table(f, a, r, b, low, high, rtol)
            elif low == high:
                out = _angle_table(f, low, r, kinks, rtol)
        if out is None:
            out = _direct(f, a, r, b, kinks, rtol)
        value[side], error[side] = out.value, out.error
    return Expectation(value, error)


def _direct(f: Pointwise, ka: Tensor, rho: Tensor, kb: Tensor, kinks: Sequence[float], rtol: float) -> Expectation:
    return expectation2(f, f, ka, rho * (ka * kb).sqrt(), kb, kinks_f=kinks, kinks_g=kinks, rtol=rtol)


def _angle_table(f: Pointwise, k: float, rho: Tensor, kinks: Sequence[float], rtol: float) -> Expectation | None:
    """One common variance: Chebyshev table over the angles present, its nodes by adaptive quadrature."""
    angle = torch.acos(rho)
    low, high = float(angle.min()), float(angle.max())
    for size in _ANGLES:
        if size >= angle.numel():
            return None
        K = torch.full((size,), k, dtype=torch.float64, device=rho.device)
        cosines = torch.cos(chebyshev_points(size, low, high, rho.device))
        nodes = _direct(f, K, cosines, K, kinks, 0.1 * rtol)
        scale = _direct(f, K[:1], torch.ones_like(K[:1]), K[:1], kinks, 1e-3).value.abs()
        cheb = chebyshev_transform(size, rho.device) @ nodes.value
        miss = float(cheb[-max(3, size // 8) :].abs().sum())
        if miss <= 0.5 * rtol * float(scale):
            value = (cheb[:, None] * chebyshev_matrix(angle, size, low, high)).sum(dim=0)
            return Expectation(value, torch.full_like(value, miss + float(nodes.error.max())))
    return None


def _table(
    f: Pointwise, ka: Tensor, rho: Tensor, kb: Tensor, low: float, high: float, rtol: float
) -> Expectation | None:
    """Table over angle and both log-variances for f smooth away from 0; None when the finest misses rtol."""
    angle = torch.acos(rho)
    start, stop = float(angle.min()), float(angle.max())
    bottom, top = math.log(low), math.log(high)
    i, j = 0, 0
    sizes = _VARIANCES if high > low * (1 + 1e-12) else (1,)
    while i < len(sizes) and j < len(_ANGLES):
        p, q = sizes[i], _ANGLES[j]
        variances = chebyshev_points(p, bottom, top, rho.device).exp()
        values = torch.stack([_pairs(f, variances, float(t)) for t in chebyshev_points(q, start, stop, rho.device)])
        energy = _pairs(f, variances, 0.0).diagonal()
        cv, ca = chebyshev_transform(p, rho.device), chebyshev_transform(q, rho.device)
        cheb = torch.einsum("qr,pa,sb,rab->qps", ca, cv, cv, values)
        miss_angle = float(cheb[-max(2, q // 8) :].abs().sum(dim=0).sum())
        last = max(2, p // 8)
        miss_k = 0.0 if p == 1 else float(cheb[:, -last:].abs().sum() + cheb[:, :, -last:].abs().sum())
        goal = 0.25 * rtol * float(energy.min())
        if miss_angle <= goal and miss_k <= goal:
            value = _evaluate(cheb, angle, ka.log(), kb.log(), (start, stop), (bottom, top))
            rounding = 1e-13 * float(energy.max())
            return Expectation(value, torch.full_like(value, miss_angle + miss_k + rounding))
        i, j = i + (miss_k > goal), j + (miss_angle > goal)
    return None


def _evaluate(
    cheb: Tensor,
    angle: Tensor,
    la: Tensor,
    lb: Tensor,
    angles: tuple[float, float],
    logs: tuple[float, float],
) -> Tensor:
    q, p, _ = cheb.shape
    out = torch.empty_like(angle)
    flat = cheb.reshape(q * p, p)
    for n in range(0, angle.numel(), _CHUNK):
        part = slice(n, n + _CHUNK)
        right = (flat @ chebyshev_matrix(lb[part], p, *logs)).reshape(q, p, -1)
        middle = (right * chebyshev_matrix(la[part], p, *logs)).sum(dim=1)
        out[part] = (middle * chebyshev_matrix(angle[part], q, *angles)).sum(dim=0)
    return out


def _pairs(f: Pointwise, variances: Tensor, angle: float) -> Tensor:
    """Mean products of every pair of variances at one angle, with the outer nodes shared."""
    sd = variances.sqrt()
    cos, sin = math.cos(angle), abs(math.sin(angle))
    sharp = max(float(sd.max()), abs(cos) / max(sin, 1e-8))
    x, w = common_nodes(sharp, sd.device)
    mean, tau = sd[:, None] * (cos * x), (sd * sin)[:, None].expand(-1, x.numel())
    inner = torch.empty_like(mean)
    gentle = (mean.abs() > 9 * tau) & (tau <= _GENTLE)
    if sin == 0:
        gentle = torch.ones_like(gentle)
    y, v = (torch.as_tensor(t, device=sd.device) for t in np.polynomial.hermite_e.hermegauss(_HERMITE))
    points = mean[gentle][:, None] + tau[gentle][:, None] * y
    inner[gentle] = f(points).to(torch.float64) @ (v / math.sqrt(2 * math.pi))
    rest = ~gentle
    ladder = [0.75 * 2.0**j for j in range(40) if 0.75 * 2.0**j < 9 * float(tau.max())]
    cuts = torch.tensor([0.0, *ladder, *(-t for t in ladder)], dtype=torch.float64, device=sd.device)
    inner[rest] = conditional_mean(f, mean[rest], tau[rest], cuts)[0]
    outer = f(sd[:, None] * x).to(torch.float64) * w
    return outer @ inner.T
