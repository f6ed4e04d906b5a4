"""Where the kernel of a repeated layer comes to rest, and how many layers a change survives there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.criticality.block import Block, Norm

__all__ = ["FixedPoint", "FixedPoints", "depth_scale", "fixed_point", "fixed_points"]

Array = NDArray[np.float64]

# Decades below and above the start that are searched: a kernel that has grown by 1e8 has no fixed point.
_DOWN, _UP = 10, 8
_POINTS_A_DECADE = 16
_FINER = 4  # nodes of the spline between two points at which a change of sign is looked for
_BISECTIONS = 44
_POLISH = 8
_ROUNDING = 1e-13
_ROWS = 4096
_VANISHING = 1e-50  # what quadrature makes of s(0)^2 = 0


@checked(negative=("chi",))
def depth_scale(chi: float) -> float:
    """Layers after which what multiplies by chi a layer has changed by e: 1 / |ln chi|."""
    if not 0 < chi < math.inf:
        return 0.0
    rate = abs(math.log(chi))
    return math.inf if rate == 0 else 1 / rate


@dataclass(frozen=True)
class FixedPoint:
    """Where the kernel of a repeated layer comes to rest.

    ``K``: the fixed point (inf where the kernel grows without end). ``chi_parallel``, ``chi_perp``: susceptibilities there.
    """

    K: float
    chi_parallel: float
    chi_perp: float

    @property
    def depth_scale(self) -> float:
        """Layers after which the distance of two close inputs has changed by e: 1 / |ln chi_perp|."""
        return depth_scale(self.chi_perp)


@dataclass(frozen=True)
class FixedPoints:
    """The same for many layers at once: float64 tensors of one shape."""

    K: Tensor
    chi_parallel: Tensor
    chi_perp: Tensor


@checked(nan=("residual",))
def fixed_point(obj: Any, C_W: float, C_b: float, K: float, *, residual: float = 0.0) -> FixedPoint:
    r"""Fixed point that the flow K' = C_b + C_W <f^2>_K + gamma^2 K reaches from K.

    .. math:: K^* = C_b + C_W g(K^*) + \gamma^2 K^*, \quad \chi_\parallel = C_W g'(K^*) + \gamma^2, \quad
              \chi_\perp = C_W \langle f'^2 \rangle_{K^*} + \gamma^2

    Args:
        obj: module, function, name, callable or Activation: the nonlinearity before the layer.
        C_W: fan-in times the weight variance.
        C_b: bias variance.
        K: kernel to start from, units of the preactivation squared.
        residual: strength gamma of a skip around the layer.

    Returns:
        The fixed point with its susceptibilities; K is inf where the flow grows without end.

    Raises:
        ValueError: a variance is negative or not finite, or the kernel to start from is negative or not finite.

    Source: Roberts, Yaida and Hanin (2022), chapter 5; Poole et al. (2016).
    """
    if not (0 <= C_W < math.inf and 0 <= C_b < math.inf):
        raise ValueError(f"C_W and C_b must be finite and >= 0, got {C_W} and {C_b}; they are variances.")
    if not 0 <= K < math.inf:
        raise ValueError(f"the flow must start from a kernel >= 0, got {K}.")
    block = Block.of(obj, residual=residual)
    w, b = (torch.tensor([v], dtype=torch.float64) for v in (C_W, C_b))
    rest = float(_Search(block, max(K, 1e-300), finer=1).rest(w, b)[0])
    if 0 < rest < math.inf and block.activation.slopes is None:
        rest = _polished(block, C_W, C_b, rest)
    # a kernel without end has no susceptibilities of its own: those of a kernel grown by 1e8 stand for them
    where = torch.tensor(rest if math.isfinite(rest) else max(K, 1e-300) * 10.0**_UP, dtype=torch.float64)
    parallel, perp = block.susceptibilities(where, C_W)
    return FixedPoint(rest, float(parallel), float(perp))


@torch.no_grad()
def fixed_points(block: Block, C_W: Tensor, C_b: Tensor, start: float = 1.0) -> FixedPoints:
    r"""Fixed points that the flow of a layer reaches from one kernel, for many (C_W, C_b) at once.

    The flow moves towards the first zero of K' - K on its side of the start. It is found from the sign on 16 points a
    decade and refined on a cubic spline of m(K), good to about 1e-8; a double zero, at which a
    half-stable flow would halt, is passed over.

    Args:
        block: the layer.
        C_W: fan-in times weight variance, any shape.
        C_b: bias variances, broadcast with C_W.
        start: kernel to start from, units of the preactivation squared.

    Returns:
        K (inf where the flow grows without end, 0 where it vanishes) and susceptibilities, float64 of the broadcast
        shape.

    Raises:
        ValueError: a variance is negative or not finite, or the start is not positive.

    Source: Poole et al. (2016); Roberts, Yaida and Hanin (2022), chapter 5.
    """
    w, b = torch.broadcast_tensors(C_W.to(torch.float64), C_b.to(torch.float64))
    if not (bool(torch.isfinite(w + b).all()) and bool((w >= 0).all()) and bool((b >= 0).all())):
        raise ValueError("C_W and C_b must be finite and >= 0; they are variances.")
    if not (math.isfinite(start) and start > 0):
        raise ValueError(f"the flow must start from a kernel > 0, got {start}.")
    search = _Search(block, start)
    K = torch.cat([search.rest(x, y) for x, y in zip(w.reshape(-1).split(_ROWS), b.reshape(-1).split(_ROWS))])
    parallel, perp = search.susceptibilities(K, w.reshape(-1))
    return FixedPoints(*(t.reshape(w.shape) for t in (K, parallel, perp)))


class _Search:
    """Values of a block's moments on kernels around a start, and what follows from them for any (C_W, C_b)."""

    def __init__(self, block: Block, start: float, finer: int = _FINER) -> None:
        self.block, self.start, self.finer = block, start, finer
        points = _POINTS_A_DECADE * finer
        self.keep = 1 - block.residual**2
        steps = torch.arange(-_DOWN * points, _UP * points + 1, dtype=torch.float64)
        nodes = start * 10 ** (steps / points)
        values = block.moment(nodes)
        finite = int(torch.isfinite(values).long().cumprod(0).sum())
        self.nodes, self.values = nodes[:finite].numpy(), values[:finite].numpy()
        self.begin = _DOWN * points
        at_zero = float(block.moment(torch.zeros((), dtype=torch.float64)))
        self.at_zero = at_zero if at_zero > _VANISHING else 0.0

    def rest(self, C_W: Tensor, C_b: Tensor) -> Tensor:
        w, b = C_W.numpy(), C_b.numpy()
        if self.block.norm is not Norm.none:
            with np.errstate(divide="ignore"):
                return torch.from_numpy((w * self.values[0] + b) / max(self.keep, 0.0))
        slopes = self.block.activation.slopes
        if slopes is not None:
            return torch.from_numpy(self._linear(w * (slopes[0] ** 2 + slopes[1] ** 2) / 2, b))
        if self.begin >= self.nodes.size:
            return torch.full_like(C_W, math.inf)
        nodes, values = self.nodes[:: self.finer], self.values[:: self.finer]
        begin = self.begin // self.finer
        change = b[:, None] + w[:, None] * values - self.keep * nodes
        change[np.abs(change) <= _ROUNDING * nodes] = 0.0
        first = change[:, begin]
        up, down = change[:, begin:] <= 0, change[:, begin::-1] >= 0
        high = np.where(up.any(1), begin + up.argmax(1), -1)
        low = np.where(down.any(1), begin - down.argmax(1), -1)
        rises, falls = (first > 0) & (high >= 0), (first < 0) & (low >= 0)
        left = np.where(rises, high - 1, np.where(falls, low, 0))
        K = self._between(w, b, np.log(nodes), np.clip(left, 0, nodes.size - 2))
        K = np.where(first == 0, self.start, K)
        K = np.where((first > 0) & (high < 0), math.inf, K)
        K = np.where((first < 0) & (low < 0), self._near_zero(w, b), K)
        return torch.from_numpy(K)

    def _linear(self, slope: Array, b: Array) -> Array:
        """Rest of K' = b + (slope + gamma^2) K."""
        gap = self.keep - slope
        with np.errstate(divide="ignore", invalid="ignore"):
            K = np.where(gap > _ROUNDING, b / gap, math.inf)
        return np.where((np.abs(gap) <= _ROUNDING) & (b == 0), self.start, K)

    def _near_zero(self, w: Array, b: Array) -> Array:
        """Rest below the smallest node, where m(K) is a straight line."""
        slope = (self.values[0] - self.at_zero) / self.nodes[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            K = (b + w * self.at_zero) / np.maximum(self.keep - w * slope, 0)
        return np.where(b + w * self.at_zero == 0, 0.0, np.minimum(K, self.nodes[0]))

    def _between(self, w: Array, b: Array, x: Array, left: NDArray[np.int64]) -> Array:
        from scipy.interpolate import CubicSpline  # slow to import

        spline = CubicSpline(np.log(self.nodes), self.values / self.nodes)
        low, high = x[left], x[left + 1]

        def change(at: Array) -> Array:
            K: Array = np.exp(at)
            return b + K * (w * spline(at) - self.keep)

        sign = change(low) > 0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            same = (change(middle) > 0) == sign
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        K: Array = np.exp((low + high) / 2)
        return K

    def susceptibilities(self, K: Tensor, C_W: Tensor) -> tuple[Tensor, Tensor]:
        """At kernels K of any size, from splines where there are many."""
        inside = K.clamp(self.nodes[0], self.nodes[-1])
        if self.block.norm.before or self.block.activation.slopes is not None:
            return self.block.susceptibilities(inside, C_W)
        from scipy.interpolate import CubicSpline  # slow to import

        nodes, skip = torch.from_numpy(self.nodes), self.block.residual**2
        x = inside.log().numpy()
        slope, square = (
            torch.from_numpy(CubicSpline(np.log(self.nodes), f(nodes).numpy())(x))
            for f in (self.block.moment_slope, self.block.slope_moment)
        )
        return C_W * slope + skip, C_W * square + skip


def _polished(block: Block, C_W: float, C_b: float, K: float) -> float:
    """Newton's method on the moments themselves, as long as it closes in."""
    step = math.inf
    for _ in range(_POLISH):
        at = torch.tensor(K, dtype=torch.float64)
        slope = C_W * float(block.moment_slope(at)) + block.residual**2 - 1
        if slope == 0:
            break
        move = (float(block.kernel(at, C_W, C_b)) - K) / slope
        if not abs(move) < min(abs(step), 0.1 * K):
            break
        K, step = K - move, move
    return K
