"""Hermite coefficients of a function of a Gaussian variable, for many variances in a few matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from leadline.gaussian.adaptive import REACH
from leadline.gaussian.arguments import checked
from leadline.gaussian.one import standard_deviation

__all__ = [
    "HermiteSeries",
    "common_nodes",
    "hermite_coefficients",
    "hermite_polynomials",
    "hermite_series",
    "mehler_tail_bound",
]

_NODES = 16
_MAX_POINTS = 2_000_000


@dataclass(frozen=True)
class HermiteSeries:
    """Coefficients c_k of shape (..., n + 1) and the second moment <f^2> of shape (...), in float64."""

    coefficients: Tensor
    energy: Tensor

    @property
    def tail(self) -> Tensor:
        """Sum of c_k^2 beyond each order, shape (..., n + 1), plus the rounding of the energy."""
        rest = (self.energy[..., None] - (self.coefficients**2).cumsum(dim=-1)).clamp_min(0.0)
        return rest + 1e-15 * self.energy[..., None]


@checked(negative=("order",), nan=("x",))
def hermite_polynomials(x: Tensor, order: int) -> Tensor:
    r"""Normalised probabilists' Hermite polynomials :math:`h_k(x) = He_k(x)/\sqrt{k!}` for k = 0..order.

    Args:
        x: points, shape (N,).
        order: highest degree n.
    Returns:
        Shape (n + 1, N); the rows are orthonormal under the standard Gaussian.
    """
    rows = torch.empty(order + 1, x.numel(), dtype=x.dtype, device=x.device)
    rows[0] = 1.0
    if order >= 1:
        rows[1] = x
    for k in range(1, order):
        rows[k + 1] = (x * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1)
    return rows


@checked(infinite=("K",), negative=("order",), nan=("K",))
def hermite_coefficients(
    f: Callable[[Tensor], Tensor], K: Tensor | float, order: int, kinks: Sequence[float] = ()
) -> Tensor:
    r"""Coefficients of f in the Hermite basis of each variance.

    .. math:: f(\sqrt K x) = \sum_k c_k(K) h_k(x), \qquad c_k(K) = \langle f(\sqrt K x)\, h_k(x)\rangle_{x\sim
              N(0,1)}

    Args:
        f: pointwise function of a tensor.
        K: variances, any shape, units of z squared.
        order: highest degree n.
        kinks: points where f or a derivative of it jumps, units of z.
    Returns:
        Shape (..., n + 1), dtype and device of K.
    Raises:
        ValueError: a variance is negative.
    Source: Mehler (1866).

    >>> import torch
    >>> c = hermite_coefficients(lambda z: z**2, torch.tensor(3.0, dtype=torch.float64), 3)
    >>> [round(v, 10) + 0.0 for v in c.tolist()]
    [3.0, 0.0, 4.2426406871, 0.0]
    """
    K = torch.as_tensor(K)
    if not K.is_floating_point():
        K = K.to(torch.get_default_dtype())
    series = hermite_series(f, K.reshape(-1), order, kinks)
    return series.coefficients.reshape(*K.shape, order + 1).to(K.dtype)


@checked(negative=("order",), nan=("K",))
def hermite_series(f: Callable[[Tensor], Tensor], K: Tensor, order: int, kinks: Sequence[float] = ()) -> HermiteSeries:
    """As ``hermite_coefficients`` for a flat K, with the second moment found on the same nodes.

    One grid of x serves every variance, so the projection is a matrix product; the panels that hold a kink
    are then taken out and put back cut at the kink.

    Args:
        f: pointwise function of a tensor.
        K: variances, shape (R,).
        order: highest degree n.
        kinks: points where f or a derivative of it jumps.
    Returns:
        HermiteSeries with coefficients (R, n + 1) and energy (R,), float64.
    """
    finite = torch.isfinite(K)
    sd = standard_deviation(torch.where(finite, K, 1.0))
    dev = sd.device
    ends = _common_ends(float(sd.max()) if sd.numel() else 1.0, dev)
    gx, gw = (torch.as_tensor(v, device=dev) for v in np.polynomial.legendre.leggauss(_NODES))
    x, w = _nodes(ends[:-1], ends[1:], gx, gw)
    basis = hermite_polynomials(x.reshape(-1), order).T.contiguous()
    weight = w.reshape(-1)
    coefficients = torch.empty(sd.numel(), order + 1, dtype=torch.float64, device=dev)
    energy = torch.empty(sd.numel(), dtype=torch.float64, device=dev)
    step = max(1, _MAX_POINTS // max(1, x.numel()))
    for i in range(0, sd.numel(), step):
        part = slice(i, i + step)
        values = f(sd[part, None] * x.reshape(-1)).to(torch.float64)
        weighted = values * weight
        coefficients[part] = weighted @ basis
        energy[part] = (weighted * values).sum(dim=1)
    # Where f grows so fast that mass lies beyond the reach, the tail must show it.
    ends_of_f = torch.stack([f(REACH * sd), f(-REACH * sd)]).to(torch.float64)
    energy += (ends_of_f**2).amax(dim=0) * (math.exp(-0.5 * REACH**2) / math.sqrt(2 * math.pi))
    for left, right, sign in _kink_panels(sd, ends, sorted(k for k in kinks if k != 0)):
        _add_panels(f, sd, left, right, sign, gx, gw, coefficients, energy)
    coefficients[~finite], energy[~finite] = torch.nan, torch.nan
    return HermiteSeries(coefficients, energy)


def mehler_tail_bound(tail_a: Tensor, tail_b: Tensor, rho: Tensor, order: int) -> Tensor:
    r"""Rigorous bound on what the Mehler series leaves out after degree n.

    .. math:: \Big|\sum_{k>n} c_k(K_a) c_k(K_b) \rho^k\Big| \le \sqrt{t_a t_b}\,|\rho|^{n+1}, \quad t =
              \sum_{k>n} c_k^2

    Args:
        tail_a: t of the first points, broadcast.
        tail_b: t of the second points.
        rho: correlations, broadcast.
        order: n.
    Returns:
        Broadcast shape, units of f squared.
    """
    return (tail_a * tail_b).clamp_min(0.0).sqrt() * rho.abs() ** (order + 1)


def common_nodes(top: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the standard Gaussian that resolve f(s x) for every s <= top, shape (N,)."""
    ends = _common_ends(top, device)
    gx, gw = (torch.as_tensor(v, device=device) for v in np.polynomial.legendre.leggauss(_NODES))
    x, w = _nodes(ends[:-1], ends[1:], gx, gw)
    return x.reshape(-1), w.reshape(-1)


