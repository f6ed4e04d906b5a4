"""Moments of products of free matrices, by power series of their S-transforms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["free_product_moments", "revert", "s_transform"]

Series = NDArray[np.float64]


def revert(c: Series) -> Series:
    """Coefficients of the inverse under composition of c_1 x + c_2 x^2 + …, c_1 not 0.

    Args:
        c: c_1, c_2, …, c_k.
    Returns:
        The inverse's coefficients from the first power on, same length.

    >>> revert(np.array([1.0, 1.0, 1.0])).tolist()  # x/(1 - x) and x/(1 + x)
    [1.0, -1.0, 1.0]
    """
    k = len(c)
    inverse = np.zeros(k)
    inverse[0] = 1 / c[0]
    for order in range(1, k):
        # the coefficient of x^(order + 1) in c(inverse(x)) must vanish; only the linear term holds the new unknown
        inverse[order] = -_compose(c, inverse)[order] / c[0]
    return inverse


def _compose(outer: Series, inner: Series) -> Series:
    k = len(outer)
    total, power = np.zeros(k), np.zeros(k)
    power[0] = 1.0  # inner^0, shifted: index i stands for x^i here
    x = np.concatenate([[0.0], inner])[: k + 1]
    current = np.zeros(k + 1)
    current[0] = 1.0
    for coefficient in outer:
        current = np.convolve(current, x)[: k + 1]
        total += coefficient * current[1:]
    return total


def s_transform(moments: Series) -> Series:
    r"""Power series of the S-transform, from moments of first order on.

    .. math:: S(z) = \chi(z)\frac{1+z}{z},\quad \chi = \psi^{-1},\quad \psi(w) = \sum_k m_k w^k

    Args:
        moments: m_1, …, m_k, m_1 not 0.
    Returns:
        Coefficients of z^0, …, z^(k-1).
    Source: Voiculescu (1987).
    """
    chi = revert(moments)
    return chi + np.concatenate([[0.0], chi[:-1]])


def free_product_moments(factors: list[tuple[Series, int]], order: int, gaussian: int) -> Series:
    r"""Moments of a product of free positive matrices and of Gaussian ones.

    .. math:: S(z) = \prod_j S_j(z)^{k_j}\,(1+z)^{-g}

    Args:
        factors: moments of each factor, at least ``order`` of them, and how many times it stands in the product.
        order: highest moment.
        gaussian: g, number of Wishart factors of unit variance (W W^T for square Gaussian W).
    Returns:
        m_1, …, m_order of the product.
    Source: Voiculescu (1987); Pennington, Schoenholz & Ganguli (2018).
    """
    S = np.zeros(order)
    S[0] = 1.0
    for moments, count in factors:
        one = s_transform(np.asarray(moments[:order], dtype=np.float64))
        for _ in range(count):
            S = np.convolve(S, one)[:order]
    inverse = (-1.0) ** np.arange(order)  # 1/(1 + z)
    for _ in range(gaussian):
        S = np.convolve(S, inverse)[:order]
    # chi = S z / (1 + z)
    return revert(np.convolve(S, inverse)[:order])
