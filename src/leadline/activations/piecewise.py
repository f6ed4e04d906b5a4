"""Piecewise polynomial activations: every moment in closed form, two points included."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.polynomial import polynomial as poly
from torch import Tensor

from leadline.activations.base import Activation
from leadline.gaussian import Expectation, HalfSpaceTerm, expectation2
from leadline.gaussian.normal import upper_tail
from leadline.gaussian.orthant import truncated_moments

__all__ = ["Jump", "PiecewisePolynomial"]

_EPS = 2.3e-16
_FAR = 40.0

Jump = tuple[float, int, np.ndarray]
"""A knot k, a side s, and the polynomial added where s (z - k) > 0."""


class PiecewisePolynomial(Activation):
    r"""Polynomials between knots.

    Written around z = 0: :math:`\sigma(z) = p(z) + \sum_j P_j(z)\,1[s_j(z-k_j) > 0]` with s_j = +1 for
    positive knots and -1 for the others, so that small variances lose no digits. Moments are truncated
    Gaussian moments; with n the Gaussian density,
    :math:`\partial_K\langle P 1[z>k]\rangle = \tfrac12\{\langle P''1[z>k]\rangle + n(k)[P'(k) + P(k)k/K]\}`.

    Args:
        fn: the function itself.
        knots: where the polynomial changes, ascending, units of z.
        pieces: coefficients, lowest power first, on each of the len(knots) + 1 intervals.
        name: how reports call it.
    Source: Price (1958) for the heat flow; Owen (1956) for the bivariate normal.
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        knots: Sequence[float],
        pieces: Sequence[Sequence[float]],
        name: str,
    ) -> None:
        self.knots = tuple(float(k) for k in knots)
        self.pieces = tuple(np.asarray(p, dtype=float) for p in pieces)
        if len(self.pieces) != len(self.knots) + 1:
            raise ValueError(f"{name} needs one more piece than knots, got {len(pieces)} and {len(knots)}")
        self.half_space_terms = _half_space_terms(self.knots, self.pieces)
        sides = zip(self.knots, self.pieces[:-1], self.pieces[1:], strict=True)
        jumps = [k for k, left, right in sides if poly.polyval(k, left) != poly.polyval(k, right)]
        super().__init__(fn, name=name, kinks=knots, jumps=jumps, derivative=self._slope)

    def _slope(self, z: Tensor) -> Tensor:
        where = torch.bucketize(z.detach(), torch.tensor(self.knots, dtype=z.dtype, device=z.device))
        out = torch.zeros_like(z)
        for i, piece in enumerate(self.pieces):
            values = torch.zeros_like(z)
            for c in reversed(poly.polyder(piece)):
                values = values * z + float(c)
            out = torch.where(where == i, values, out)
        return out

    def _map(self, change: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, list[Jump]]:
        return _around_zero(self.knots, [change(p) for p in self.pieces])

    def _mean(self, K: Tensor) -> Expectation:
        return _moment(*self._map(lambda p: p), K)

    def _second_moment(self, K: Tensor) -> Expectation:
        return _moment(*self._map(lambda p: poly.polypow(p, 2)), K)

    def _fourth_moment(self, K: Tensor) -> Expectation:
        return _moment(*self._map(lambda p: poly.polypow(p, 4)), K)

    def _derivative_mean(self, K: Tensor) -> Expectation:
        _, jumps = self._map(lambda p: p)
        smooth = _moment(*self._map(poly.polyder), K)
        delta = sum((s * float(poly.polyval(k, p)) * _density(k, K) for k, s, p in jumps), torch.zeros_like(K))
        return Expectation(smooth.value + delta, smooth.error + 4 * _EPS * delta.abs())

    def _derivative_moment(self, K: Tensor) -> Expectation | Tensor:
        if self.jumps:
            return super()._derivative_moment(K)
        return _moment(*self._map(lambda p: poly.polypow(poly.polyder(p), 2)), K)

    def _second_moment_slope(self, K: Tensor) -> Expectation:
        inside, jumps = self._map(lambda p: poly.polypow(p, 2))
        k = K.clamp_min(1e-60)
        smooth = _moment(poly.polyder(inside, 2), [(a, s, poly.polyder(p, 2)) for a, s, p in jumps], k)
        edge = sum((s * _boundary(a, p, k) for a, s, p in jumps), torch.zeros_like(K))
        return Expectation((smooth.value + edge) / 2, (smooth.error + 8 * _EPS * edge.abs()) / 2)

    def _second_moment_curvature(self, K: Tensor) -> Expectation:
        inside, jumps = self._map(lambda p: poly.polypow(p, 2))
        k = K.clamp_min(1e-60)
        smooth = _moment(poly.polyder(inside, 4), [(a, s, poly.polyder(p, 4)) for a, s, p in jumps], k)
        edge = torch.zeros_like(K)
        for a, s, p in jumps:
            n = _density(a, k)
            drift = (a * a / k - 1) / (2 * k) * _boundary(a, p, k)
            own = -n * float(poly.polyval(a, p)) * a / k**2
            edge = edge + s * (torch.where(n > 0, drift + own, 0.0) + _boundary(a, poly.polyder(p, 2), k) / 2)
        return Expectation(smooth.value / 4 + edge / 2, smooth.error / 4 + 16 * _EPS * edge.abs())

    def _value_curvature(self, K: Tensor) -> Expectation | Tensor:
        if self.jumps:
            return super()._value_curvature(K)
        _, jumps = self._map(lambda p: p)
        k = K.clamp_min(1e-60)
        smooth = _moment(*self._map(lambda p: poly.polymul(p, poly.polyder(p, 2))), k)
        at = [float(self.fn(torch.tensor(a, dtype=torch.float64))) for a, _, _ in jumps]
        bends = [s * float(poly.polyval(a, poly.polyder(p))) for a, s, p in jumps]
        delta = torch.zeros_like(K)
        for (a, _, _), value, bend in zip(jumps, at, bends, strict=True):
            if value * bend != 0:
                delta = delta + value * bend * _density(a, k)
        return Expectation(smooth.value + delta, smooth.error + 16 * _EPS * delta.abs())

    def _near(self, derivative: bool) -> Callable[[Tensor, Tensor, Tensor, float], Expectation]:
        inside, jumps = self._map(poly.polyder if derivative else (lambda p: p))
        f = self.derivative if derivative else self.fn

        def closed(ka: Tensor, rho: Tensor, kb: Tensor, rtol: float) -> Expectation:
            value, error = _product(inside, jumps, ka, rho, kb)
            energy = self._derivative_moment if derivative else self._second_moment
            size = (_value(energy(ka)) * _value(energy(kb))).sqrt()
            bad = (error > rtol * size).nonzero().reshape(-1)
            if bad.numel():
                a, b = ka[bad], kb[bad]
                c = rho[bad] * (a * b).sqrt()
                out = expectation2(f, f, a, c, b, kinks_f=self.kinks, kinks_g=self.kinks, rtol=rtol)
                value[bad], error[bad] = out.value, out.error
            return Expectation(value, error)

        return closed


