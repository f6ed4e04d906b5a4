"""What a step hands on: forward a state, backward a cotangent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from leadline.program.axes import Axis
from leadline.program.laws import Law
from leadline.rules.banded import Banded, dense
from leadline.rules.banded_sites import spread_map, sum_by_sample
from leadline.rules.covariance import covariance
from leadline.rules.cross import cross
from leadline.rules.expr import Expr, Frozen, gather, lin, product
from leadline.rules.influence import Sample
from leadline.rules.kernel import Kernel
from leadline.rules.moments import Moments
from leadline.rules.sampling import take

__all__ = ["Cotangent", "Fixed", "Noise", "State", "Wave", "Weight"]

_waves = itertools.count()


@dataclass(frozen=True)
class Noise:
    """First-order seed-to-seed fluctuation of a layer's scale.

    ``parts``: means over a layer's channels -> response of the second moment at each point to each (P,), or (P, P')
    where points respond to others. ``sampled``: whether the layer's own finite sample of channels is in it (it is
    for a function of a source, not for the source itself, whose scale is that of its law given the layers before).
    ``pinned``: a norm has fixed the sample's scale exactly. ``shift``: change of the mean second moment at each point
    (P,), G1 / n to first order; None for zero.
    """

    parts: Mapping[Sample, Tensor]
    sampled: bool
    pinned: bool = False
    shift: Tensor | None = None

    @cached_property
    def _variance(self) -> Tensor | None:
        return covariance(self.parts, self.parts)

    def variance(self) -> Tensor | None:
        """Variance of the second moment at each point (P,)."""
        found = self._variance
        return None if found is None else found.clamp_min(0)

    def scale(self, K: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the second moment at each point, given that at infinite width (P,)."""
        variance = self.variance()
        mean = K if self.shift is None else (K + self.shift).clamp_min(0)
        return mean, torch.zeros_like(K) if variance is None else variance


@dataclass(frozen=True)
class State:
    """A random activation: the law of one channel at every point.

    ``expr``: the channel as a function of sources. ``points``: its (sample, site) axes, in the order of the
    expression's points. ``width``: number of channels. ``noise``: finite-width fluctuation, or None where the theory
    here does not have it. ``exact``: False where a non-Gaussian value was taken as Gaussian.
    """

    expr: Expr
    points: tuple[Axis, ...]
    width: int
    noise: Noise | None = None
    exact: bool = True


@dataclass(frozen=True)
class Fixed:
    """A value that depends on no weight: data, positions, masks."""

    value: Tensor
    layout: tuple[tuple[Axis, ...], ...]


@dataclass(frozen=True)
class Weight:
    """A parameter (or a function of parameters alone) with its law."""

    value: Tensor
    law: Law
    layout: tuple[tuple[Axis, ...], ...]


@dataclass(frozen=True)
class Wave:
    """One independent backward source times a function of forward sources.

    ``squared``: covariance (P, P) of the backward source, summed over channels. ``factor``: the function, or None for one.
    ``error``: relative standard error of the covariance, from draws. ``winners``: what the covariance is multiplied by
    when the slope of the activation before a maximum comes in: the sites that win have another slope than any site.
    ``ties``: other backward sources of the same weights, with the covariance <b_p b'_q> for this source b', (P, P').
    """

    key: Hashable
    squared: Kernel
    factor: Expr | None = None
    error: float = 0.0
    winners: Kernel | None = None
    ties: tuple[tuple[Hashable, Tensor], ...] = ()

    def between(self, other: Wave) -> Kernel | None:
        """Covariance of two waves' backward sources, (P, P'); None where they are independent."""
        if self.key == other.key:
            return self.squared
        for key, C in other.ties:
            if key == self.key:
                return C
        return next((C.T for key, C in self.ties if key == other.key), None)


