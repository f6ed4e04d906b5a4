"""Derivatives of callables that autodiff cannot follow, by differences that do not reach across a kink."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from leadline.activations.moments import autodiff

__all__ = ["autodiff_agrees", "central_differences", "opaque"]

Pointwise = Callable[[Tensor], Tensor]

# Of the six-point central difference, exact for polynomials of degree 6.
_WEIGHTS = (3 / 4, -3 / 20, 1 / 60)
_SMALLEST = 1e-9
_ROOM = 4.0


def central_differences(fn: Pointwise, kinks: Sequence[float] = (), precision: float = 1e-16) -> Pointwise:
    """Derivative of fn by six-point differences whose step shrinks towards the kinks.

    Args:
        fn: pointwise function of a tensor.
        kinks: points where fn or a derivative of it jumps.
        precision: relative rounding of fn; the step is its seventh root.
    Returns:
        Pointwise function, good to about precision^(6/7), and to fewer digits next to a kink.

    >>> slope = central_differences(torch.tanh)
    >>> abs(slope(torch.zeros(1, dtype=torch.float64)).item() - 1) < 1e-12
    True
    """
    step = precision ** (1 / 7)

    def slope(z: Tensor) -> Tensor:
        h = torch.full_like(z, step)
        for k in kinks:
            h = torch.minimum(h, (z - k).abs() / _ROOM)
        h = h.clamp_min(_SMALLEST)
        total = torch.zeros_like(z)
        for n, w in enumerate(_WEIGHTS, start=1):
            total = total + w * (fn(z + n * h) - fn(z - n * h))
        return total / h

    return slope


def autodiff_agrees(fn: Pointwise, precision: float = 1e-16) -> bool:
    """Whether autodiff can follow fn and finds its slope; not so where parts are cut off from the graph.

    Args:
        fn: pointwise function of a tensor.
        precision: relative rounding of fn.
    Returns:
        False if autodiff raises, or differs from differences at more than a tenth of the points between -6
        and 6.
    """
    z = torch.linspace(-6.0, 6.0, 241, dtype=torch.float64) + 0.00123
    try:
        claimed = autodiff(fn, z).detach().to(torch.float64)
    except (RuntimeError, NotImplementedError):
        return False
    with torch.no_grad():
        found = central_differences(fn, (), precision)(z)
    close = (claimed - found).abs() <= max(1e-6, 30 * precision ** (6 / 7)) * found.abs().max().clamp_min(1e-300)
    return bool((close | ~torch.isfinite(found)).double().mean() >= 0.9)


def opaque(fn: Pointwise) -> Pointwise:
    """The same function, which refuses autodiff instead of passing it a wrong or missing slope.

    Args:
        fn: pointwise function of a tensor.
    Returns:
        fn with a check in front.
    """

    def guarded(z: Tensor) -> Tensor:
        if z.requires_grad or forward_ad.unpack_dual(z).tangent is not None:
            raise NotImplementedError("autodiff cannot follow this activation; its derivative is taken by differences")
        return fn(z)

    return guarded
