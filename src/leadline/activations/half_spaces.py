"""Functions of one variable as sums of half-space terms: their products, and bounded ones as mixtures of steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.polynomial import polynomial as poly

from leadline.gaussian import HalfSpaceTerm

__all__ = ["as_steps", "multiply", "pieces_of"]

_FLAT = 1e-12


def multiply(functions: Sequence[Sequence[HalfSpaceTerm]]) -> list[HalfSpaceTerm]:
    """Terms of a product of functions of one variable whose steps have no noise.

    Steps to one side are the innermost of them; one to the right and one to the left make an interval, which is
    written with steps that point away from 0.

    Args:
        functions: terms of each.
    Returns:
        Terms of the product.
    """
    out: dict[tuple[int, float | None, float, int], float] = {}
    for terms in itertools.product(*functions):
        power, coefficient = sum(t.power for t in terms), math.prod(t.coefficient for t in terms)
        low = max((t.limit for t in terms if t.noise is not None and t.side > 0), default=-math.inf)
        high = min((t.limit for t in terms if t.noise is not None and t.side < 0), default=math.inf)
        for sign, noise, limit, side in _between(low, high):
            key = (power, noise, limit, side)
            out[key] = out.get(key, 0.0) + sign * coefficient
    return [HalfSpaceTerm(c, *key) for key, c in out.items() if c != 0]


def _between(low: float, high: float) -> list[tuple[int, float | None, float, int]]:
    """1[low < z < high] by steps: sign, noise, limit, side of each."""
    if low >= high:
        return []
    right = [] if high == math.inf else [(-1, 0.0, high, 1)]
    left = [] if low == -math.inf else [(-1, 0.0, low, -1)]
    if right and left and low >= 0:
        return [(1, 0.0, low, 1), *right]
    if right and left and high <= 0:
        return [(1, 0.0, high, -1), *left]
    if left and not right:
        return [(1, 0.0, low, 1)]
    if right and not left:
        return [(1, 0.0, high, -1)]
    return [(1, None, 0.0, 1), *left, *right]


def pieces_of(terms: Sequence[HalfSpaceTerm]) -> tuple[list[float], list[np.ndarray]]:
    """Knots of a sum of terms without noise, and its polynomial on each interval between them.

    Args:
        terms: the terms.
    Returns:
        Knots, ascending, and one more polynomial, lowest power first.
    """
    knots = sorted({t.limit for t in terms if t.noise is not None})
    pieces = []
    for i in range(len(knots) + 1):
        # right of the knots before i, left of those from i on
        inside = [t for t in terms if t.noise is None or (knots.index(t.limit) < i) == (t.side > 0)]
        piece = np.zeros(1 + max((t.power for t in terms), default=0))
        for t in inside:
            piece[t.power] += t.coefficient
        pieces.append(piece)
    return knots, pieces


def as_steps(terms: Sequence[HalfSpaceTerm], order: int) -> tuple[list[float], list[float]] | None:
    r"""A function that is constant beyond its knots, as a mixture of steps.

    .. math:: f(z) = f(-\infty) + \int f'(k)\, 1[z > k]\, dk

    by Gauss-Legendre nodes between the knots and the jumps at them: for a variable that is spread far beyond the
    knots, where monomials cancel, a handful of nodes has all digits.

    Args:
        terms: without noise.
        order: nodes an interval.
    Returns:
        Weights and limits of the steps (minus infinity for a constant), or None where the function is not constant on
        both sides.
    """
    knots, pieces = pieces_of(terms)
    size = max(float(np.abs(p).max()) for p in pieces)
    if any(np.abs(p[1:]).max(initial=0.0) > _FLAT * size for p in (pieces[0], pieces[-1])):
        return None
    x, w = np.polynomial.legendre.leggauss(order)
    out = [(float(pieces[0][0]), -math.inf)]
    for i, knot in enumerate(knots):
        jump = float(poly.polyval(knot, pieces[i + 1]) - poly.polyval(knot, pieces[i]))
        if abs(jump) > _FLAT * size:
            out.append((jump, knot))
    for a, b, piece in zip(knots[:-1], knots[1:], pieces[1:-1]):
        nodes, half = (a + b) / 2 + (b - a) / 2 * x, (b - a) / 2
        weights = half * w * poly.polyval(nodes, poly.polyder(piece))
        out += list(zip(weights.tolist(), nodes.tolist()))
    kept = [(c, k) for c, k in out if c != 0]
    return [c for c, _ in kept], [k for _, k in kept]
