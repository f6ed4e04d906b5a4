r"""Derivatives of the kernel map K -> <sigma_a sigma_b> in the entries of K, for every pair of inputs at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.activations.mixed import hermite_weight
from leadline.activations.moments import autodiff
from leadline.gaussian import correlation, hermite_coefficients
from leadline.gaussian.adaptive import breakpoints, kronrod
from leadline.gaussian.two import conditional_mean

__all__ = ["PairDerivatives", "pair_derivatives"]

Pointwise = Callable[[Tensor], Tensor]

_ORDERS = (64, 256, 1024)
_RTOL = 1e-10
_KEYS = ((1, 1), (2, 0), (0, 2), (2, 2), (3, 1), (1, 3), (4, 0), (0, 4))
_SIXTH = ((5, 1), (4, 2), (3, 3), (2, 4), (1, 5))


@dataclass(frozen=True)
class PairDerivatives:
    r"""Mean products :math:`\langle\sigma^{(p)}(z_a)\,\sigma^{(q)}(z_b)\rangle` of derivatives for pairs a < b.

    Delta functions at kinks are counted. They are the derivatives of :math:`F = \langle\sigma_a\sigma_b\rangle`:

    .. math:: F_{ab} = [1,1],\ F_{aa} = \tfrac12[2,0],\ F_{ab,ab} = [2,2],\ F_{ab,aa} = \tfrac12[3,1],\
        F_{aa,aa} = \tfrac14[4,0],\ F_{aa,bb} = \tfrac14[2,2]

    Args:
        products: [p, q] for p + q = 2 and 4 (and 6, without [6, 0], where asked for), each of shape (P,).
    """

    products: dict[tuple[int, int], Tensor]

    def __getitem__(self, orders: tuple[int, int]) -> Tensor:
        return self.products[orders]


def pair_derivatives(
    activation: Activation, Kaa: Tensor, Kab: Tensor, Kbb: Tensor, *, sixth: bool = False
) -> PairDerivatives:
    r"""First and second derivatives of the mean product of sigma at pairs of Gaussian points.

    .. math:: \langle\sigma^{(p)}_a\sigma^{(q)}_b\rangle = \sum_k
        \frac{\sqrt{(k+p)!\,(k+q)!}}{k!}\,\frac{c_{k+p}(K_{aa})\,c_{k+q}(K_{bb})}{K_{aa}^{p/2}K_{bb}^{q/2}}\,\rho^k

    with the Hermite coefficients c of sigma alone, or a closed form for two slopes that meet at 0; pairs whose
    series has not converged (kinks, correlations near 1) go to a quadrature that takes the jumps of sigma' as point
    masses of sigma''.

    Args:
        activation: sigma, continuous.
        Kaa: variances of the first points, shape (P,), all positive.
        Kab: covariances.
        Kbb: variances of the second points.
        sixth: whether [p, q] with p + q = 6 are wanted too: the second derivatives of <sigma'_a sigma'_b>.

    Returns:
        The mean products, float64. A pair at correlation 1 or -1 has an infinite [2, 2] where sigma has a kink.

    Raises:
        ValueError: sigma jumps, or the entries are not those of a covariance.

    Source: Roberts, Yaida and Hanin (2022), chapter 4, for the derivatives; Mehler (1866) for the series.
    """
    if activation.jumps:
        raise ValueError(
            f"the kernel of {activation.name} has no derivatives: it jumps at "
            f"{', '.join(f'{j:g}' for j in activation.jumps)}; use a continuous activation"
        )
    rho = correlation(Kaa, Kab, Kbb)
    a, b = Kaa.detach().to(torch.float64), Kbb.detach().to(torch.float64)
    if activation.slopes is not None:
        return PairDerivatives(_two_slopes(*activation.slopes, a, rho, b))
    keys = _KEYS + _SIXTH if sixth else _KEYS
    out = {key: torch.full_like(rho, math.nan) for key in keys}
    todo = torch.ones_like(rho, dtype=torch.bool)
    for order in _ORDERS:
        if not bool(todo.any()):
            break
        sums, good = _series(activation, a[todo], rho[todo], b[todo], order, keys)
        rows = todo.nonzero()[:, 0]
        for key in keys:
            out[key][rows[good]] = sums[key][good]
        todo[rows[good]] = False
    for row in todo.nonzero()[:, 0].tolist():
        pair = float(a[row]), float(rho[row]), float(b[row])
        found = _direct(activation, *pair) | (_direct_sixth(activation, *pair) if sixth else {})
        for key, value in found.items():
            out[key][row] = value
    return PairDerivatives(out)


def _two_slopes(plus: float, minus: float, a: Tensor, rho: Tensor, b: Tensor) -> dict[tuple[int, int], Tensor]:
    """Closed forms: F = a_+ a_- c + (a_+ - a_-)^2 sqrt(Kaa Kbb) f(rho), with f'' = 1/(2 pi sin(angle))."""
    linear, kink = plus * minus, (plus - minus) ** 2
    s, sine = (a * b).sqrt(), ((1 - rho) * (1 + rho)).sqrt()
    slope = linear + kink * (math.pi - torch.atan2(sine, rho)) / (2 * math.pi)
    bend = kink / (2 * math.pi) / sine if kink else torch.zeros_like(rho)
    rest = kink * sine / (2 * math.pi)
    cube = bend / sine**2 if kink else bend
    out = {(1, 1): slope, (2, 2): bend / s, (3, 3): rho * cube / s**2}
    keys_a, keys_b = ((2, 0), (3, 1), (4, 0), (5, 1), (2, 4)), ((0, 2), (1, 3), (0, 4), (1, 5), (4, 2))
    for K, keys in ((a, keys_a), (b, keys_b)):
        values = (
            s * rest / K, -bend * rho / K, s * (rho**2 * bend - rest) / K**2,
            rho * cube * (1 + 2 * sine**2) / K**2, -K * cube / s**3,
        )  # fmt: skip
        out.update(zip(keys, values, strict=True))
    return out


def _series(
    activation: Activation, a: Tensor, rho: Tensor, b: Tensor, order: int, keys: Sequence[tuple[int, int]] = _KEYS
) -> tuple[dict[tuple[int, int], Tensor], Tensor]:
    """Sums of the series to an order, and where they have converged."""
    variances, inverse = torch.unique(torch.stack([a, b]), return_inverse=True)
    c = hermite_coefficients(activation.fn, variances, order, activation.kinks)
    left, right = c[inverse[0]], c[inverse[1]]
    scale = ((left**2).sum(1) * (right**2).sum(1)).sqrt()
    reach = max(max(key) for key in keys)
    k = torch.arange(order + 1 - reach, dtype=torch.float64, device=a.device)
    powers = rho[:, None].abs() ** k * torch.where(rho[:, None] < 0, (-1.0) ** k, torch.ones_like(k))
    log_factorial = torch.lgamma(torch.arange(order + 2, dtype=torch.float64, device=a.device) + 1)
    sums, good = {}, torch.ones_like(rho, dtype=torch.bool)
    n = k.numel()
    for p, q in keys:
        factor = ((log_factorial[p : p + n] + log_factorial[q : q + n]) / 2 - log_factorial[:n]).exp()
        terms = factor * left[:, p : p + n] * right[:, q : q + n] * powers
        # what is left out is no larger than the last quarter of a series that falls at all
        good &= terms[:, -(n // 4) :].abs().sum(1) <= _RTOL * scale
        sums[p, q] = terms.sum(1) / (a ** (p / 2) * b ** (q / 2))
    return sums, good


def _direct(activation: Activation, a: float, rho: float, b: float) -> dict[tuple[int, int], Tensor]:
    """One pair by quadrature, well conditioned at any correlation."""
    # from products of {s'', z s'', z^2 s''} with {s, s', s''}, by <z_a X> = Kaa <d_a X> + Kab <d_b X>
    c = rho * math.sqrt(a * b)
    one, two = (_bent_products(activation, x, rho, y, (2, 0))[:, 0] for x, y in ((a, b), (b, a)))
    out = {(2, 2): (one[0, 2] + two[0, 2]) / 2, (2, 0): one[0, 0], (0, 2): two[0, 0]}
    out[1, 1] = activation.dual_derivative(a, c, b, rtol=1e-12)
    for m, K, keys in ((one, a, ((3, 1), (4, 0))), (two, b, ((1, 3), (0, 4)))):
        third = (m[1, 1] - c * out[2, 2]) / K
        slope = (m[2, 0] - c * m[1, 1]) / K - m[0, 0]  # <z s''' s>
        out[keys[0]], out[keys[1]] = third, (slope - c * third) / K
    return out


def _direct_sixth(activation: Activation, a: float, rho: float, b: float) -> dict[tuple[int, int], Tensor]:
    """One pair's products of sixth order: what s'' leaves of the derivatives goes on to the Gaussian."""
    c = torch.tensor(rho * math.sqrt(a * b), dtype=torch.float64)
    one, two = (_bent_products(activation, x, rho, y, (3, 3)) for x, y in ((a, b), (b, a)))
    out = {}
    for m, p, q in ((one, 5, 1), (one, 4, 2), (one, 3, 3), (two, 5, 1), (two, 4, 2)):
        left, right = (a, b) if m is one else (b, a)
        onto = min(q, 2)
        weight = hermite_weight(p - 2, q - onto, c * 0 + left, c, c * 0 + right)
        value = torch.stack([w * m[i, j, onto] for (i, j), w in weight.items()]).sum()
        out[(p, q) if m is one else (q, p)] = value
    return out


