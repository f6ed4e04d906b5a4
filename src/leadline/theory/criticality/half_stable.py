"""Critical points at a kernel K* > 0: where <s s''> vanishes and the bias variance that this takes is not negative."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from leadline.activations import Activation, curvature_roots
from leadline.gaussian.one import weighted_expectation
from leadline.theory.criticality.block import Block
from leadline.theory.criticality.fixed_point import FixedPoint

__all__ = ["Tuning", "half_stable_points", "neighbour", "tune_at"]

_LOW, _HIGH = 1e-6, 1e6
_FAMILY = torch.logspace(-2, 2, 17, dtype=torch.float64)
_NEAREST, _FURTHEST = 1e-3, 1e3  # relative distances at which another fixed point is looked for
_FELT = 1e-12


@dataclass(frozen=True)
class Tuning:
    r"""(C_W, C_b) with both susceptibilities 1 at K* > 0.

    .. math:: \langle s s''\rangle_{K^*} = 0,\quad C_W = 1/\langle s'^2\rangle_{K^*},\quad C_b = K^* - C_W g(K^*)

    Attributes:
        K, C_W, C_b: the point.
        chi_prime: C_W g''(K*), the change of chi_parallel with K.
        h: half the change of chi_perp with K, C_W <s'^2 (z^2 - K)>/(4 K^2).
        nu: C_W^2 (<s^4> - <s^2>^2)/K^2, the growth of n V/K^2 a layer.
        error: estimate of the largest relative error of K, C_W and C_b.
    """

    K: float
    C_W: float
    C_b: float
    chi_prime: float
    h: float
    nu: float
    error: float


def half_stable_points(act: Activation) -> tuple[list[Tuning], bool]:
    """Every tuning at K* between 1e-6 and 1e6, and whether they form a line (then one, at K* = 1, stands for it).

    Args:
        act: a continuous activation that is not scale-invariant.

    Returns:
        Tunings with C_b >= 0, by ascending drift |chi'| K*; True where <s s''> vanishes for every kernel.

    Source: Roberts, Yaida and Hanin (2022), section 5.3.3.
    """
    from scipy.optimize import brentq  # slow to import

    bend = act.estimate("value_curvature", _FAMILY)
    slope = act.derivative_moment(_FAMILY)
    if bool((bend.value.abs() <= torch.maximum(2 * bend.error, 1e-13 * slope)).all() & (slope > 0).all()):
        point = tune_at(act, 1.0, 0.0)
        return ([point] if point.C_b >= 0 else []), True

    def share(log_K: float) -> float:
        K = torch.tensor(math.exp(log_K), dtype=torch.float64)
        return float(act.value_curvature(K) / act.derivative_moment(K))

    fine = max(1e-13, act.precision / 10)
    found = []
    for low, high in curvature_roots(act, _LOW, _HIGH):
        x = float(brentq(share, math.log(low), math.log(high), xtol=fine, rtol=max(fine, 1e-14)))
        wide = 1e-4
        steep = abs(share(x + wide) - share(x - wide)) / (2 * wide)
        at = torch.tensor(math.exp(x), dtype=torch.float64)
        miss = float(act.estimate("value_curvature", at).error / act.derivative_moment(at))
        point = tune_at(act, math.exp(x), miss / max(steep, 1e-300) + 1e-13)
        if point.C_b >= 0:
            found.append(point)
    return sorted(found, key=lambda p: abs(p.chi_prime) * p.K), False


def tune_at(act: Activation, K: float, error: float) -> Tuning:
    """Tuning with chi_perp = 1 at the fixed point K, whose relative error is given."""
    at = torch.tensor(K, dtype=torch.float64)
    square, slope, fourth = (act.estimate(q, at) for q in ("second_moment", "derivative_moment", "fourth_moment"))
    C_W = 1 / float(slope.value)
    g = float(square.value)
    C_b = K - C_W * g
    h = (
        C_W
        * float(weighted_expectation(lambda z, k: act.derivative(z) ** 2 * (z * z - k), at, kinks=act.kinks).value)
        / (4 * K * K)
    )
    relative = abs(2 * h * K) * error + float(slope.error / slope.value)
    bias = (g * C_W * relative + C_W * float(square.error)) / max(C_b, 1e-300) if C_b > 0 else 0.0
    spread = C_W**2 * (float(fourth.value) - g * g) / K**2
    chi_prime = C_W * float(act.second_moment_curvature(at))
    return Tuning(K, C_W, C_b, chi_prime, h, spread, max(error, relative, bias))


def neighbour(act: Activation, point: Tuning, residual: float = 0.0) -> FixedPoint | None:
    """Stable fixed point at which a flow ends that leaves a half-stable one on its unstable side.

    Args:
        act: the activation.
        point: its half-stable tuning without a skip.
        residual: strength gamma of the skip; its tuning is (1 - gamma^2) times that without.

    Returns:
        The fixed point; None where the flow goes on to infinity.
    """
    from scipy.optimize import brentq  # slow to import

    side = 1.0 if point.chi_prime > 0 else -1.0
    gaps = torch.logspace(math.log10(_NEAREST), math.log10(_FURTHEST), 241, dtype=torch.float64)
    K = point.K * (1 + gaps) if side > 0 else point.K / (1 + gaps)
    block = Block(act)

    def change(k: torch.Tensor) -> torch.Tensor:
        return block.kernel(k, point.C_W, point.C_b) - k

    moved = change(K)
    sure = moved.abs() > _FELT * K
    K, signs = K[sure], torch.sign(moved[sure])
    turns = (signs != side).nonzero().reshape(-1)
    if not len(turns) or int(turns[0]) == 0:
        return None
    i = int(turns[0])
    rest = float(brentq(lambda k: float(change(torch.tensor(k, dtype=torch.float64))), float(K[i - 1]), float(K[i])))
    at = torch.tensor(rest, dtype=torch.float64)
    parallel, perp = block.susceptibilities(at, point.C_W)
    keep = 1 - residual**2
    return FixedPoint(rest, keep * float(parallel) + residual**2, keep * float(perp) + residual**2)
