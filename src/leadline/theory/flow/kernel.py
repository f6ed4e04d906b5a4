"""The kernel of single inputs layer by layer, on quadrature nodes that many layers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leadline.activations import Activation, activation
from leadline.gaussian.adaptive import REACH
from leadline.gaussian.arguments import checked

__all__ = ["LARGE", "SMALL", "SecondMoment", "end_slopes", "kernel_flow"]

Array = NDArray[np.float64]

SMALL, LARGE = 1e-30, 1e30
"""Kernels outside this range go on with the activation's slopes at 0 or at infinity."""

_WHOLE = (1e-290, 1e290)
_NODES = 16
_GROWTH = 0.5
_LAST_DIGIT = 2.3e-16
_CHECK = 1e-11


class SecondMoment:
    r"""<sigma^2>_K of one kernel after another, from values of sigma on nodes that kernels of like size share.

    .. math:: g(K) = \sum_j w_j\, [\sigma(z_j)^2 + \sigma(-z_j)^2]\, e^{-z_j^2/2K} / \sqrt{2\pi K}

    Gauss-Legendre panels from one standard deviation of the smallest kernel out to 13 of the largest, growing
    with z, cut at the kinks. sigma is called once for every factor of 16 in K, not once a layer.

    Args:
        activation: sigma.
    """

    def __init__(self, act: Activation) -> None:
        self.activation = act
        self._tables: dict[int, tuple[Array, Array] | None] = {}
        self._low, self._high = math.inf, 0.0
        self._table: tuple[Array, Array] | None = None

    def __call__(self, K: float) -> float:
        """<sigma^2> of a kernel K > 0."""
        if not self._low <= K < self._high:
            self._choose(K)
        if self._table is None:
            return float(self.activation.second_moment(K))
        return _sum(self._table, K)

    def _choose(self, K: float) -> None:
        decade = (math.frexp(K)[1] - 1) // 4
        self._low, self._high = 16.0**decade, 16.0 ** (decade + 1)
        if decade not in self._tables:
            self._tables[decade] = self._build(math.sqrt(self._low), math.sqrt(self._high))
        self._table = self._tables[decade]

    def _build(self, low: float, high: float) -> tuple[Array, Array] | None:
        """Squares of the nodes and weighted values; None where they do not meet adaptive quadrature."""
        z, w = _nodes(low, high, self.activation.kinks)
        both = torch.from_numpy(np.stack([z, -z]))
        with np.errstate(over="ignore", invalid="ignore"):
            table = z * z, w * (self.activation.fn(both).to(torch.float64).numpy() ** 2).sum(0)
            ends = torch.tensor([low**2, high**2], dtype=torch.float64)
            exact = self.activation.estimate("second_moment", ends)
            for K, value, error in zip(ends.tolist(), exact.value.tolist(), exact.error.tolist()):
                # growth like an exponential puts mass beyond the nodes, and fast oscillation falls between them
                if not abs(_sum(table, K) - value) <= error + _CHECK * value:
                    return None
        return table


def _sum(table: tuple[Array, Array], K: float) -> float:
    square, values = table
    return float(np.exp(square * (-0.5 / K)).dot(values)) / math.sqrt(2 * math.pi * K)


def _nodes(low: float, high: float, kinks: Sequence[float]) -> tuple[Array, Array]:
    """Nodes z > 0 and weights that serve every standard deviation from low to high."""
    ends = [0.0]
    while ends[-1] < REACH * high:
        z = ends[-1]
        fixed = 0.75 if z < 8 else 2.5 if z < 40 else math.inf
        ends.append(z + min(max(low, _GROWTH * z), fixed))
    panels = np.array(sorted({*ends, *(abs(k) for k in kinks if 0 < abs(k) < ends[-1])}))
    x, w = np.polynomial.legendre.leggauss(_NODES)
    half = (panels[1:] - panels[:-1])[:, None] / 2
    centre = (panels[1:] + panels[:-1])[:, None] / 2
    return (centre + half * x).ravel(), (half * w).ravel()


