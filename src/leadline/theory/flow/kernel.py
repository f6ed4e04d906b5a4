"""The kernel of single inputs layer by layer, on quadrature nodes that many layers share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leadline.activations import Activation
from leadline.gaussian.adaptive import REACH

__all__ = ["SecondMoment", "kernel_flow", "slope_power"]

Array = NDArray[np.float64]

SMALL, LARGE = 1e-30, 1e30
"""Kernels outside this range are carried by their logarithm, with the activation's slopes at 0 or at infinity."""

_NODES = 16
_SPAN = 1.5
_GROWTH = 1.5


class SecondMoment:
    r"""g(K) = <sigma^2>_K for kernels of a range that widens as needed, from values of sigma on fixed nodes.

    .. math:: g(K) = \sum_j w_j\, \sigma(z_j)^2\, e^{-z_j^2/2K} / \sqrt{2\pi K}

    Gauss-Legendre panels from one standard deviation of the smallest kernel out to 13 of the largest, growing
    with |z|, cut at the kinks. sigma is called when a kernel leaves the range, not once a layer.

    Args:
        activation: sigma.
    """

    def __init__(self, activation: Activation) -> None:
        self.activation = activation
        self.low, self.high = math.inf, 0.0
        self._square = self._values = np.empty(0)
        self._steep = False

    def __call__(self, K: Array) -> Array:
        """g of kernels K > 0, shape (B,)."""
        low, high = K.min(), K.max()
        if low < self.low or high > self.high:
            self._widen(float(low), float(high))
        if self._steep:
            return self.activation.second_moment(torch.from_numpy(K)).numpy()
        weight = np.multiply.outer(-0.5 / K, self._square)
        np.exp(weight, out=weight)
        return (weight @ self._values) / np.sqrt(2 * math.pi * K)

    def _widen(self, low: float, high: float) -> None:
        # a drifting kernel leaves the range now and then; a jump across many decades starts a new one
        near = low > 1e-3 * self.low and high < 1e3 * self.high
        self.low = min(low, self.low if near else low) / _SPAN**2
        self.high = max(high, self.high if near else high) * _SPAN**2
        z, w = _nodes(math.sqrt(self.low), math.sqrt(self.high), self.activation.kinks)
        f = self.activation.fn(torch.from_numpy(z)).to(torch.float64).numpy()
        self._square, self._values = z * z, w * f * f
        with np.errstate(over="ignore", invalid="ignore"):
            edge = self._values[[0, -1]].max() * math.exp(-0.5 * REACH**2)
            # growth like an exponential puts mass beyond the nodes: leave such functions to adaptive quadrature
            self._steep = not np.isfinite(self._values).all() or edge > 1e-20 * self._values.max()


def _nodes(low: float, high: float, kinks: Sequence[float]) -> tuple[Array, Array]:
    """Nodes and weights on both sides of 0 for every standard deviation from low to high."""
    ends = [0.0]
    while ends[-1] < REACH * high:
        z = ends[-1]
        fixed = 0.75 if z < 8 else 2.5 if z < 40 else math.inf
        ends.append(z + min(max(low, (_GROWTH - 1) * z), fixed))
    reach = ends[-1]
    panels = np.array(sorted({*ends, *(-e for e in ends), *(k for k in kinks if abs(k) < reach)}))
    x, w = np.polynomial.legendre.leggauss(_NODES)
    half = (panels[1:] - panels[:-1])[:, None] / 2
    centre = (panels[1:] + panels[:-1])[:, None] / 2
    return (centre + half * x).ravel(), (half * w).ravel()


