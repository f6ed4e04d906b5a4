"""Expectations of products of monomials and steps of jointly Gaussian variables, by Stein's identity."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.arguments import check_size, checked
from leadline.gaussian.orthant_many import orthant

__all__ = ["HalfSpaceTerm", "half_space_expectation"]

_EPS = 2.3e-16


@dataclass(frozen=True)
class HalfSpaceTerm:
    r"""One term :math:`c\, z^p` or :math:`c\, z^p\, P(z + \sqrt\nu\, \xi > k)` of a function, xi standard normal.

    ReLU is :math:`z\,1[z>0]`, the step :math:`1[z>0]`, GELU has noise 1, erf is -1 and twice a term with
    noise 1/2, a polynomial has no step at all.

    Attributes:
        coefficient: c.
        power: p.
        noise: nu, units of z squared; None: no step.
        limit: k, where the step is, units of z.
        side: 1 for a step that holds where z > k, -1 for one that holds where z < k.
    """

    coefficient: float
    power: int = 0
    noise: float | None = None
    limit: float = 0.0
    side: int = 1


@checked(nan=("covariance",))
def half_space_expectation(functions: Sequence[Sequence[HalfSpaceTerm]], covariance: Tensor) -> Expectation:
    r"""Expectation of a product of up to four functions, each a sum of half-space terms.

    Every power of z is traded, by :math:`\langle z_i F\rangle = \sum_j K_{ij}\langle\partial_j F\rangle`, for
    a pairing with another power or for a variable held at its step; what remains are orthant probabilities.
    Without steps this is Wick's theorem, for any number of functions.

    Args:
        functions: one sequence of terms for each variable.
        covariance: shape (..., m, m), units of z squared; equal variables must have exactly equal entries.
    Returns:
        Expectation of shape (...), float64; its error grows without bound towards singular covariances, where
        only variables merged beforehand keep their digits.
    Raises:
        ValueError: more than four variables of one term have steps, or the covariance has another size.
    Source: Isserlis (1918); Price (1958); Plackett (1954).

    >>> relu = (HalfSpaceTerm(1.0, 1, 0.0),)
    >>> K = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> round(half_space_expectation([relu, relu], K).value.item() * 2 * math.pi, 12)
    1.0
    """
    m = len(functions)
    check_size(covariance, m)
    K = covariance.detach().to(torch.float64)
    value = torch.zeros(K.shape[:-2], dtype=torch.float64, device=K.device)
    error = torch.zeros_like(value)
    engines: dict[tuple[tuple[float | None, float, int], ...], _Stein] = {}
    for terms in itertools.product(*functions):
        coefficient = math.prod(t.coefficient for t in terms)
        if coefficient == 0:
            continue
        # a step to the left is one to the right of minus the variable
        coefficient = coefficient * math.prod(t.side**t.power for t in terms)
        kinds = tuple((t.noise, t.side * t.limit, t.side) for t in terms)
        if kinds not in engines:
            side = torch.tensor([t.side for t in terms], dtype=K.dtype, device=K.device)
            engines[kinds] = _Stein(side[:, None] * K * side, [kind[:2] for kind in kinds])
        stein = engines[kinds]
        powers = tuple(i for i in range(m) for _ in range(terms[i].power))
        steps = tuple(i for i in range(m) if terms[i].noise is not None)
        part = stein.moment(powers, steps)
        size = torch.ones_like(value)
        for i in powers:
            size = size * K[..., i, i].clamp_min(0.0).sqrt()
        # Gaussian moments of n powers are at most (n - 1)!! times the product of standard deviations.
        size = size * math.prod(range(1, len(powers), 2))
        value = value + coefficient * part.value
        error = error + abs(coefficient) * (part.error + 8 * _EPS * size * stein.amplification)
    return Expectation(value, error)


class _Stein:
    """Moments under one covariance, each computed once; variables with a step also appear with their noise."""

    def __init__(self, K: Tensor, kinds: Sequence[tuple[float | None, float]]) -> None:
        noises = [noise for noise, _ in kinds]
        self.m = len(noises)
        limits = torch.tensor([0.0] * self.m + [limit for _, limit in kinds], dtype=K.dtype, device=K.device)
        self.limits = limits if bool(limits.any()) else None
        noise = torch.tensor([v or 0.0 for v in noises], dtype=K.dtype, device=K.device)
        wide = torch.cat([torch.cat([K, K], dim=-1), torch.cat([K, K + torch.diag(noise)], dim=-1)], dim=-2)
        self.bare = [v == 0.0 for v in noises]
        self.size = wide.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300)
        self.conditioned: dict[frozenset[int], Tensor] = {frozenset(): wide}
        self.means: dict[frozenset[int], Tensor] = {frozenset(): torch.zeros_like(self.size)}
        self.known: dict[tuple[frozenset[int], tuple[int, ...], tuple[int, ...]], Expectation] = {}
        self.thinnest = torch.ones(K.shape[:-2], dtype=K.dtype, device=K.device)

    @property
    def amplification(self) -> Tensor:
        """How conditioning on nearly dependent variables magnifies rounding: 1 over the variance left of them."""
        return 1 + 1 / self.thinnest.clamp_min(1e-18)

    def moment(self, powers: tuple[int, ...], steps: tuple[int, ...]) -> Expectation:
        """Expectation of the product of z over ``powers`` and of steps over ``steps``."""
        return self._moment(frozenset(), powers, tuple(self.m + i for i in steps))

    def _moment(self, held: frozenset[int], powers: tuple[int, ...], steps: tuple[int, ...]) -> Expectation:
        key = (held, powers, steps)
        if key not in self.known:
            self.known[key] = self._compute(held, powers, steps)
        return self.known[key]

    def _compute(self, held: frozenset[int], powers: tuple[int, ...], steps: tuple[int, ...]) -> Expectation:
        K = self.conditioned[held]
        if not powers:
            index = torch.tensor(steps, dtype=torch.long, device=K.device)
            block = K[..., index, :][..., index]
            if self.limits is None:
                return orthant(block)
            return orthant(block, self.limits[index] - self.means[held][..., index])
        first, rest = powers[0], powers[1:]
        value = torch.zeros_like(self.thinnest)
        error = torch.zeros_like(value)
        if self.limits is not None and held:
            part, mean = self._moment(held, rest, steps), self.means[held][..., first]
            value, error = mean * part.value, mean.abs() * part.error
        for other in dict.fromkeys(rest):
            place = rest.index(other)
            part = self._moment(held, rest[:place] + rest[place + 1 :], steps)
            weight = rest.count(other) * K[..., first, other]
            value, error = value + weight * part.value, error + weight.abs() * part.error
        for step in steps:
            remaining = self._variance(held, step)
            weight = K[..., first, step] / (2 * math.pi * remaining).sqrt()
            if self.limits is not None:
                gap = self.limits[step] - self.means[held][..., step]
                weight = weight * torch.exp(-0.5 * gap * gap / remaining)
            part = self._moment(self._hold(held, step), rest, tuple(s for s in steps if s != step))
            value, error = value + weight * part.value, error + weight.abs() * part.error
        return Expectation(value, error)

    def _variance(self, held: frozenset[int], step: int) -> Tensor:
        """Variance that a step's variable has left, floored where it has none."""
        return self.conditioned[held][..., step, step].clamp_min(1e-30 * self.size[..., step])

    def _hold(self, held: frozenset[int], step: int) -> frozenset[int]:
        """Condition on the step's variable at its limit."""
        more = held | {step}
        if more not in self.conditioned:
            K, left = self.conditioned[held], self._variance(held, step)
            row = K[..., step, :]
            self.conditioned[more] = K - row[..., :, None] * row[..., None, :] / left[..., None, None]
            if self.limits is not None:
                mean = self.means[held]
                self.means[more] = mean + row / left[..., None] * (self.limits[step] - mean[..., step])[..., None]
            self.thinnest = torch.minimum(self.thinnest, left / self.size[..., step])
        return more
