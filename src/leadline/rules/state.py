"""What a step hands on: forward a state, backward a cotangent."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leadline.program.axes import Axis
from leadline.program.laws import Law
from leadline.rules.expr import Expr, Frozen, gather, lin, product
from leadline.rules.moments import Moments, take

__all__ = ["Cotangent", "Fixed", "Noise", "State", "Wave", "Weight"]

_waves = itertools.count()


@dataclass(frozen=True)
class Noise:
    """First-order seed-to-seed fluctuation of a layer's scale.

    ``parts``: independent unit noises -> response of the second moment at each point (P,). ``sampled``: whether the
    layer's own finite sample of channels is in it (it is for a function of a source, not for the source itself, whose
    scale is that of its law given the layers before). ``pinned``: a norm has fixed the sample's scale exactly.
    """

    parts: Mapping[Hashable, Tensor]
    sampled: bool
    pinned: bool = False

    def variance(self) -> Tensor | None:
        """Variance of the second moment at each point (P,)."""
        values = list(self.parts.values())
        return torch.stack([v.square() for v in values]).sum(0) if values else None


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
    """

    key: Hashable
    squared: Tensor
    factor: Expr | None = None


@dataclass
class Cotangent:
    """Derivative of the output with respect to a state, summed over its channels: a sum of independent waves."""

    waves: list[Wave] = field(default_factory=list)

    def total(self, moments: Moments) -> Tensor:
        """Squared derivative summed over channels, shape (P, P)."""
        parts = [w.squared if w.factor is None else w.squared * moments.second(w.factor) for w in self.waves]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def times(self, factor: Expr) -> Cotangent:
        """Multiply by a function of forward sources (the slope of an elementwise step)."""
        return Cotangent([Wave(w.key, w.squared, factor if w.factor is None else product(w.factor, factor)) for w in self.waves])

    def scaled(self, c: float | Tensor, size: int) -> Cotangent:
        """Multiply by a number or a vector over points."""
        if not isinstance(c, Tensor):
            return Cotangent([Wave(w.key, w.squared, w.factor) if c == 1.0 else _scaled(w, c) for w in self.waves])
        return Cotangent([_scaled(w, c) for w in self.waves])

    def scatter(self, index: Tensor, size: int, moments: Moments) -> Cotangent:
        """Derivative with respect to the state that was gathered by ``index``."""
        identity = torch.arange(size, device=index.device)
        if index.numel() == size and torch.equal(index, identity):
            return self
        if index.numel() == size and bool((index.sort().values == identity).all()):
            inverse = torch.argsort(index)
            waves = []
            for w in self.waves:
                squared = take(take(w.squared, inverse, 0), inverse, 1)
                waves.append(Wave(w.key, squared, None if w.factor is None else gather(w.factor, inverse)))
            return Cotangent(waves)
        total = self.total(moments)
        one_hot = total.new_zeros(size, index.numel())
        inside = index >= 0
        one_hot[index[inside], torch.arange(index.numel(), device=index.device)[inside]] = 1.0
        return fresh(one_hot @ total @ one_hot.T)


def _scaled(wave: Wave, c: float | Tensor) -> Wave:
    # kept in the factor, so that two paths of one wave add up with their signs
    if wave.factor is None:
        ones = wave.squared.new_ones(wave.squared.shape[0])
        return Wave(wave.key, wave.squared, lin([], ones * c))
    return Wave(wave.key, wave.squared, lin([(c, wave.factor)]))


def fresh(squared: Tensor) -> Cotangent:
    """A cotangent that is one new independent backward source."""
    return Cotangent([Wave(next(_waves), squared)])


def collapse(cotangent: Cotangent, elsewhere: set[Hashable]) -> Cotangent:
    """Make one wave of those that no other path carries: they can never meet themselves again."""
    free = [w for w in cotangent.waves if w.factor is None and w.key not in elsewhere]
    if len(free) < 2:
        return cotangent
    rest = [w for w in cotangent.waves if w.factor is not None or w.key in elsewhere]
    total = free[0].squared
    for wave in free[1:]:
        total = total + wave.squared
    return Cotangent([*rest, Wave(next(_waves), total)])


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
    for key, waves in by_key.items():
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
        out.append(Wave(key, squared, lin(terms, offset)))
    return Cotangent(out)
