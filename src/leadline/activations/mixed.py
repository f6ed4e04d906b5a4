"""Mean products of higher derivatives of an activation at two points, kinks included."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from leadline.activations import moments
from leadline.activations.base import Activation
from leadline.gaussian import Expectation, correlation, mean_cross_product

__all__ = ["hermite_weight", "mixed_moment"]

Pointwise = Callable[[Tensor], Tensor]

_RTOL = 1e-12
_MOST = 4


@torch.no_grad()
def mixed_moment(
    act: Activation, orders: tuple[int, int], Kaa: Tensor | float, Kab: Tensor | float, Kbb: Tensor | float
) -> Expectation:
    r"""<sigma^(i)(z_a) sigma^(j)(z_b)>, the delta functions of kinks included.

    Smooth activations are differentiated. Where sigma' jumps, derivatives beyond the first are moved on to the
    Gaussian: :math:`\langle\sigma''_a\sigma_b\rangle = (\langle z_a\sigma'_a\sigma_b\rangle -
    K_{ab}\langle\sigma'_a\sigma'_b\rangle)/K_{aa}`, and the others as moments with Hermite polynomials of
    :math:`K^{-1}z`, whose error grows towards equal points, where some of them are infinite.

    Args:
        act: a continuous activation.
        orders: (i, j), together at most 4.
        Kaa: variances of the first points, broadcast, units of z squared.
        Kab: covariances.
        Kbb: variances of the second points.
    Returns:
        Expectation of the broadcast shape, dtype and device of the inputs.
    Raises:
        ValueError: the orders are negative or too high, the activation jumps, or the entries are not those of
            a covariance.
    Source: Price (1958); Stein's identity.

    >>> from leadline.activations import activation
    >>> out = mixed_moment(activation("relu"), (2, 2), 1.0, 0.0, 1.0)
    >>> round(out.value.item() * 2 * torch.pi, 10)
    1.0
    """
    if len(orders) != 2 or not all(isinstance(n, int) for n in orders):
        raise ValueError(f"got orders={orders!r}: give two whole numbers.")
    i, j = orders
    if min(i, j) < 0 or i + j > _MOST:
        raise ValueError(f"orders must be two numbers >= 0 with a sum of at most {_MOST}, got {orders}")
    if i + j > 0:
        moments.refuse_jumps(act.name, act.jumps, "a mean product of derivatives")
    a, c, b = moments.common_dtype(Kaa, Kab, Kbb)
    a64, c64, b64 = torch.broadcast_tensors(*(t.to(torch.float64) for t in (a, c, b)))
    rho = correlation(*torch.broadcast_tensors(a, c, b))
    c64 = rho * (a64 * b64).sqrt()
    ladder = None if act.kinks else _derivatives(act, max(i, j))
    if ladder is not None or max(i, j) <= 1:
        f, g = (ladder[n] if ladder else (act.fn, act.derivative)[n] for n in (i, j))
        out = _product(act, f, g, a64, c64, b64)
    elif orders == (2, 0):
        out = _second(act, a64, c64, b64)
    elif orders == (0, 2):
        out = _second(act, b64, c64, a64)
    else:
        out = _weighted(act, i, j, a64, c64, b64)
    return out.to(c.dtype)


def _derivatives(act: Activation, order: int) -> list[Pointwise] | None:
    """The function and its derivatives up to an order, or None where autodiff does not reach that far."""
    out: list[Pointwise] = [act.fn, act.derivative]
    probe = torch.zeros(1, dtype=torch.float64)
    try:
        while len(out) <= order:
            out.append((lambda f: lambda z: moments.autodiff(f, z))(out[-1]))
        out[order](probe)
    except (RuntimeError, NotImplementedError):
        return None
    return out


def _product(act: Activation, f: Pointwise, g: Pointwise, a: Tensor, c: Tensor, b: Tensor) -> Expectation:
    rtol = max(_RTOL, act.rtol) if act.precision > 1e-10 else _RTOL
    return mean_cross_product(f, g, a, c, b, kinks_f=act.kinks, kinks_g=act.kinks, rtol=rtol)


def _second(act: Activation, a: Tensor, c: Tensor, b: Tensor) -> Expectation:
    """<sigma''_a sigma_b> by Stein's identity in z_a alone, which equal points do not disturb."""
    tilted = _product(act, lambda z: z * act.derivative(z), act.fn, a, c, b)
    slopes = _product(act, act.derivative, act.derivative, a, c, b)
    return Expectation((tilted.value - c * slopes.value) / a, (tilted.error + c.abs() * slopes.error) / a)


def _weighted(act: Activation, i: int, j: int, a: Tensor, c: Tensor, b: Tensor) -> Expectation:
    """One derivative at most on each factor, the rest as a Hermite polynomial of the precision times z."""
    first, second = min(i, 1), min(j, 1)
    f, g = ((act.fn, act.derivative)[n] for n in (first, second))
    weight = hermite_weight(i - first, j - second, a, c, b)
    value, error = torch.zeros_like(a), torch.zeros_like(a)
    for (k, m), w in weight.items():
        part = _product(act, _times(f, k), _times(g, m), a, c, b)
        value, error = value + w * part.value, error + w.abs() * part.error
    return Expectation(value, error.nan_to_num(torch.inf, posinf=torch.inf))


def _times(f: Pointwise, power: int) -> Pointwise:
    return f if power == 0 else lambda z: z**power * f(z)


def hermite_weight(p: int, q: int, a: Tensor, c: Tensor, b: Tensor) -> dict[tuple[int, int], Tensor]:
    r"""Polynomial that stands for p and q derivatives of one Gaussian's density, by powers of its variables.

    .. math:: \langle\partial_a^p\partial_b^q F\rangle = \sum_{km} w_{km}\langle z_a^k z_b^m F\rangle

    Args:
        p: derivatives in z_a.
        q: derivatives in z_b.
        a: variances of z_a, units of z squared.
        c: covariances, shape of a.
        b: variances of z_b, shape of a.
    Returns:
        Coefficients w by powers (k, m), each of the shape of a; infinite or nan where the two are parallel.
    """
    determinant = a * b - c * c
    precision = {(0, 0): b / determinant, (0, 1): -c / determinant, (1, 1): a / determinant}
    terms: dict[tuple[int, int], Tensor] = {(0, 0): torch.ones_like(a)}
    for axis in (0,) * p + (1,) * q:
        new: dict[tuple[int, int], Tensor] = {}
        for (k, m), w in terms.items():
            for up, entry in (((k + 1, m), (0, axis)), ((k, m + 1), (axis, 1))):
                new[up] = new.get(up, 0.0) + w * precision[entry]
            power, down = (k, (k - 1, m)) if axis == 0 else (m, (k, m - 1))
            if power:
                new[down] = new.get(down, 0.0) - power * w
        terms = new
    return terms