@dataclass
class Cotangent:
    """Derivative of the output with respect to a state, summed over its channels: a sum of independent waves."""

    waves: list[Wave] = field(default_factory=list)

    def total(self, moments: Moments) -> Kernel:
        """Squared derivative summed over channels, shape (P, P)."""
        if len(self.waves) > 1:
            moments.draw_together([(w.squared, w.factor) for w in self.waves if w.factor is not None])
        parts = [w.squared if w.factor is None else moments.times(w.squared, w.factor) for w in self.waves]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        for a, b in itertools.combinations(self.waves, 2) if any(w.ties for w in self.waves) else ():
            C = a.between(b)
            if C is not None:
                C = C * _meeting(a.factor, b.factor, moments)
                total = total + C + C.T
        return total

    def cross(self, other: Cotangent, moments: Moments) -> Tensor | None:
        """<d_p d'_q> with another derivative, summed over channels, shape (P, P'); None where they are independent."""
        total: Tensor | None = None
        for a in self.waves:
            for b in other.waves:
                C = a.between(b)
                if C is not None:
                    part = dense(C) * _meeting(a.factor, b.factor, moments)
                    total = part if total is None else total + part
        return total

    def error(self) -> float:
        """Relative standard error of the squared derivative, from draws on the way."""
        if not any(w.error for w in self.waves):
            return 0.0
        sizes = [float(w.squared.diagonal().sum()) for w in self.waves]
        return math.hypot(*(w.error * s for w, s in zip(self.waves, sizes, strict=True))) / max(sum(sizes), 1e-300)

    def uncertain(self, error: float) -> Cotangent:
        """The same waves, known to a further relative error (a 1/width correction that is left out)."""
        return Cotangent([replace(w, error=math.hypot(w.error, error)) for w in self.waves])

    def inherit(self, parent: Cotangent) -> Cotangent:
        """The same waves, with the error of the derivative that they were made from."""
        error = parent.error()
        if error == 0.0:
            return self
        known = {w.key for w in parent.waves}
        return Cotangent([w if w.key in known else replace(w, error=math.hypot(w.error, error)) for w in self.waves])

    def times(self, factor: Expr) -> Cotangent:
        """Multiply by a function of forward sources (the slope of an elementwise step)."""
        out = []
        for w in self.waves:
            squared = w.squared if w.winners is None else w.squared * w.winners
            out.append(
                replace(
                    w, squared=squared, winners=None, factor=factor if w.factor is None else product(w.factor, factor)
                )
            )
        return Cotangent(out)

    def scaled(self, c: float | Tensor) -> Cotangent:
        """Multiply by a number or a vector over points."""
        if not isinstance(c, Tensor) and c == 1.0:
            return self
        return Cotangent([_scaled(w, c) for w in self.waves])

    def scatter(self, index: Tensor, size: int, moments: Moments) -> Cotangent:
        """Derivative with respect to the state that was gathered by ``index``."""
        identity = torch.arange(size, device=index.device)
        if index.numel() == size and torch.equal(index, identity):
            return self
        inside = index >= 0
        read = index[inside]
        if read.unique().numel() == read.numel() and not any(isinstance(w.squared, Banded) for w in self.waves):
            # no point is read twice: the waves stay functions of the same sources, with nothing where no point reads
            whole = read.numel() == size == index.numel()
            inverse = torch.full_like(identity, -1).scatter(0, read, inside.nonzero()[:, 0])
            waves = []
            for w in self.waves:
                squared = take(take(dense(w.squared), inverse, 0), inverse, 1)
                factor = None if w.factor is None else gather(w.factor, inverse)
                waves.append(replace(w, squared=squared, factor=factor, key=w.key if whole else next(_waves)))
            return Cotangent(waves)
        total = self.total(moments)
        if isinstance(total, Banded):
            spread_map(index, size, total.grid)
            return fresh(sum_by_sample(total))
        one_hot = total.new_zeros(size, index.numel())
        one_hot[read, torch.arange(index.numel(), device=index.device)[inside]] = 1.0
        return fresh(one_hot @ total @ one_hot.T)


def _meeting(one: Expr | None, two: Expr | None, moments: Moments) -> Tensor | float:
    """<f_p g_q> of the factors of two waves."""
    if one is not None and two is not None:
        return cross(moments, one, two)
    if one is not None:
        return moments.mean(one)[:, None]
    return 1.0 if two is None else moments.mean(two)[None, :]


def _scaled(wave: Wave, c: float | Tensor) -> Wave:
    # kept in the factor, so that two paths of one wave add up with their signs
    if wave.factor is None:
        ones = wave.squared.new_ones(wave.squared.shape[0])
        return replace(wave, factor=lin([], ones * c))
    return replace(wave, factor=lin([(c, wave.factor)]))


def fresh(
    squared: Kernel,
    error: float = 0.0,
    winners: Kernel | None = None,
    ties: tuple[tuple[Hashable, Tensor], ...] = (),
) -> Cotangent:
    """A cotangent that is one new backward source, independent but for its ties."""
    return Cotangent([Wave(next(_waves), squared, None, error, winners, ties)])


def collapse(cotangent: Cotangent, elsewhere: set[Hashable]) -> Cotangent:
    """Make one wave of those that no other path carries: they can never meet themselves again."""
    free = [
        w for w in cotangent.waves if w.factor is None and w.winners is None and not w.ties and w.key not in elsewhere
    ]
    if len(free) < 2:
        return cotangent
    merged = {w.key for w in free}
    rest = [w for w in cotangent.waves if w.key not in merged]
    total = free[0].squared
    for wave in free[1:]:
        total = total + wave.squared
    return Cotangent([*rest, Wave(next(_waves), total, None, Cotangent(free).error())])


def drawn_wave(values: Frozen) -> Cotangent:
    """A cotangent known by its draws."""
    ones = values.values.new_ones(values.size, values.size)
    return Cotangent([Wave(next(_waves), ones, values)])


def merge(cotangents: list[Cotangent]) -> Cotangent:
    """Sum of the derivatives along several paths; waves of one origin add as amplitudes, not as squares."""
    if len(cotangents) == 1:
        return cotangents[0]
    by_key: dict[Hashable, list[Wave]] = {}
    for cotangent in cotangents:
        for wave in cotangent.waves:
            by_key.setdefault(wave.key, []).append(wave)
    out = []
    for waves in by_key.values():
        if len(waves) == 1:
            out.append(waves[0])
            continue
        squared = waves[0].squared
        offset: Tensor | None = None
        terms: list[tuple[float | Tensor, Expr]] = []
        for wave in waves:
            if wave.factor is None:
                one = squared.new_ones(squared.shape[0])
                offset = one if offset is None else offset + one
            else:
                terms.append((1.0, wave.factor))
        out.append(replace(waves[0], factor=lin(terms, offset)))
    return Cotangent(out)
