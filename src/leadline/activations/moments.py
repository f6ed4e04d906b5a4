"""One-variable moments of an arbitrary pointwise function, kept accurate down to vanishing variance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from leadline.gaussian import Expectation, expectation
from leadline.gaussian.interpolate import chebyshev_matrix, chebyshev_points, chebyshev_transform
from leadline.gaussian.normal import upper_tail
from leadline.gaussian.one import distinct, weighted_expectation

__all__ = [
    "QUANTITIES", "autodiff", "common_dtype", "evaluate", "flat_fraction", "one", "refuse_jumps",
    "second_moment_curvature", "second_moment_slope", "smooth_value_curvature", "slope_of_closed_form", "stein_mean",
]  # fmt: skip

QUANTITIES = (
    "mean", "second_moment", "second_moment_slope", "second_moment_curvature", "derivative_moment",
    "derivative_mean", "fourth_moment", "value_curvature",
)  # fmt: skip

Pointwise = Callable[[Tensor], Tensor]

_ROUNDING = 1e-14
_MANY = 4096
_SIZES = (24, 48, 96, 192)
_SMALL_SLOPE = 1e-10
_SMALL_CURVATURE = 1e-3


def autodiff(fn: Pointwise, z: Tensor) -> Tensor:
    """Derivative of a pointwise function by forward-mode autodiff, or reverse mode where that fails."""
    try:
        return torch.func.jvp(fn, (z,), (torch.ones_like(z),))[1]
    except (RuntimeError, NotImplementedError):
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            (grad,) = torch.autograd.grad(fn(leaf).sum(), leaf, create_graph=False, allow_unused=True)
        return torch.zeros_like(z) if grad is None else grad


def common_dtype(*tensors: Tensor | float) -> list[Tensor]:
    """Arguments as floating tensors of one dtype; Python numbers adapt to the tensors, or become float64.

    Args:
        tensors: variances and covariances.
    Returns:
        The tensors.
    Raises:
        ValueError: one is neither a number nor a tensor.
    """
    for t in tensors:
        if not isinstance(t, Tensor | Real):
            raise ValueError(f"got {t!r} where a variance is expected: give a number or a tensor.")
    given = [t for t in tensors if isinstance(t, Tensor)]
    dtype = torch.float64 if not given else given[0].dtype
    for t in given[1:]:
        dtype = torch.promote_types(dtype, t.dtype)
    if not dtype.is_floating_point:
        dtype = torch.float64
    device = given[0].device if given else None
    return [torch.as_tensor(t, dtype=dtype, device=device) for t in tensors]


def evaluate(hook: Callable[[Tensor], Expectation | Tensor], K: Tensor | float) -> Expectation:
    """Run a float64 hook on variances, and give its value and error the shape, dtype and device of K."""
    (given,) = common_dtype(K)
    k64 = given.detach().to(torch.float64)
    if bool((k64 < 0).any()):
        raise ValueError(
            f"K must hold variances >= 0, got a smallest value of {float(k64.min()):.6g}; "
            "check the covariance, or clamp rounding errors to 0 before the call"
        )
    out = hook(k64)
    if not isinstance(out, Expectation):
        out = Expectation(out, _ROUNDING * out.abs())
    return out.to(given.dtype)


def refuse_jumps(name: str, jumps: Sequence[float], what: str) -> None:
    """Raise where a moment of the derivative is infinite because the function jumps."""
    if jumps:
        raise ValueError(
            f"{what} of {name} is infinite: it jumps at {', '.join(f'{j:g}' for j in jumps)}; "
            "use a continuous activation, or only the moments of the function itself"
        )


def one(f: Pointwise, K: Tensor, kinks: Sequence[float], rtol: float) -> Expectation:
    """Expectation of f for variances K in float64."""
    return _tabulate(lambda k: expectation(f, k, kinks=kinks, rtol=rtol), K, rtol)


def _tabulate(compute: Callable[[Tensor], Expectation], K: Tensor, rtol: float) -> Expectation:
    """compute(K); beyond 4096 distinct variances by a Chebyshev interpolant in log K of a checked size."""
    values, inverse = distinct(K)
    if values.numel() <= _MANY:
        return compute(K)
    table = None
    low, high = float(values[0]), float(values[-1])
    if low > 1e-12 * high and math.isfinite(high):
        table = _interpolant(compute, values, math.log(low), math.log(high), rtol)
    out = table if table is not None else compute(values)
    return Expectation(out.value[inverse].reshape(K.shape), out.error[inverse].reshape(K.shape))


def _interpolant(
    compute: Callable[[Tensor], Expectation], K: Tensor, low: float, high: float, rtol: float
) -> Expectation | None:
    for size in _SIZES:
        nodes = compute(chebyshev_points(size, low, high, K.device).exp())
        cheb = chebyshev_transform(size, K.device) @ nodes.value
        miss = float(cheb[-max(3, size // 8) :].abs().sum())
        floor = nodes.error.max() + rtol * torch.maximum(nodes.value.abs().min(), 1e-4 * nodes.value.abs().max())
        if miss <= float(floor):
            value = torch.cat([cheb @ chebyshev_matrix(k, size, low, high) for k in K.log().split(_MANY)])
            return Expectation(value, torch.full_like(value, miss + float(nodes.error.max())))
    return None


def slope_of_closed_form(g: Callable[[Tensor], Any], K: Tensor) -> Tensor:
    """Derivative in K of an elementwise closed form, by autodiff; K = 0 stands for its limit."""
    return torch.func.jvp(g, (K.clamp_min(1e-30),), (torch.ones_like(K),))[1]


def stein_mean(f: Pointwise, K: Tensor, kinks: Sequence[float], rtol: float) -> Expectation:
    """<f'> = <z f>/K, which counts the jumps of f."""

    def compute(K: Tensor) -> Expectation:
        k = K.clamp_min(1e-60)
        out = expectation(lambda z: z * f(z), k, kinks=kinks, rtol=rtol)
        return Expectation(out.value / k, out.error / k)

    return _tabulate(compute, K, rtol)