def _bent_products(activation: Activation, a: float, rho: float, b: float, most: tuple[int, int]) -> Tensor:
    """<z_a^i z_b^j s''(z_a) s^(q)(z_b)> up to powers (i, j) and q = 2, with the point masses of s'' at both points."""
    f, df = activation.fn, activation.derivative
    kinks, jumps = _slope_jumps(activation)

    def second(z: Tensor) -> Tensor:
        return autodiff(df, z)

    sd = math.sqrt(a)
    slope, tau = rho * math.sqrt(b / a), math.sqrt(max(b * (1 - rho) * (1 + rho), 0.0))
    z, weight = _outer_nodes(sd, slope, tau, kinks)
    density = torch.exp(-0.5 * (kinks / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
    z, weight = torch.cat([z, kinks]), torch.cat([second(z) * weight, jumps * density])
    cuts = [0.75 * 2.0**j for j in range(40) if 0.75 * 2.0**j < 9 * tau]
    cut = torch.cat([torch.tensor([*cuts, *(-v for v in cuts)], dtype=torch.float64), kinks])
    mean, spread = slope * z, torch.full_like(z, tau)
    masses = torch.exp(-0.5 * ((kinks - mean[:, None]) / max(tau, 1e-300)) ** 2) / (
        max(tau, 1e-300) * math.sqrt(2 * math.pi)
    )

    def inner(g: Pointwise, j: int) -> Tensor:
        return conditional_mean(lambda y: y**j * g(y), mean, spread, cut)[0]

    powers = torch.stack([z**i for i in range(most[0] + 1)]) * weight
    out = []
    for j in range(most[1] + 1):
        parts = [inner(g, j) for g in (f, df, second)]
        parts[2] = parts[2] + (masses * jumps * kinks**j).sum(1)
        out.append(powers @ torch.stack(parts, dim=1))
    return torch.stack(out, dim=1)


def _outer_nodes(sd: float, slope: float, tau: float, kinks: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes in z_a with their Gaussian weights, dense where the other point is within reach of a kink."""
    steps = torch.tensor([0.25 * 2.0**j for j in range(6)], dtype=torch.float64)
    around = torch.cat([-steps, steps]) * tau
    images = ((kinks[:, None] + around) / slope).reshape(1, -1) if slope else torch.zeros(1, 0, dtype=torch.float64)
    ends = breakpoints(torch.tensor([sd], dtype=torch.float64), kinks, images)[0].unique()
    x, w, _ = kronrod()
    half = ((ends[1:] - ends[:-1]) / 2)[:, None]
    z = ((ends[1:] + ends[:-1]) / 2)[:, None] + half * x
    weight = half * w * torch.exp(-0.5 * (z / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
    return z.reshape(-1), weight.reshape(-1)


def _slope_jumps(activation: Activation) -> tuple[Tensor, Tensor]:
    """Kinks and the jump of sigma' at each."""
    kinks = torch.tensor(activation.kinks, dtype=torch.float64)
    step = 1e-12 * kinks.abs().clamp_min(1e-6)
    with torch.no_grad():
        jumps = activation.derivative(kinks + step) - activation.derivative(kinks - step)
    return kinks, torch.where(jumps.abs() > 1e-9, jumps, 0.0).to(torch.float64)
