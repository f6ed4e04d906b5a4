"""The law of |phi(X)| that turns symmetric Weibull weights into a Gaussian product, and its quantiles."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, expit, gammaln, ndtri

from leadline.gaussian.arguments import checked

__all__ = ["amplitude_cdf", "amplitude_moment", "amplitude_quantile", "amplitude_survival"]

Array = NDArray[np.float64]

# below, the series converges like 0.94^k; above, the integrand of the survival function is smooth for every theta
_SWITCH = 0.97 * math.sqrt(2)
_TERMS = 600
_STEP = 0.25
_ITERATIONS = 60
_NUDGE = 1e-6
_STEP_V = 0.03125


@checked(negative=("theta",))
def amplitude_moment(theta: float, s: float) -> float:
    r"""Moments of Y = |phi(X)|.

    .. math:: \mathrm E\,Y^s = \frac{2^{s/2}\,\Gamma(\frac{s+1}2)}{\sqrt\pi\,\Gamma(1 + s/\theta)}

    Args:
        theta: shape of the weights' law, 2 or more.
        s: order, greater than -1.
    Returns:
        The moment.
    Source: the ratio of the moments of |N(0, 1)| and of the weights; setting of Wolinski & Arbel (2022).
    """
    return math.exp(0.5 * s * math.log(2) + gammaln(0.5 * (s + 1)) - gammaln(1 + s / theta)) / math.sqrt(math.pi)


@checked(negative=("theta",))
def amplitude_cdf(theta: float, y: Array) -> Array:
    r"""Distribution function of Y for y up to 1.37, by its power series (the residues of its moments).

    .. math:: F(y) = \sum_k \frac{(-1)^k\,2^{1/2-k}\,y^{2k+1}}{k!\,(2k+1)\sqrt\pi\;\Gamma(1 - (2k+1)/\theta)}

    Args:
        theta: shape of the weights' law, 2 or more.
        y: points between 0 and 1.37.
    Returns:
        Shape of y.
    """
    k = np.arange(_TERMS)
    x = (2 * k + 1) / theta
    # 1/Gamma(1 - x) = Gamma(x) sin(pi x)/pi
    log_size = (0.5 - k) * math.log(2) - gammaln(k + 1.0) + gammaln(x) - np.log((2 * k + 1) * math.pi**1.5)
    sign = (-1.0) ** k * np.sin(np.pi * x)
    y = np.asarray(y, dtype=np.float64)[..., None]
    with np.errstate(divide="ignore"):
        return (sign * np.exp(log_size + (2 * k + 1) * np.log(y))).sum(-1)


@checked(negative=("theta",))
def amplitude_survival(theta: float, y: Array) -> Array:
    r"""P(Y > y), for theta > 2, from a representation by three independent variables.

    .. math:: Y = \sqrt2\,|\cos\alpha|\,b(V)\,E^{1/\kappa},\quad \kappa = \frac{2\theta}{\theta-2},\quad
        b(V)^2 = \frac{\sin\pi V}{\sin(\nu\pi V)^\nu\,\sin((1-\nu)\pi V)^{1-\nu}},\quad \nu = \frac2\theta

    with alpha uniform, V uniform on (0, 1) and E exponential. The angle is integrated by hand, E by the trapezoidal
    rule in ln E, V by the double exponential rule; relative accuracy also in the tail.

    Args:
        theta: shape of the weights' law, greater than 2.
        y: points, shape (p,).
    Returns:
        Shape of y.
    Source: Kanter (1975) for the one-sided stable law behind b(V) and E.
    """
    nu, kappa = 2 / theta, 2 * theta / (theta - 2)
    t = np.arange(-3.25, 3.25 + _STEP_V / 2, _STEP_V)
    V, rest = expit(np.pi * np.sinh(t)), expit(-np.pi * np.sinh(t))
    w = np.pi * np.cosh(t) * V * rest * _STEP_V
    # sin(pi V) = sin(pi (1 - V)), which keeps its digits at both ends
    log_sin = np.log(np.sin(np.pi * np.minimum(V, rest)))
    log_sin_nu = np.log(np.where(nu * V < 0.5, np.sin(np.pi * nu * V), np.sin(np.pi * (1 - nu + nu * rest))))
    log_b2 = log_sin - nu * log_sin_nu - (1 - nu) * np.log(np.sin((1 - nu) * np.pi * V))
    xi = np.arange(-37.0, 4.2, _STEP)
    weight = np.exp(xi - np.exp(xi)) * _STEP
    out = np.empty(len(y))
    for i, point in enumerate(np.asarray(y)):
        # E beyond e0 reaches y at all: E = e0 + s
        log_e0 = kappa * (math.log(point / math.sqrt(2)) - 0.5 * log_b2)
        ratio = np.exp(np.minimum(xi - log_e0[:, None], 700.0))
        # 1 - (1 + s/e0)^(-1/kappa), kept accurate for small s: arccos(1 - d) = 2 arcsin(sqrt(d/2))
        d = -np.expm1(-np.log1p(ratio) / kappa)
        inner = (weight * (4 / np.pi) * np.arcsin(np.sqrt(d / 2))).sum(-1)
        out[i] = (w * np.exp(-np.exp(np.minimum(log_e0, 700.0))) * inner).sum()
    return out


@checked(negative=("theta",))
def amplitude_quantile(theta: float, x: Array) -> Array:
    r"""Quantile y with P(Y > y) = P(|X| > x), X standard normal: phi(x) for x > 0.

    Args:
        theta: shape of the weights' law, greater than 2.
        x: positive points, shape (p,).
    Returns:
        Shape of x.
    """
    slope = math.gamma(1 - 1 / theta)
    top = slope * float(np.max(x))

    def normal(y: Array) -> Array:
        """Where the normal tail is that of y."""
        result = np.empty_like(y)
        low = y <= _SWITCH
        if low.any():
            result[low] = ndtri(0.5 * (1 + amplitude_cdf(theta, y[low])))
        if (~low).any():
            result[~low] = -ndtri(np.maximum(0.5 * amplitude_survival(theta, y[~low]), 1e-300))
        return result

    # phi bends down from its slope at 0, so that y <= slope x
    low, high = np.zeros_like(x), np.minimum(slope * x, top)
    table_y = np.linspace(0, 1, 81)[1:] ** 1.5 * _largest(theta, float(np.max(x)), top)
    y = np.clip(np.interp(x, np.concatenate([[0.0], normal(table_y)]), np.concatenate([[0.0], table_y])), 1e-12, high)
    active = np.arange(len(x))
    for _ in range(_ITERATIONS):
        y_now, x_now = y[active], x[active]
        got = normal(y_now)
        low[active] = np.where(got < x_now, y_now, low[active])
        high[active] = np.where(got < x_now, high[active], y_now)
        slope_here = (normal(y_now * (1 + _NUDGE)) - got) / (_NUDGE * y_now)
        new = y_now + (x_now - got) / np.maximum(slope_here, 1e-12)
        inside = (new > low[active]) & (new < high[active])
        y[active] = np.where(inside, new, 0.5 * (low[active] + high[active]))
        active = active[np.abs(y[active] - y_now) > 1e-12 * y_now]
        if active.size == 0:
            break
    return y


def _largest(theta: float, x: float, top: float) -> float:
    """Close above phi(x), by halving from the bound slope x."""
    y, goal = top, erfc(x / math.sqrt(2))
    while y > 1.2 * _SWITCH and amplitude_survival(theta, np.array([y / 1.1]))[0] < goal:
        y /= 1.1
    return y
