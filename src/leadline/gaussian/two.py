"""Expectation of a product of functions of two jointly Gaussian variables, by nested quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.gaussian.adaptive import REACH, Expectation, breakpoints, integrate, kronrod
from leadline.gaussian.arguments import checked
from leadline.gaussian.one import expectation, standard_deviation

__all__ = ["conditional_mean", "correlation", "expectation2"]

_INNER_REACH = 9.0
_INNER_STEP = 1.5
_ROWS = 64
_INNER_POINTS = 600_000


@checked(nan=("Kaa", "Kab", "Kbb"))
def correlation(Kaa: Tensor, Kab: Tensor, Kbb: Tensor) -> Tensor:
    """Correlation Kab / sqrt(Kaa Kbb) in float64, clipped to [-1, 1]; 0 where a variance is 0.

    Args:
        Kaa: variances of the first points, broadcast, units of z squared.
        Kab: covariances.
        Kbb: variances of the second points.
    Returns:
        Correlations, broadcast shape.
    Raises:
        ValueError: a variance is negative, or |Kab| exceeds sqrt(Kaa Kbb) by more than rounding (1e-3
            relative in float16/bfloat16, 1e-4 in float32, 1e-9 in float64).
    """
    dtype = torch.promote_types(torch.promote_types(Kaa.dtype, Kab.dtype), Kbb.dtype)
    slack = {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 1e-2)
    a, c, b = (t.detach().to(torch.float64) for t in (Kaa, Kab, Kbb))
    if bool((a < 0).any()) or bool((b < 0).any()):
        worst = min(float(a.min()), float(b.min()))
        raise ValueError(f"variances must be >= 0, got {worst:.6g}; pass a covariance, or clamp rounding errors to 0")
    scale = a.sqrt() * b.sqrt()
    rho = torch.where(scale > 0, c / torch.where(scale > 0, scale, 1.0), 0.0)
    # Equal points have correlation 1 exactly: its rounding would cost half the digits of an angle.
    rho = torch.where((a == b) & (c.abs() == a) & (a > 0), torch.sign(c), rho)
    if bool((rho.abs() > 1 + slack).any()):
        raise ValueError(
            f"|Kab| must not exceed sqrt(Kaa Kbb), got a correlation of {float(rho.abs().max()):.6g}; "
            "pass entries of one positive semidefinite covariance"
        )
    return rho.clamp(-1.0, 1.0)


@checked(infinite=("Kaa", "Kab", "Kbb"), negative=("rtol",), nan=("Kaa", "Kab", "Kbb"))
def expectation2(
    f: Callable[[Tensor], Tensor],
    g: Callable[[Tensor], Tensor],
    Kaa: Tensor | float,
    Kab: Tensor | float,
    Kbb: Tensor | float,
    *,
    kinks_f: Sequence[float] = (),
    kinks_g: Sequence[float] = (),
    rtol: float = 1e-10,
) -> Expectation:
    r"""Expectation of f(z_a) g(z_b) for two jointly Gaussian centred variables.

    .. math:: \langle f(z_a) g(z_b)\rangle = \langle f(z_a)\, \langle g(m z_a + \tau y)\rangle_y\rangle_{z_a},
              \quad m = K_{ab}/K_{aa},\ \tau^2 = K_{bb} - K_{ab}^2/K_{aa}

    The inner average is cut at the kinks of g wherever they fall, the outer one at those of f and around the
    images of those of g, so the scheme stays accurate up to |correlation| = 1.

    Args:
        f: pointwise function of a tensor, called in float64.
        g: the same for the second variable.
        Kaa: variances of the first variable, broadcast, units of z squared.
        Kab: covariances.
        Kbb: variances of the second variable.
        kinks_f: points where f or a derivative of it jumps.
        kinks_g: the same for g.
        rtol: wanted error relative to :math:`\sqrt{\langle f^2\rangle\langle g^2\rangle}`.
    Returns:
        Expectation with tensors of the broadcast shape, dtype and device of the inputs.
    Raises:
        ValueError: the entries are not those of a covariance.
    Source: iterated conditioning; the error rule is that of QUADPACK (Piessens et al., 1983).

    >>> import torch
    >>> out = expectation2(torch.relu, torch.relu, 1.0, 0.0, 1.0, kinks_f=(0.0,), kinks_g=(0.0,))
    >>> abs(out.value.item() - 1 / (2 * torch.pi)) < 1e-7
    True
    """
    a, c, b = (torch.as_tensor(t) for t in (Kaa, Kab, Kbb))
    dtype = torch.promote_types(torch.promote_types(a.dtype, c.dtype), b.dtype)
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    a, c, b = torch.broadcast_tensors(a.to(dtype), c.to(dtype), b.to(dtype))
    shape = a.shape
    rho = correlation(a, c, b).reshape(-1)
    sa, sb = standard_deviation(a.reshape(-1), "Kaa"), standard_deviation(b.reshape(-1), "Kbb")
    # Infinite or missing variances are worked on as 1 and come back as nan.
    finite = torch.isfinite(sa) & torch.isfinite(sb) & torch.isfinite(rho)
    sa, sb, rho = torch.where(finite, sa, 1.0), torch.where(finite, sb, 1.0), torch.where(finite, rho, 0.0)
    size_f = expectation(lambda z: f(z) ** 2, sa**2, kinks=kinks_f, rtol=1e-3).value
    size_g = expectation(lambda z: g(z) ** 2, sb**2, kinks=kinks_g, rtol=1e-3).value
    scale = (size_f * size_g).sqrt()
    value, error = torch.empty_like(rho), torch.empty_like(rho)
    for i in range(0, rho.numel(), _ROWS):
        part = slice(i, i + _ROWS)
        out = _nested(f, g, sa[part], sb[part], rho[part], kinks_f, kinks_g, rtol, scale[part])
        value[part], error[part] = out.value, out.error
    value, error = torch.where(finite, value, torch.nan), torch.where(finite, error, torch.inf)
    return Expectation(value.reshape(shape), error.reshape(shape)).to(dtype)


def _nested(
    f: Callable[[Tensor], Tensor],
    g: Callable[[Tensor], Tensor],
    sa: Tensor,
    sb: Tensor,
    rho: Tensor,
    kinks_f: Sequence[float],
    kinks_g: Sequence[float],
    rtol: float,
    scale: Tensor,
) -> Expectation:
    """Outer adaptive integral over z_a of f(z_a) times the conditional mean of g."""
    slope = rho * sb / sa
    tau = sb * ((1 - rho) * (1 + rho)).clamp_min(0.0).sqrt()
    offsets = torch.tensor([-8.0, -4, -2, -1, 0, 1, 2, 4, 8], dtype=torch.float64, device=sa.device)
    kink_g = torch.as_tensor(kinks_g, dtype=torch.float64, device=sa.device).reshape(-1)
    safe = torch.where(slope == 0, 1.0, slope)[:, None, None]
    images = (kink_g[None, :, None] + tau[:, None, None] * offsets) / safe
    images = torch.where(slope[:, None, None] == 0, 0.0, images).reshape(sa.shape[0], -1)
    bound = 1e30
    ends = breakpoints(sa, kinks_f, images.clamp(-bound, bound) if images.numel() else None)
    ladder = [0.75 * 2.0**j for j in range(40) if 0.75 * 2.0**j < _INNER_REACH * float(tau.max())]
    cuts = torch.cat([torch.tensor([*ladder, *(-v for v in ladder)], dtype=torch.float64, device=sa.device), kink_g])

    def conditional(z: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        value, error = conditional_mean(g, slope[row] * z, tau[row].expand_as(z), cuts)
        outer = f(z).to(torch.float64)
        return outer * value, outer.abs() * error

    out = integrate(conditional, sa, ends, rtol, floor=scale)
    rows = torch.arange(sa.numel(), device=sa.device)[:, None]
    last = torch.stack([REACH * sa, -REACH * sa], dim=1)
    edge = conditional(last, rows)[0].abs().sum(dim=1) * (math.exp(-0.5 * REACH**2) / math.sqrt(2 * math.pi))
    return Expectation(out.value, out.error + edge)


def conditional_mean(g: Callable[[Tensor], Tensor], mean: Tensor, tau: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of g(mean + tau y) over standard normal y, with its error estimate.

    Args:
        g: pointwise function of a tensor.
        mean: shape (...), units of z.
        tau: standard deviations, shape of mean, units of z.
        cuts: where g must not be crossed by a panel, shape (C,), units of z.
    Returns:
        Values and absolute errors, shape of mean.
    """
    count = 15 * (13 + cuts.numel())
    step = max(1, _INNER_POINTS // count)
    flat_mean, flat_tau = mean.reshape(-1), tau.reshape(-1)
    pieces = [_panels(g, flat_mean[i : i + step], flat_tau[i : i + step], cuts) for i in range(0, mean.numel(), step)]
    if not pieces:
        return torch.empty_like(mean), torch.empty_like(mean)
    return tuple(torch.cat(p).reshape(mean.shape) for p in zip(*pieces, strict=True))  # type: ignore[return-value]


def _panels(g: Callable[[Tensor], Tensor], mean: Tensor, tau: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
    x, wk, wg = kronrod(mean.device)
    grid = torch.arange(-_INNER_REACH, _INNER_REACH + 1e-9, _INNER_STEP, dtype=torch.float64, device=mean.device)
    ends = grid.expand(*mean.shape, -1)
    if cuts.numel():
        moved = (cuts - mean[..., None]) / tau.clamp_min(1e-300)[..., None]
        ends = torch.cat([ends, moved.clamp(-_INNER_REACH, _INNER_REACH)], dim=-1).sort(dim=-1).values
    half = ((ends[..., 1:] - ends[..., :-1]) / 2)[..., None]
    y = (ends[..., 1:] + ends[..., :-1])[..., None] / 2 + half * x
    weight = torch.exp(-0.5 * y**2) * (half / math.sqrt(2 * math.pi))
    v = g(mean[..., None, None] + tau[..., None, None] * y).to(torch.float64) * weight
    fine, coarse = v @ wk, v @ wg
    diff = (fine - coarse).abs()
    spread = (v - fine[..., None] / 2).abs() @ wk
    ratio = (200 * diff / spread.clamp_min(1e-300)).clamp_max(1.0)
    err = torch.where(spread > 0, spread * ratio**1.5, diff)
    outside = math.exp(-0.5 * _INNER_REACH**2) / math.sqrt(2 * math.pi)
    edge = (g(mean - _INNER_REACH * tau).abs() + g(mean + _INNER_REACH * tau).abs()).to(torch.float64) * outside
    return fine.sum(dim=-1), err.sum(dim=-1) + edge