def smooth_value_curvature(f: Pointwise, df: Pointwise, K: Tensor, rtol: float) -> Expectation | None:
    """<f f''> of a smooth function, accurate relative to <|f f''|>; None where df cannot be differentiated."""
    try:
        autodiff(df, torch.zeros(1, dtype=K.dtype, device=K.device))
    except (RuntimeError, NotImplementedError):
        return None
    return one(lambda z: f(z) * autodiff(df, z), K, (), rtol)


def second_moment_slope(
    f: Pointwise, df: Pointwise, K: Tensor, kinks: Sequence[float], jumps: Sequence[float], rtol: float
) -> Expectation:
    """g'(K) for variances in float64; see ``_slope``."""
    return _tabulate(lambda k: _slope(f, df, k, kinks, jumps, rtol), K, rtol)


def second_moment_curvature(
    f: Pointwise, df: Pointwise, K: Tensor, kinks: Sequence[float], jumps: Sequence[float], rtol: float
) -> Expectation:
    """g''(K) for variances in float64; see ``_curvature``."""
    return _tabulate(lambda k: _curvature(f, df, k, kinks, jumps, rtol), K, rtol)


def _slope(
    f: Pointwise, df: Pointwise, K: Tensor, kinks: Sequence[float], jumps: Sequence[float], rtol: float
) -> Expectation:
    """<z f f'>/K, or <f^2 (z^2 - K)>/(2 K^2) where f jumps; for K < 1e-10 and f smooth, its limit."""
    k = K.clamp_min(1e-60)
    if jumps:
        return _by_variance(lambda z, v: f(z) ** 2 * (z * z - v), k, kinks, rtol, lambda v: 2 * v * v)
    zero = torch.zeros(1, dtype=K.dtype, device=K.device)
    smooth = _smooth_below(kinks, _SMALL_SLOPE)
    at_zero = (f(zero) * df(zero)) if smooth else zero
    out = expectation(lambda z: z * (f(z) * df(z) - at_zero), k, kinks=kinks, rtol=rtol)
    value, error = out.value / k, out.error / k
    tiny = K < _SMALL_SLOPE
    if smooth and bool(tiny.any()):
        try:
            limit = autodiff(lambda z: f(z) * df(z), zero)
        except (RuntimeError, NotImplementedError):
            return Expectation(value, error)
        value, error = torch.where(tiny, limit, value), torch.where(tiny, _SMALL_SLOPE * limit.abs(), error)
    return Expectation(value, error)