def _half_space_terms(knots: Sequence[float], pieces: Sequence[np.ndarray]) -> tuple[HalfSpaceTerm, ...]:
    """The piece around 0 everywhere, and what each of the others adds beyond its knot."""
    inside, jumps = _around_zero(knots, pieces)
    terms = [HalfSpaceTerm(float(c), power=p) for p, c in enumerate(inside) if c != 0]
    for knot, side, added in jumps:
        terms += [HalfSpaceTerm(float(c), p, 0.0, knot, side) for p, c in enumerate(added) if c != 0]
    return tuple(terms)


def _value(out: Expectation | Tensor) -> Tensor:
    return out.value if isinstance(out, Expectation) else out


def _around_zero(knots: Sequence[float], pieces: Sequence[np.ndarray]) -> tuple[np.ndarray, list[Jump]]:
    """The polynomial that holds just right of 0 and what is added beyond each knot, going outwards."""
    centre = sum(k <= 0 for k in knots)
    jumps: list[Jump] = []
    for i, k in enumerate(knots):
        change = poly.polysub(pieces[i + 1], pieces[i])
        jumps.append((k, 1, change) if i >= centre else (k, -1, -change))
    return np.asarray(pieces[centre]), jumps


def _density(k: float, K: Tensor) -> Tensor:
    return torch.exp(-0.5 * k * k / K) / (2 * math.pi * K).sqrt()


def _boundary(k: float, p: np.ndarray, K: Tensor) -> Tensor:
    """n(k) [P'(k) + P(k) k/K]."""
    n = _density(k, K)
    inner = float(poly.polyval(k, poly.polyder(p))) + float(poly.polyval(k, p)) * k / K
    return torch.where(n > 0, n * inner, 0.0)


def _moment(inside: np.ndarray, jumps: Sequence[Jump], K: Tensor) -> Expectation:
    """Expectation of a piecewise polynomial written around 0, with its rounding error."""
    sd = K.sqrt()
    value, size = torch.zeros_like(K), torch.zeros_like(K)
    for i, c in enumerate(inside):
        if c != 0 and i % 2 == 0:
            term = float(c) * math.prod(range(1, i, 2)) * sd**i
            value, size = value + term, size + term.abs()
    for k, s, p in jumps:
        h = (s * k / sd.clamp_min(1e-30)).clamp(-_FAR, _FAR)
        phi = torch.exp(-0.5 * h * h) / math.sqrt(2 * math.pi)
        t = [upper_tail(h), phi]
        for i in range(2, len(p)):
            t.append((i - 1) * t[i - 2] + h ** (i - 1) * phi)
        for i, c in enumerate(p):
            term = float(c) * s**i * sd**i * t[i]
            value, size = value + term, size + term.abs()
    return Expectation(value, 8 * _EPS * size)


def _product(inside: np.ndarray, jumps: Sequence[Jump], ka: Tensor, rho: Tensor, kb: Tensor) -> tuple[Tensor, Tensor]:
    """Mean product of one piecewise polynomial at two points, and its rounding error."""
    sa, sb = ka.sqrt(), kb.sqrt()
    # The polynomial inside is a jump at minus infinity.
    parts: list[Jump] = [(-math.inf, 1, inside), *jumps]
    value, size = torch.zeros_like(rho), torch.zeros_like(rho)
    for k1, s1, p1 in parts:
        for k2, s2, p2 in parts:
            if not (np.any(p1) and np.any(p2)):
                continue
            h = (s1 * k1 / sa.clamp_min(1e-30)).clamp(-_FAR, _FAR)
            k = (s2 * k2 / sb.clamp_min(1e-30)).clamp(-_FAR, _FAR)
            m = truncated_moments(h, k, s1 * s2 * rho, len(p1) - 1, len(p2) - 1)
            for i, c1 in enumerate(p1):
                for j, c2 in enumerate(p2):
                    if c1 * c2 == 0:
                        continue
                    scale = float(c1 * c2) * s1**i * s2**j * sa**i * sb**j
                    value, size = value + scale * m[i][j], size + scale.abs() * (m[i][j].abs() + 1.0)
    return value, 8 * _EPS * size
