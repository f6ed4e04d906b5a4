"""Expectation of a function of one centred Gaussian variable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.gaussian.adaptive import REACH, Expectation, breakpoints, integrate
from leadline.gaussian.arguments import checked

__all__ = ["distinct", "expectation", "standard_deviation", "weighted_expectation"]

_TINY = 1e-30
_ROWS = 2048


def standard_deviation(K: Tensor, name: str = "K") -> Tensor:
    """Square root of a variance in float64, with zero replaced by a number small enough to be its limit.

    Args:
        K: variances, any shape, units of z squared.
        name: what to call the argument in the error message.
    Returns:
        Standard deviations, shape of K, units of z.
    Raises:
        ValueError: a variance is negative.
    """
    K = K.detach().to(torch.float64)
    if bool((K < 0).any()):
        raise ValueError(
            f"{name} must hold variances >= 0, got a smallest value of {float(K.min()):.6g}; "
            "check the covariance, or clamp rounding errors to 0 before the call"
        )
    return K.sqrt().clamp_min(_TINY)


def distinct(K: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values of K (flattened) and the index that rebuilds it."""
    flat = K.reshape(-1)
    if flat.numel() > 1 and bool((flat == flat[0]).all()):
        return flat[:1], torch.zeros(flat.shape[0], dtype=torch.long, device=flat.device)
    values, inverse = torch.unique(flat, return_inverse=True)
    return values, inverse


@checked(infinite=("K",), negative=("rtol",), nan=("K",))
def expectation(
    f: Callable[[Tensor], Tensor],
    K: Tensor | float,
    *,
    kinks: Sequence[float] = (),
    rtol: float = 1e-10,
) -> Expectation:
    r"""Expectation of f(z) for z drawn from a centred Gaussian, for every variance in K.

    .. math:: \langle f\rangle_K = \int f(z)\, e^{-z^2/2K}\, dz / \sqrt{2\pi K}

    Composite Gauss-Kronrod panels out to 13 standard deviations, cut at the kinks and bisected where the
    embedded rule asks for it. K = 0 gives the limit (the mean of the one-sided limits where f jumps at 0).

    Args:
        f: pointwise function of a tensor, called in float64.
        K: variances, any shape, units of z squared.
        kinks: points where f or a derivative of it jumps, units of z; one that is not declared costs time and
            leaves an error estimate, no guarantee.
        rtol: wanted error relative to the expectation of |f|.
    Returns:
        Expectation with tensors of the shape, dtype and device of K.
    Raises:
        ValueError: a variance is negative.
    Source: the error rule is that of QUADPACK (Piessens et al., 1983).

    >>> import torch
    >>> round(expectation(torch.exp, torch.tensor(1.0, dtype=torch.float64)).value.item(), 10)
    1.6487212707
    """
    return weighted_expectation(lambda z, _K: f(z), K, kinks=kinks, rtol=rtol)


def weighted_expectation(
    f: Callable[[Tensor, Tensor], Tensor],
    K: Tensor | float,
    *,
    kinks: Sequence[float] = (),
    rtol: float = 1e-10,
) -> Expectation:
    r"""As ``expectation`` for an integrand f(z, K) that also depends on the variance.

    Args:
        f: takes nodes z and the variance of each, float64 tensors that broadcast.
        K: variances, any shape, units of z squared.
        kinks: points where f or a derivative of it in z jumps.
        rtol: wanted error relative to the expectation of |f|.
    Returns:
        Expectation with tensors of the shape, dtype and device of K.
    Raises:
        ValueError: a variance is negative.
    """
    K = torch.as_tensor(K)
    if not K.is_floating_point():
        K = K.to(torch.get_default_dtype())
    flat, inverse = distinct(K.detach())
    finite = torch.isfinite(flat)
    sd = standard_deviation(torch.where(finite, flat, torch.ones_like(flat)))
    value, error = torch.empty_like(sd), torch.empty_like(sd)
    for i in range(0, sd.numel(), _ROWS):
        part = sd[i : i + _ROWS]
        k = part * part
        out = integrate(lambda z, row, k=k: f(z, k[row]), part, breakpoints(part, kinks), rtol)  # type: ignore[misc]
        out = _with_tails(f, part, out, rtol)
        value[i : i + _ROWS], error[i : i + _ROWS] = out.value, out.error
    value = torch.where(finite, value, torch.nan)
    error = torch.where(finite, error, torch.inf)
    return Expectation(value[inverse].reshape(K.shape), error[inverse].reshape(K.shape)).to(K.dtype)


def _with_tails(f: Callable[[Tensor, Tensor], Tensor], sd: Tensor, out: Expectation, rtol: float) -> Expectation:
    """Add what lies beyond the reach where f grows like an exponential, and the edge of it to the error."""
    for near, far in ((REACH, 24.0), (24.0, 37.0)):
        edge = _edge(f, sd, near)
        grows = (edge > 0.01 * rtol * out.value.abs()) & torch.isfinite(edge)
        if not bool(grows.any()):
            return Expectation(out.value, out.error + torch.where(torch.isnan(edge), torch.inf, edge))
        rows = sd[grows]
        k = rows * rows
        steps = torch.arange(near, far + 0.5, dtype=torch.float64, device=sd.device)
        value, error = out.value.clone(), out.error.clone()
        for ends in (steps * rows[:, None], (-steps.flip(0)) * rows[:, None]):
            more = integrate(lambda z, row, k=k: f(z, k[row]), rows, ends, rtol)  # type: ignore[misc]
            value[grows] += more.value
            error[grows] += more.error
        out = Expectation(value, error)
    return Expectation(out.value, out.error + _edge(f, sd, 37.0))


def _edge(f: Callable[[Tensor, Tensor], Tensor], sd: Tensor, reach: float) -> Tensor:
    """Size of the integrand per standard deviation at both ends of the reach."""
    z = torch.stack([reach * sd, -reach * sd])
    return f(z, sd * sd).to(torch.float64).abs().amax(dim=0) * (math.exp(-0.5 * reach**2) / math.sqrt(2 * math.pi))