def _curvature(
    f: Pointwise, df: Pointwise, K: Tensor, kinks: Sequence[float], jumps: Sequence[float], rtol: float
) -> Expectation:
    """<f f' (z^3 - 3 K z)>/(2 K^3); a smooth f below K = 1e-3 uses <(f f')'''>/2 with nested autodiff."""
    k = K.clamp_min(1e-20)
    if jumps:
        return _by_variance(
            lambda z, v: f(z) ** 2 * (z**4 - 6 * v * z**2 + 3 * v * v), k, kinks, rtol, lambda v: 4 * v**4
        )
    out = _by_variance(lambda z, v: f(z) * df(z) * (z**3 - 3 * v * z), k, kinks, rtol, lambda v: 2 * v**3)
    tiny = K < _SMALL_CURVATURE
    if bool(tiny.any()) and _smooth_below(kinks, _SMALL_CURVATURE):
        try:
            third = _nest(lambda z: f(z) * df(z), 3)
            near = expectation(lambda z: third(z) / 2, torch.where(tiny, K, 0.0), rtol=rtol)
        except (RuntimeError, NotImplementedError):
            return out
        return Expectation(torch.where(tiny, near.value, out.value), torch.where(tiny, near.error, out.error))
    return out


def _by_variance(
    f: Callable[[Tensor, Tensor], Tensor],
    K: Tensor,
    kinks: Sequence[float],
    rtol: float,
    norm: Callable[[Tensor], Tensor],
) -> Expectation:
    """Expectation of f(z, K)/norm(K)."""
    out, scale = weighted_expectation(f, K, kinks=kinks, rtol=rtol), norm(K)
    return Expectation(out.value / scale, out.error / scale)


def _smooth_below(kinks: Sequence[float], K: float) -> bool:
    return all(abs(k) > 13 * math.sqrt(K) for k in kinks)


def _nest(f: Pointwise, times: int) -> Pointwise:
    for _ in range(times):
        f = (lambda g: lambda z: torch.func.jvp(g, (z,), (torch.ones_like(z),))[1])(f)
    return f


def flat_fraction(df: Pointwise, K: Tensor | float, tol: Any) -> Tensor:
    """Gaussian measure of {|df| < tol max |df|}, crossings found on 4001 points and refined linearly.

    Args:
        df: slope.
        K: variances.
        tol: fraction of the largest slope.
    Returns:
        Probabilities, shape of K.
    Raises:
        ValueError: tol is no fraction.
    """
    (given,) = common_dtype(K)
    if not isinstance(tol, float | int) or not 0 <= tol <= 1:
        raise ValueError(f"got tol={tol!r}: give a fraction of the largest slope, from 0 to 1.")
    values, inverse = distinct(given.detach().to(torch.float64))
    # An even number of points keeps z = 0, the commonest kink, off the grid.
    x = torch.linspace(-8.0, 8.0, 4002, dtype=torch.float64, device=values.device)
    out = torch.empty_like(values)
    for i in range(0, values.numel(), 256):
        sd = values[i : i + 256].sqrt().clamp_min(1e-30)
        slope = df(sd[:, None] * x).abs()
        top = slope[:, x.abs() <= 5].amax(dim=1, keepdim=True)
        excess = slope - tol * top
        flat = (excess < 0) | (top == 0)
        left, right = excess[:, :-1], excess[:, 1:]
        part = torch.where(left == right, 0.5, left / torch.where(left == right, 1.0, left - right)).clamp(0, 1)
        steep = (right - left).abs() > 0.5 * top
        cross = x[:-1] + torch.where(steep, 0.5, part) * (x[1:] - x[:-1])
        cdf, at = upper_tail(-x), upper_tail(-cross)
        mass = torch.where(flat[:, :-1], at - cdf[:-1], 0.0) + torch.where(flat[:, 1:], cdf[1:] - at, 0.0)
        out[i : i + 256] = mass.sum(dim=1).clamp(0.0, 1.0)
    return out[inverse].reshape(given.shape).to(given.dtype)
