"""Covariances of products sigma_a sigma_b between pairs of inputs: what a layer adds to the four-point vertex."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.gaussian import correlation, expectation2, hermite_coefficients

__all__ = ["input_pairs", "product_covariance"]

_REPEATS = 8
_ORDER = 240
_RTOL = 1e-11


def input_pairs(inputs: int, device: torch.device | None = None) -> Tensor:
    """The pairs (a, b), a <= b, of inputs, shape (2, P) with P = m(m + 1)/2.

    Args:
        inputs: m.
        device: of the result.

    Returns:
        Index tensor; the order is (0,0), (0,1), …, (0,m-1), (1,1), ….
    """
    return torch.triu_indices(inputs, inputs, device=device)


def product_covariance(
    activation: Activation, K: Tensor, gram: Tensor, *, samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    r"""Covariance of :math:`\sigma_a\sigma_b` and :math:`\sigma_c\sigma_d` at z ~ N(0, K), for all pairs of pairs.

    .. math:: \langle\sigma_a\sigma_b\sigma_c\sigma_d\rangle - \langle\sigma_a\sigma_b\rangle
        \langle\sigma_c\sigma_d\rangle

    One or two distinct inputs by quadrature; three or four by quasi-Monte Carlo (scrambled Sobol points along the
    eigenvectors of K), with the standard error of eight scramblings.

    Args:
        activation: sigma.
        K: covariance, shape (m, m), units of z squared; it may be singular.
        gram: <sigma_a sigma_b>, shape (m, m).
        samples: quasi-Monte Carlo points.
        seed: of the scramblings.

    Returns:
        Covariance and its standard error, shape (P, P), float64, in the order of :func:`input_pairs`.
    """
    m = K.shape[0]
    a, b = input_pairs(m, K.device)
    count = a.numel()
    products = gram[a, b]
    if m > 2:
        value, error = _sampled(activation, K, gram, samples, seed)
    else:
        value = torch.zeros(count, count, dtype=torch.float64, device=K.device)
        error = torch.zeros_like(value)
    few, powers = _few_inputs(m)
    means = _two_input_means(activation, K, powers)
    for (p, q), key in few.items():
        value[p, q] = value[q, p] = means[key] - products[p] * products[q]
        error[p, q] = error[q, p] = 0.0
    return value, error


def _sampled(activation: Activation, K: Tensor, gram: Tensor, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """All entries from the same points; the exact means are taken off first, which removes most of the noise."""
    m = K.shape[0]
    a, b = input_pairs(m, K.device)
    eigenvalues, vectors = torch.linalg.eigh(K.to(torch.float64))
    alive = eigenvalues > 1e-14 * eigenvalues.max()
    root = (vectors[:, alive] * eigenvalues[alive].sqrt()).flip(1)  # the largest along the best Sobol axes
    each = max(2, samples // _REPEATS)
    found = []
    for repeat in range(_REPEATS):
        engine = torch.quasirandom.SobolEngine(root.shape[1], scramble=True, seed=seed * _REPEATS + repeat)
        u = engine.draw(each, dtype=torch.float64).to(K.device).clamp(1e-15, 1 - 1e-15)
        s = activation.fn(torch.special.ndtri(u) @ root.T).to(torch.float64)
        d = s[:, a] * s[:, b] - gram[a, b]
        found.append(d.T @ d / each)
    stack = torch.stack(found)
    return stack.mean(0), stack.std(0) / _REPEATS**0.5


def _few_inputs(m: int) -> tuple[dict[tuple[int, int], tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Entries (pair, pair) with at most two distinct inputs, as (first, second, power of the first)."""
    a, b = (v.tolist() for v in input_pairs(m))
    out: dict[tuple[int, int], tuple[int, int, int]] = {}
    for p in range(len(a)):
        for q in range(p, len(a)):
            quadruple = sorted((a[p], b[p], a[q], b[q]))
            distinct = sorted(set(quadruple))
            if len(distinct) <= 2:
                out[p, q] = (distinct[0], distinct[-1], quadruple.count(distinct[0]))
    return out, sorted(set(out.values()))


def _two_input_means(
    activation: Activation, K: Tensor, keys: list[tuple[int, int, int]]
) -> dict[tuple[int, int, int], Tensor]:
    """<sigma_a^i sigma_b^(4-i)> of each key (a, b, i)."""
    out: dict[tuple[int, int, int], Tensor] = {}
    for power in {i for _, _, i in keys}:
        rows = [key for key in keys if key[2] == power]
        first, second = ([key[j] for key in rows] for j in (0, 1))
        if power == 4:
            values = activation.fourth_moment(K[first, first])
        else:
            values = _mean_of_powers(activation, power, K[first, first], K[first, second], K[second, second])
        out.update(zip(rows, values, strict=True))
    return out


def _mean_of_powers(activation: Activation, power: int, a: Tensor, c: Tensor, b: Tensor) -> Tensor:
    """<sigma_a^i sigma_b^(4-i)>: closed for two slopes, else the Hermite series or, beyond it, nested quadrature."""
    if activation.slopes is not None:
        return _two_slopes(*activation.slopes, power, a, correlation(a, c, b), b)

    def first(z: Tensor) -> Tensor:
        return activation.fn(z).to(torch.float64) ** power

    def second(z: Tensor) -> Tensor:
        return activation.fn(z).to(torch.float64) ** (4 - power)

    kinks = activation.kinks
    left = hermite_coefficients(first, a, _ORDER, kinks)
    right = hermite_coefficients(second, b, _ORDER, kinks)
    terms = left * right * correlation(a, c, b)[:, None] ** torch.arange(_ORDER + 1, device=a.device)
    scale = ((left**2).sum(1) * (right**2).sum(1)).sqrt()
    bad = (terms[:, -(_ORDER // 4) :].abs().sum(1) > _RTOL * scale).nonzero()[:, 0]
    value = terms.sum(1)
    if bad.numel():
        value[bad] = expectation2(first, second, a[bad], c[bad], b[bad], kinks_f=kinks, kinks_g=kinks).value
    return value


def _two_slopes(plus: float, minus: float, power: int, a: Tensor, rho: Tensor, b: Tensor) -> Tensor:
    """Closed forms from the powers of ReLU on both sides of 0; power is 1, 2 or 3."""
    other = 4 - power
    same = plus**4 + minus**4
    opposite = plus**power * (-minus) ** other + (-minus) ** power * plus**other
    size = a ** (power / 2) * b ** (other / 2)
    return size * (same * _relu_powers(power, rho) + opposite * _relu_powers(power, -rho))


def _relu_powers(power: int, rho: Tensor) -> Tensor:
    """<(u)_+^i (v)_+^(4-i)> of unit variances."""
    sine = ((1 - rho) * (1 + rho)).sqrt()
    rest = torch.pi - torch.atan2(sine, rho)
    if power == 2:
        return (3 * sine * rho + rest * (1 + 2 * rho**2)) / (2 * torch.pi)
    # (4/pi)[cos(3 (pi - t)/8 + sin(2t)/4 - sin(4t)/32) + sin^5/4] at the angle t
    double = 2 * sine * rho
    quadruple = 2 * double * (2 * rho**2 - 1)
    return 4 / torch.pi * (rho * (3 * rest / 8 + double / 4 - quadruple / 32) + sine**5 / 4)
