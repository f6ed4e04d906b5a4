"""Mean products at several points of an activation with kinks: point masses of its second derivative included."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from leadline.activations import Activation, joint_moment
from leadline.activations.moments import autodiff
from leadline.gaussian import Expectation, joint_expectation
from leadline.theory.flow.pairs import pair_derivatives
from leadline.theory.tangent.moments import Pointwise, moments, slope_activation
from leadline.theory.tangent.products import MeanProducts

__all__ = ["KinkedProducts"]

_NEAR = 1e-9
_PROBES = torch.linspace(-12.0, 12.0, 4801, dtype=torch.float64) + 1e-3 / math.pi


class KinkedProducts(MeanProducts):
    r"""Mean products of a continuous activation whose derivatives may jump.

    Second derivatives have point masses :math:`(s'_+ - s'_-)\,\delta(z - \kappa)` at the kinks; with other factors at
    the same point they are the limit of ever sharper smooth corners,
    :math:`s'' s'^{j-1} \to (s'^j_+ - s'^j_-)/j\; \delta(z - \kappa)`. Two points take series and quadrature to 1e-10,
    more take :func:`joint_moment`.

    On the diagonal only sums over which point a derivative falls on have a meaning; [2, 2] and [3, 3], which are
    infinite there, are counted as 0 and the others carry the sums.

    Args:
        activation: continuous.
        K: covariance, shape (m, m), of inputs of which no two are parallel.
        rtol: wanted error of products at three and four different points that have no closed form.

    Raises:
        ValueError: the activation jumps, a variance is 0, or two inputs are parallel and the slope jumps.
    """

    def __init__(self, activation: Activation, K: Tensor, rtol: float = 1e-4) -> None:
        self._error = 0.0
        self._activation, self._slope = activation, slope_activation(activation)
        self._K, self._rtol = K, rtol
        if not bool((K.diagonal() > 0).all()):
            raise ValueError(
                f"got an input whose kernel is 0, where {activation.name} may have a kink: leave it out, or take C_b > 0."
            )
        self._table = self._two_points()
        self._known: dict[tuple[int, ...], Tensor] = {}

    @property
    def error(self) -> float:
        """Largest estimated error of the products of more than two points, relative to the largest of a kind."""
        return self._error

    def two(self, p: int, q: int) -> Tensor:
        """<s_p(z_a) s_q(z_b)> for p + q even and at most 6 (without [6, 0]), shape (m, m)."""
        return self._table[p, q]

    def four(self, p: int, q: int, r: int, t: int) -> Tensor:
        """<s_p(z_a) s_q(z_b) s_r(z_c) s_t(z_d)> for orders up to 1, or 2, 1, 1, 0 in this order; shape (m, m, m, m)."""
        given = (p, q, r, t)
        if given == (2, 1, 1, 0):
            if given not in self._known:
                self._known[given] = self._bent()
            return self._known[given]
        rank = sorted(range(4), key=lambda i: given[i])
        key = tuple(given[i] for i in rank)
        if key not in self._known:
            self._known[key] = self._plain(key)
        place = [rank.index(i) for i in range(4)]
        return self._known[key].permute(*place)

    def _two_points(self) -> dict[tuple[int, int], Tensor]:
        act, K = self._activation, self._K
        m = K.shape[0]
        a, b = torch.triu_indices(m, m, 1, device=K.device)
        one = moments(act, K.diagonal())
        slope, curvature = act.second_moment_slope(K.diagonal()), act.second_moment_curvature(K.diagonal())
        pairs = pair_derivatives(act, K[a, a], K[a, b], K[b, b], sixth=True).products if m > 1 else {}
        own = {
            (2, 0): slope - one.d, (4, 0): 2 * curvature - 4 * one.d1, (3, 1): one.d1, (2, 2): 0 * one.d,
            (5, 1): 2 * one.d2, (4, 2): 0 * one.d, (3, 3): 0 * one.d,
        }  # fmt: skip
        table = {(0, 0): act.gram(K), (1, 1): act.gram_derivative(K)}
        for p, q in own:
            for key in {(p, q), (q, p)}:
                out = torch.diag(own[p, q])
                if m > 1:
                    out[a, b], out[b, a] = pairs[key], pairs[key[::-1]]
                table[key] = out
        if not all(bool(torch.isfinite(t).all()) for t in table.values()):
            raise ValueError(
                f"the tensors of {act.name} are not defined where two inputs are parallel or antiparallel and its slope "
                "jumps: leave out one of them, or take C_b > 0."
            )
        return table

    def _plain(self, orders: tuple[int, ...]) -> Tensor:
        """Products of s and s' at all quadruples of points, equal orders being exchangeable."""
        m = self._K.shape[0]
        places: dict[tuple[tuple[int, int], ...], int] = {}
        every = (tuple(sorted(zip(orders, points))) for points in itertools.product(range(m), repeat=4))
        index = [places.setdefault(key, len(places)) for key in every]
        blocks = torch.tensor([[point for _, point in key] for key in places], device=self._K.device)
        factors = [(self._activation, self._slope)[order] for order in orders]
        out = joint_moment(factors, self._K[blocks[:, :, None], blocks[:, None, :]], rtol=self._rtol)
        self._note(out, out.value.abs().max())
        return out.value[torch.tensor(index, device=self._K.device)].reshape(m, m, m, m)

    def _note(self, out: Expectation, size: Tensor) -> None:
        self._error = max(self._error, float(out.error.max() / size.clamp_min(1e-300)))

    def _bent(self) -> Tensor:
        """<s''_o s'_p s'_q s_t>, symmetric in p and q: where s'' is a function, and its point masses."""
        m = self._K.shape[0]
        value = torch.zeros(m, m, m, m, dtype=self._K.dtype, device=self._K.device)
        curvature = Activation(
            lambda z: autodiff(self._slope.fn, z),
            name="s''",
            kinks=self._activation.kinks,
            jumps=self._activation.kinks,
        )
        functions = [curvature, self._slope, self._slope, self._activation]
        if bool((curvature.fn(_PROBES) != 0).any()):
            keys = [k for k in itertools.product(range(m), repeat=4) if k[1] <= k[2]]
            index = torch.tensor(keys, device=self._K.device)
            out = joint_moment(functions, self._K[index[:, :, None], index[:, None, :]], rtol=self._rtol)
            self._note(out, out.value.abs().max())
            o, p, q, t = index.T
            value[o, p, q, t] = value[o, q, p, t] = out.value
        for kink in self._slope.jumps:
            value = value + self._mass(kink)
        return value

    def _mass(self, kink: float) -> Tensor:
        """What the point mass of s'' at one kink adds to <s''_o s'_p s'_q s_t>."""
        K, f, df = self._K, self._activation.fn, self._slope.fn
        m = K.shape[0]
        step = _NEAR * (1 + abs(kink))
        low, high = df(torch.tensor([kink - step, kink + step], dtype=torch.float64)).tolist()
        height = float(f(torch.tensor([kink], dtype=torch.float64)))
        out = torch.zeros(m, m, m, m, dtype=K.dtype, device=K.device)
        for o in range(m):
            mean = K[o] / K[o, o] * kink
            left = K - torch.outer(K[o], K[o]) / K[o, o]
            density = math.exp(-(kink**2) / (2 * float(K[o, o]))) / math.sqrt(2 * math.pi * float(K[o, o]))
            for p, q, t in itertools.product(range(m), repeat=3):
                if p > q:
                    continue
                same = 1 + (p == o) + (q == o)
                weight = density * (high**same - low**same) / same * (height if t == o else 1.0)
                slopes, heights = [i for i in (p, q) if i != o], [t] * (t != o)
                value = weight * self._given(slopes, heights, mean, left) if weight else 0.0
                out[o, p, q, t] = out[o, q, p, t] = value
        return out

    def _given(self, slopes: list[int], heights: list[int], mean: Tensor, left: Tensor) -> float:
        """Product of s' and s at other points, given one point: means and covariance there."""
        points = [*slopes, *heights]
        if not points:
            return 1.0
        block = left[points][:, points]
        acts = [self._slope] * len(slopes) + [self._activation] * len(heights)
        if not bool(mean.any()):
            out = joint_moment(acts, block, rtol=self._rtol)
        else:
            shifts = mean[points].tolist()
            functions = [_shifted(act.fn, shift) for act, shift in zip(acts, shifts)]
            kinks = [tuple(k - shift for k in act.kinks) for act, shift in zip(acts, shifts)]
            out = joint_expectation(functions, block, kinks=kinks, rtol=self._rtol)
        self._note(out, out.value.abs().clamp_min(self._rtol))
        return float(out.value)


def _shifted(f: Pointwise, shift: float) -> Pointwise:
    return lambda z: f(z + shift)
