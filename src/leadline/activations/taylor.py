"""Derivatives at z = 0 from either side: what an activation does to vanishing signals."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from leadline.activations.moments import autodiff
from leadline.gaussian.arguments import checked

__all__ = ["one_sided_derivatives"]

Pointwise = Callable[[Tensor], Tensor]

# Far below any scale of an activation, far above the smallest number: 0 as seen from one side.
_NEAR = 1e-30
_STEPS = (0.01, 0.02)
_REACHES = (0.0625, 0.125, 0.25, 0.5, 1.0)
_DEGREES = (10, 14)


@checked()
def one_sided_derivatives(fn: Pointwise, order: int, precision: float = 1e-16) -> tuple[Tensor, Tensor]:
    r"""Derivatives :math:`\sigma^{(p)}(0^\pm)` for p = 0..order.

    Nested autodiff at 0 from each side, believed where the Taylor polynomial that it gives meets the function
    near 0; elsewhere (no higher derivatives registered, parts cut off from the graph) the derivatives of an
    interpolating polynomial, good to about six digits at p = 4.

    Args:
        fn: pointwise function of a tensor, smooth on each side of 0.
        order: highest derivative.
        precision: relative rounding of fn.
    Returns:
        (from the right, from the left), float64 tensors of shape (order + 1,).
    Raises:
        ValueError: order is negative.

    >>> right, left = one_sided_derivatives(torch.nn.functional.elu, 2)
    >>> right.tolist(), left.tolist()
    ([0.0, 1.0, 0.0], [0.0, 1.0, 1.0])
    """
    if order < 0:
        raise ValueError(f"order must be 0 or more, got {order}; pass the highest derivative that is wanted")
    right, left = (_from_side(fn, side, order, precision) for side in (1.0, -1.0))
    return right, left


def _from_side(fn: Pointwise, side: float, order: int, precision: float) -> Tensor:
    nested = _nested(fn, side, order)
    if nested is not None and _meets(fn, nested, side, precision):
        return nested
    return _interpolated(fn, side, order)


def _nested(fn: Pointwise, side: float, order: int) -> Tensor | None:
    """Derivatives by nested autodiff; None where one of them is not implemented or not finite."""
    z = torch.tensor([side * _NEAR], dtype=torch.float64)
    values: list[Tensor] = []
    g = fn
    try:
        for _ in range(order + 1):
            values.append(g(z).detach().to(torch.float64))
            g = (lambda f: lambda x: autodiff(f, x))(g)
    except (RuntimeError, NotImplementedError):
        return None
    out = torch.cat(values)
    out = torch.where(out.abs() < 1e3 * _NEAR, 0.0, out)
    return out if bool(torch.isfinite(out).all()) else None


def _meets(fn: Pointwise, derivatives: Tensor, side: float, precision: float) -> bool:
    """Whether the function leaves its Taylor polynomial like the next power of z, down to rounding."""
    x = torch.tensor([side * h for h in _STEPS], dtype=torch.float64)
    with torch.no_grad():
        values = fn(x).to(torch.float64)
    order = derivatives.numel() - 1
    powers = torch.stack([x**p / math.factorial(p) for p in range(order + 1)])
    near, far = (values - derivatives @ powers).abs().tolist()
    floor = 100 * max(precision, 1e-16) * max(float(values.abs().max()), 1e-2)
    return near <= floor + 1.5 * far * 0.5 ** (order + 1)


def _interpolated(fn: Pointwise, side: float, order: int) -> Tensor:
    """Derivatives of Chebyshev interpolants on [0, reach], each from the reach where two degrees agree best."""
    best = torch.full((order + 1,), math.nan, dtype=torch.float64)
    miss = torch.full((order + 1,), math.inf, dtype=torch.float64)
    for reach in _REACHES:
        low, high = (_polynomial(fn, side * reach, order, degree) for degree in _DEGREES)
        gap = (high - low).abs()
        better = gap < miss
        best, miss = torch.where(better, high, best), torch.where(better, gap, miss)
    return best


def _polynomial(fn: Pointwise, reach: float, order: int, degree: int) -> Tensor:
    """Derivatives at 0 of the interpolant on the segment from 0 to reach."""

    def scaled(t):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            return fn(torch.as_tensor((t + 1) * reach / 2, dtype=torch.float64)).to(torch.float64).numpy()

    c = chebyshev.chebinterpolate(scaled, degree)
    return torch.tensor(
        [float(chebyshev.chebval(-1.0, chebyshev.chebder(c, p))) * (2 / reach) ** p for p in range(order + 1)],
        dtype=torch.float64,
    )
