"""Exact laws of bias-free networks of two slopes (ReLU, leaky ReLU, |z|, linear) at any width and depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from leadline.activations import activation
from leadline.gaussian.arguments import checked

__all__ = ["LogLaw", "kernel_moment", "log_law", "log_normal_limit"]


@checked()
def kernel_moment(obj: Any, widths: Sequence[int], order: int) -> float:
    r"""Moment of the random kernel of one input over its mean to the same power, exactly.

    .. math:: \frac{E\,G^p}{(E\,G)^p} = \prod_l E\Big[\Big(\frac1{n_l}\sum_{i=1}^{n_l}\frac{\sigma(u_i)^2}{A_2}
        \Big)^p\Big], \qquad u \sim N(0, 1)

    The output's own moments are E z^{2p} = (2p - 1)!! E G^p.

    Args:
        obj: anything that :func:`leadline.activations.activation` takes, of two slopes that meet at 0.
        widths: n_1, n_2, … of the hidden layers between the input and G.
        order: p.

    Returns:
        The ratio; for p = 2 it is prod (1 + nu/n_l) with nu = 3 A_4/A_2^2 - 1 (5 for ReLU, 2 for linear).

    Raises:
        ValueError: the activation is not of two slopes, a width is below 1, or the order is negative.

    Source: Hanin and Nica (2020) for ReLU.

    >>> kernel_moment("relu", [5, 10], 2)
    3.0
    """
    if order < 0:
        raise ValueError(f"got order={order}: give a moment of order 0 or more.")
    slopes = _slopes(obj)
    one = tuple(_single(*slopes, k) for k in range(order + 1))
    return math.prod(_mean_moment(one, n) for n in _checked(widths))


def _single(plus: float, minus: float, k: int) -> float:
    """E[(sigma(u)^2/A_2)^k]."""
    A_2 = (plus**2 + minus**2) / 2
    power = ((plus**2 / A_2) ** k + (minus**2 / A_2) ** k) / 2 if k else 1.0
    return math.prod(range(1, 2 * k, 2)) * power


@lru_cache(maxsize=256)
def _mean_moment(moments: tuple[float, ...], n: int) -> float:
    """Moment of highest order of the mean of n independent copies."""
    order = len(moments) - 1
    series = np.array([m / math.factorial(k) for k, m in enumerate(moments)])
    # the exponential generating function to the power n, by squaring
    out, base, power = np.eye(1, order + 1)[0], series, n
    while power:
        if power & 1:
            out = np.convolve(out, base)[: order + 1]
        base, power = np.convolve(base, base)[: order + 1], power >> 1
    return float(out[order]) * math.factorial(order) / float(n) ** order


@dataclass(frozen=True)
class LogLaw:
    """Mean and variance of ln(G/K) over networks whose signal is alive.

    Args:
        mean: of ln(G/K).
        variance: of ln(G/K).
        alive: probability that no layer has all its units on the side of a slope 0.
    """

    mean: float
    variance: float
    alive: float


@checked()
def log_law(obj: Any, widths: Sequence[int]) -> LogLaw:
    r"""Mean and variance of the logarithm of the random kernel, exactly, at any width.

    .. math:: \ln\frac GK = \sum_l \ln X_l, \qquad X_l = \frac1{n_l}\sum_{i=1}^{n_l}\frac{\sigma(u_i)^2}{A_2}

    from the Laplace transform of X, :math:`E e^{-tX} = \big[\tfrac12(1 + 2ta_+^2/nA_2)^{-1/2} +
    \tfrac12(1 + 2ta_-^2/nA_2)^{-1/2}\big]^n`, which is the law of an exponential variable over X. By the central limit
    theorem ln G is normal in the limit of many layers.

    Args:
        obj: anything that :func:`leadline.activations.activation` takes, of two slopes that meet at 0.
        widths: n_1, n_2, … of the hidden layers between the input and G.

    Returns:
        The law, given that the signal is alive.

    Raises:
        ValueError: the activation is not of two slopes, or a width is below 1.

    Source: Hanin and Nica (2020) for the log-normal limit.

    >>> law = log_law("relu", [50] * 20)
    >>> round(law.mean, 3), round(law.variance, 3)
    (-1.035, 2.163)
    """
    plus, minus = _slopes(obj)
    laws = [_log_layer(plus, minus, n) for n in _checked(widths)]
    return LogLaw(sum(m for m, _, _ in laws), sum(v for _, v, _ in laws), math.prod(a for _, _, a in laws))


@lru_cache(maxsize=256)
def _log_layer(plus: float, minus: float, n: int) -> tuple[float, float, float]:
    """Mean and variance of ln X of one layer given X > 0, and the probability of that."""
    A_2 = (plus**2 + minus**2) / 2
    dead = 0.5**n if 0.0 in (plus, minus) else 0.0
    # the density of y = ln(exponential/X) falls at least like e^y to the left and e^(-y/2) to the right
    y = np.arange(-40.0, 100.0, 1 / 64)
    t = np.exp(y)
    terms, slopes = np.zeros_like(t), np.zeros_like(t)
    for a in (plus, minus):
        s = 2 * a**2 / (n * A_2)
        terms += (1 + s * t) ** -0.5 / 2
        slopes += s * t * (1 + s * t) ** -1.5 / 4
    density = n * terms ** (n - 1) * slopes / (1 - dead)
    density /= density.sum()
    mean = float(density @ y)
    variance = float(density @ (y - mean) ** 2)
    return -np.euler_gamma - mean, variance - math.pi**2 / 6, 1 - dead


@checked()
def log_normal_limit(obj: Any, widths: Sequence[int]) -> LogLaw:
    r"""Limit of :func:`log_law` as depth and widths grow together.

    .. math:: \ln\frac GK \to N(-\tfrac\nu2 r, \nu r), \qquad r = \sum_l \frac1{n_l}, \qquad
        \nu = \frac{3A_4}{A_2^2} - 1

    Args:
        obj: anything that :func:`leadline.activations.activation` takes, of two slopes that meet at 0.
        widths: n_1, n_2, … of the hidden layers between the input and G.

    Returns:
        The limit; for ReLU N(-5r/2, 5r).

    Raises:
        ValueError: the activation is not of two slopes, or a width is below 1.

    Source: Hanin and Nica (2020).
    """
    nu = _single(*_slopes(obj), 2) - 1
    r = sum(1 / n for n in _checked(widths))
    return LogLaw(-nu * r / 2, nu * r, 1.0)


def _checked(widths: Sequence[int]) -> Sequence[int]:
    if any(n < 1 for n in widths):
        raise ValueError(f"got widths {tuple(widths)[:6]}: a hidden layer has at least 1 neuron.")
    return widths


def _slopes(obj: Any) -> tuple[float, float]:
    act = activation(obj)
    if act.slopes is None or act.slopes == (0.0, 0.0):
        raise ValueError(
            f"{act.name} is not of two slopes that meet at 0: exact laws are of ReLU, leaky ReLU, |z|, linear."
        )
    return act.slopes
