"""Mean products <f(z_a) g(z_b)> of two different functions over whole tensors of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.arguments import checked
from leadline.gaussian.hermite import hermite_series, mehler_tail_bound
from leadline.gaussian.one import distinct
from leadline.gaussian.two import correlation, expectation2

__all__ = ["mean_cross_product"]

Pointwise = Callable[[Tensor], Tensor]

_ORDERS = (48, 240)
_ROUNDING = 4e-14
_ENTRIES = 1 << 22


@checked(negative=("rtol",), nan=("Kaa", "Kab", "Kbb"))
def mean_cross_product(
    f: Pointwise,
    g: Pointwise,
    Kaa: Tensor,
    Kab: Tensor,
    Kbb: Tensor,
    *,
    kinks_f: Sequence[float] = (),
    kinks_g: Sequence[float] = (),
    rtol: float = 1e-10,
) -> Expectation:
    r"""Mean product of f and g at two jointly Gaussian points: ``mean_product`` for two functions.

    .. math:: \langle f(z_a) g(z_b)\rangle = \sum_k c_k(K_{aa}) d_k(K_{bb}) \rho^k

    Pairs whose tail bound misses the tolerance go to nested quadrature.

    Args:
        f: pointwise function of a tensor, for the first points.
        g: the same for the second points.
        Kaa: variances of the first points, broadcast, units of z squared.
        Kab: covariances.
        Kbb: variances of the second points.
        kinks_f: points where f or a derivative of it jumps.
        kinks_g: the same for g.
        rtol: wanted error relative to :math:`\sqrt{\langle f^2\rangle\langle g^2\rangle}`.
    Returns:
        Expectation of the broadcast shape, dtype and device of the inputs.
    Raises:
        ValueError: the entries are not those of a covariance.
    Source: Mehler (1866).

    >>> import torch
    >>> one = torch.tensor(1.0, dtype=torch.float64)
    >>> out = mean_cross_product(torch.sin, lambda z: z, one, 0.5 * one, one)
    >>> bool((out.value - 0.5 * torch.exp(-one / 2)).abs() < 1e-13)
    True
    """
    dtype = torch.promote_types(torch.promote_types(Kaa.dtype, Kab.dtype), Kbb.dtype)
    a, c, b = torch.broadcast_tensors(Kaa, Kab, Kbb)
    shape = a.shape
    rho = correlation(a, c, b).reshape(-1)
    ka, kb = (t.detach().to(torch.float64).reshape(-1) for t in (a, b))
    (va, ia), (vb, ib) = distinct(ka), distinct(kb)
    value, bound = torch.zeros_like(rho), torch.full_like(rho, torch.inf)
    scale = torch.ones_like(rho)
    for order in _ORDERS:
        left, right = hermite_series(f, va, order, kinks_f), hermite_series(g, vb, order, kinks_g)
        tails = left.tail[:, -1], right.tail[:, -1]
        scale = (left.energy[ia] * right.energy[ib]).sqrt()
        for p in torch.arange(rho.numel(), device=rho.device).split(max(1, _ENTRIES // (order + 1))):
            powers = rho[p, None] ** torch.arange(order + 1, dtype=rho.dtype, device=rho.device)
            value[p] = (left.coefficients[ia[p]] * right.coefficients[ib[p]] * powers).sum(dim=1)
            bound[p] = mehler_tail_bound(tails[0][ia[p]], tails[1][ib[p]], rho[p], order)
        if not bool((bound > rtol * scale).any()):
            break
    error = bound + _ROUNDING * scale
    bad = (bound > rtol * scale).nonzero().reshape(-1)
    if bad.numel():
        a1, b1 = ka[bad], kb[bad]
        out = expectation2(
            f, g, a1, rho[bad] * (a1 * b1).sqrt(), b1, kinks_f=kinks_f, kinks_g=kinks_g, rtol=rtol
        )  # fmt: skip
        value[bad], error[bad] = out.value, out.error
    return Expectation(value.reshape(shape), error.reshape(shape)).to(dtype)