def kernel_flow(
    activation: Activation, C_b: Sequence[float], C_W: Sequence[float], first: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Kernels of single inputs at every layer, and their logarithms, to any depth.

    .. math:: K^{(l+1)} = C_b^{(l+1)} + C_W^{(l+1)}\, g(K^{(l)})

    A homogeneous activation is iterated in closed form. For others a kernel outside 1e-30 … 1e30 goes on with
    the activation's slopes at 0 or at infinity where it has them, so that neither logarithm nor ratios overflow.

    Args:
        activation: sigma.
        C_b: bias variances of layers 2 … L.
        C_W: fan-in times the weight variances of layers 2 … L.
        first: K^(1), shape (B,), units of z squared.

    Returns:
        K and ln K, float64 of shape (len(C_W) + 1, B). K is inf or 0 where it leaves the range of floats; ln K is
        so only where growth (or decay) is faster than exponential.

    Raises:
        ValueError: a kernel is negative.

    Source: Roberts, Yaida and Hanin (2022), section 4.1; the scale is carried as for products of random matrices.
    """
    start = first.detach().to("cpu", torch.float64).reshape(-1).numpy().copy()
    if (start < 0).any():
        raise ValueError(f"got a kernel of {start.min():.6g}: kernels are variances, give ones that are not negative.")
    K, log_K = np.empty((len(C_W) + 1, start.size)), np.empty((len(C_W) + 1, start.size))
    ends = _Ends(activation)
    moment = SecondMoment(activation)
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        K[0], log_K[0] = start, np.log(start)
        for i, (b, w) in enumerate(zip(C_b, C_W)):
            k = K[i]
            inside = (k > ends.low) & (k < ends.high)
            if inside.all():
                K[i + 1] = b + w * moment(k)
                log_K[i + 1] = np.log(K[i + 1])
                continue
            if inside.any():
                K[i + 1, inside] = b + w * moment(k[inside])
                log_K[i + 1, inside] = np.log(K[i + 1, inside])
            out = ~inside
            log_K[i + 1, out] = np.logaddexp(np.log(b), np.log(w) + ends.log_moment(log_K[i, out]))
            # a sum that stays in range keeps its digits; its logarithm would lose some
            K[i + 1, out] = np.where(
                np.isfinite(k[out]) & (k[out] > 0), b + w * ends.moment(k[out]), np.exp(log_K[i + 1, out])
            )
    return torch.from_numpy(K), torch.from_numpy(log_K)


class _Ends:
    """g(K) where sigma is as good as linear on both sides of 0: below ``low`` and above ``high``."""

    def __init__(self, activation: Activation) -> None:
        self.near, self.far = slope_power(activation)
        self.at_zero = float(activation.fn(torch.zeros(1, dtype=torch.float64)).to(torch.float64)) ** 2
        self.low = SMALL
        self.high = LARGE if 0 < self.far < math.inf else math.inf
        if activation.slopes is not None:
            self.low = self.high = 1.0

    def moment(self, K: Array) -> Array:
        return np.where(K < self.high, self.at_zero + self.near * K, self.far * K)

    def log_moment(self, log_K: Array) -> Array:
        near = np.logaddexp(np.log(self.at_zero), np.log(self.near) + log_K)
        far = np.log(self.far) + log_K if self.far > 0 else log_K
        return np.where(log_K < np.log(self.high), near, far)


def slope_power(activation: Activation) -> tuple[float, float]:
    r"""Mean squared slopes A_2 of an activation near 0 and far from it.

    .. math:: A_2 = (a_+^2 + a_-^2)/2

    Args:
        activation: sigma.

    Returns:
        A_2 of the one-sided derivatives at 0 (0 where sigma is flat there), and of sigma(z)/z at infinity (0 where
        sigma grows more slowly than z, inf where faster).
    """
    if activation.slopes is not None:
        plus, minus = activation.slopes
        return ((plus**2 + minus**2) / 2,) * 2
    with torch.no_grad():
        sides = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        near = float((activation.derivative(1e-15 * sides).to(torch.float64) ** 2).mean())
        one, two = (float(((activation.fn(z * sides).to(torch.float64) / z) ** 2).mean()) for z in (1e15, 1e18))
    if not math.isfinite(two) or two > one * (1 + 1e-6):
        far = math.inf
    else:
        far = two if one - two <= 1e-6 * one else 0.0
    return (near if near > 1e-20 else 0.0), far