def _common_ends(top: float, device: torch.device | None) -> Tensor:
    """Panel ends in x, half a unit apart and finer around 0 where the largest variance squeezes f."""
    ends, e = [0.0], 0.0
    while e < REACH:
        e += min(0.5, max(0.75 / max(top, 1e-3), 0.5 * e))
        ends.append(min(e, REACH))
    return torch.tensor([*(-v for v in reversed(ends[1:])), *ends], dtype=torch.float64, device=device)


def _nodes(left: Tensor, right: Tensor, gx: Tensor, gw: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes of panels and their weights times the standard Gaussian density."""
    half = ((right - left) / 2)[..., None]
    x = (right + left)[..., None] / 2 + half * gx
    return x, half * gw * torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def _kink_panels(sd: Tensor, ends: Tensor, kinks: Sequence[float]) -> list[tuple[Tensor, Tensor, float]]:
    """Panels to take out (-1) and to put in (+1), one of each row, so that no panel has a kink inside."""
    out: list[tuple[Tensor, Tensor, float]] = []
    at = [(k / sd).clamp(-REACH, REACH) for k in kinks]
    panel = [(torch.searchsorted(ends, x, right=True) - 1).clamp(0, ends.numel() - 2) for x in at]
    for j, (x, p) in enumerate(zip(at, panel, strict=True)):
        start, stop = ends[p], ends[p + 1]
        follows = panel[j - 1] == p if j > 0 else torch.zeros_like(p, dtype=torch.bool)
        goes_on = panel[j + 1] == p if j + 1 < len(at) else torch.zeros_like(p, dtype=torch.bool)
        out.append((start, torch.where(follows, start, stop), -1.0))
        out.append((torch.where(follows, at[j - 1] if j > 0 else start, start), x, 1.0))
        out.append((x, torch.where(goes_on, x, stop), 1.0))
    return out


def _add_panels(
    f: Callable[[Tensor], Tensor],
    sd: Tensor,
    left: Tensor,
    right: Tensor,
    sign: float,
    gx: Tensor,
    gw: Tensor,
    coefficients: Tensor,
    energy: Tensor,
) -> None:
    """Add sign times the contribution of one panel a row, in place."""
    x, w = _nodes(left, right, gx, gw)
    values = f(sd[:, None] * x).to(torch.float64)
    weighted = sign * w * values
    energy += (weighted * values).sum(dim=1)
    previous, current = torch.zeros_like(x), torch.ones_like(x)
    for k in range(coefficients.shape[1]):
        coefficients[:, k] += (weighted * current).sum(dim=1)
        previous, current = current, (x * current - math.sqrt(k) * previous) / math.sqrt(k + 1)