@checked()
def kernel_flow(obj: Any, C_b: Sequence[float], C_W: Sequence[float], first: Tensor) -> tuple[Tensor, Tensor]:
    r"""Kernels of single inputs at every layer, and their logarithms, to any depth.

    .. math:: K^{(l+1)} = C_b^{(l+1)} + C_W^{(l+1)}\, g(K^{(l)})

    A homogeneous activation is iterated in closed form. For others a kernel outside 1e-30 … 1e30 goes on with
    the activation's slopes at 0 or at infinity where it has them, so that neither logarithm nor ratios overflow.

    Args:
        obj: anything that :func:`leadline.activations.activation` takes.
        C_b: bias variances of layers 2 … L.
        C_W: fan-in times the weight variances of layers 2 … L.
        first: K^(1), any number of inputs, units of z squared.

    Returns:
        K and ln K, float64 of shape (L, inputs). K is inf or 0 where it leaves the range of floats; ln K is
        so only where growth (or decay) is faster than exponential.

    Raises:
        ValueError: a kernel or a variance is negative or not a number, or C_b and C_W differ in length.

    Source: Roberts, Yaida and Hanin (2022), section 4.1.
    """
    start = first.detach().to("cpu", torch.float64).reshape(-1).numpy()
    if not (start >= 0).all():
        raise ValueError(f"got a kernel of {start.min():.6g}: kernels are variances, give ones that are not negative.")
    if len(C_b) != len(C_W):
        raise ValueError(f"got {len(C_b)} values of C_b and {len(C_W)} of C_W: give one of each for a layer.")
    if not all(0 <= v < math.inf for v in (*C_b, *C_W)):
        raise ValueError(
            "got C_b or C_W with entries that are no variances: give finite numbers that are not negative."
        )
    act = activation(obj)
    ends, moment = _Ends(act), SecondMoment(act)
    values, inverse = np.unique(start, return_inverse=True)
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        columns = np.array([_column(float(k), C_b, C_W, ends, moment) for k in values])
    K, log_K = columns[inverse].transpose(1, 2, 0)
    return torch.from_numpy(K.copy()), torch.from_numpy(log_K.copy())


def _column(
    k: float, C_b: Sequence[float], C_W: Sequence[float], ends: _Ends, moment: SecondMoment
) -> tuple[Array, Array]:
    """Kernels of one input and their logarithms, by numbers: an array of one would take twice the time."""
    K = [k]
    logs: dict[int, float] = {}
    depth, steady = len(C_b), _steady(C_b, C_W)
    for i, (b, w) in enumerate(zip(C_b, C_W)):
        if ends.low < k < ends.high:
            before, k = k, b + w * moment(k)
            if abs(k - before) <= _LAST_DIGIT * k and i >= steady:
                K += [k] * (depth - i)  # at rest to the last digit
                break
        elif _WHOLE[0] < k < _WHOLE[1]:
            k = b + w * ends.moment(k)
        else:
            log_k = logs[i] if i in logs else float(np.log(k))
            log_k = float(np.logaddexp(np.log(b), np.log(w) + ends.log_moment(log_k)))
            k = float(np.exp(log_k))
            logs[i + 1] = log_k
        K.append(k)
    values = np.array(K)
    log_values = np.log(values)
    log_values[list(logs)] = list(logs.values())
    return values, log_values


def _steady(C_b: Sequence[float], C_W: Sequence[float]) -> int:
    """First layer from which on all have one law."""
    laws = list(zip(C_b, C_W))
    return next((i + 1 for i in range(len(laws) - 1, -1, -1) if laws[i] != laws[-1]), 0)


class _Ends:
    """<sigma^2> where sigma is as good as linear on both sides of 0: below ``low`` and above ``high``."""

    def __init__(self, act: Activation) -> None:
        self.near, self.far = ((p * p + m * m) / 2 for p, m in end_slopes(act))
        self.at_zero = float(act.fn(torch.zeros(1, dtype=torch.float64)).to(torch.float64)) ** 2
        self.low = SMALL
        self.high = LARGE if 0 < self.far < math.inf else math.inf
        if act.slopes is not None:
            self.low = self.high = 1.0

    def moment(self, K: float) -> float:
        """<sigma^2> of a kernel out of range."""
        return self.far * K if self.high <= K else self.at_zero + self.near * K

    def log_moment(self, log_K: float) -> float:
        """Its logarithm, given ln K."""
        if log_K >= np.log(self.high):
            return float(np.log(self.far)) + log_K
        return float(np.logaddexp(np.log(self.at_zero), np.log(self.near) + log_K))


def end_slopes(act: Activation) -> tuple[tuple[float, float], tuple[float, float]]:
    r"""Slopes (a_plus, a_minus) of an activation at 0 and at infinity.

    .. math:: a_\pm = \sigma'(0^\pm), \qquad a_\pm = \lim_{z\to\pm\infty} \sigma(z)/z

    Args:
        act: sigma.

    Returns:
        At 0, and at infinity: 0 where sigma grows more slowly than z, inf where faster.
    """
    if act.slopes is not None:
        return act.slopes, act.slopes
    with torch.no_grad():
        sides = torch.tensor([1.0, -1.0], dtype=torch.float64)
        plus, minus = (float(v) for v in act.derivative(1e-30 * sides))
        one, two = (act.fn(z * sides).to(torch.float64) / (z * sides) for z in (1e15, 1e18))
    size = float((one**2).mean())
    if not bool(torch.isfinite(two).all()) or float((two**2).mean()) > size * (1 + 1e-6):
        return (plus, minus), (math.inf, math.inf)
    linear = bool(((two - one).abs() <= 1e-6 * size**0.5).all())
    return (plus, minus), (float(two[0]), float(two[1])) if linear else (0.0, 0.0)
