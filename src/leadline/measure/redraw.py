"""Fresh draws of a network's weights: the same architecture under another seed, the user's model untouched.

The way of each tensor is decided once a model and is the same for every seed. Its module's own initializer
(transformers' `_init_weights`, `reset_parameters`) is taken where a trial shows that it draws the law of the
user's tensor; where it does not (an init written by hand, a scaled residual branch, a bare parameter) the
entries come from the law read from the tensor. Constants and tables are kept, and so are buffers. Trained
tensors are drawn as Gaussians of the same second moment: that is the law of which predictions speak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from leadline.measure.derived import find_derived
from leadline.measure.reinitialize import isolated_randomness, private_copy, reinitialize
from leadline.program.law_draw import draw_law
from leadline.program.law_structure import zero_rows
from leadline.program.laws import Law, read_law, tied_parameters

__all__ = ["RedrawReport", "Redrawer", "Route", "redraw", "redraw_many"]

_TRIAL_SEED = 20210611
_KURTOSIS = {"uniform": 1.8, "orthogonal": 1.0, "delta_orthogonal": 1.0}
_STANDARD_ERRORS = 3.0  # a false alarm only means that the law read from the tensor is drawn instead


@dataclass(frozen=True)
class Route:
    """How one tensor is drawn anew.

    Args:
        way: "initializer", "law", "kept", "derived" (computed from other drawn tensors) or "tied".
        reason: one short sentence.
    """

    way: str
    reason: str


@dataclass(frozen=True)
class RedrawReport:
    """Which way each tensor goes, by qualified name; and the initializers that raised.

    Args:
        routes: parameters and buffers.
        failed: message by name of the module.
    """

    routes: dict[str, Route]
    failed: dict[str, str] = field(default_factory=dict)

    def count(self) -> dict[str, int]:
        """Number of tensors by way.

        Returns:
            Only the ways that occur.
        """
        ways = [route.way for route in self.routes.values()]
        return {way: ways.count(way) for way in dict.fromkeys(ways)}


class Redrawer:
    """Draws new states of one model on a single private copy.

    Args:
        model: any module with real values; it is only read, and must not change while this object is in use.
        laws: laws by parameter name, where they are known already or stated by the user; a stated law is
            always drawn from. The others are read from the weights.

    Raises:
        ValueError: the model cannot be copied, is on the meta device or has uninitialized (lazy) parameters.
    """

    def __init__(self, model: nn.Module, *, laws: Mapping[str, Law] | None = None) -> None:
        for name, parameter in model.named_parameters():
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise ValueError(f"parameter {name!r} is not initialized: run the model once on a batch.")
            if parameter.device.type == "meta":
                raise ValueError(f"parameter {name!r} is on the meta device: build the model with real weights.")
        self._ties = tied_parameters(model)
        self._parameters = {name: p.detach() for name, p in model.named_parameters()}
        self._buffers = {name: b.detach() for name, b in model.named_buffers(remove_duplicate=False)}
        self._devices = {t.device for t in (*self._parameters.values(), *self._buffers.values())}
        known = {self._ties.get(name, name): law for name, law in (laws or {}).items()}
        self._laws = {
            name: known[name] if name in known else read_law(value, fan_in=1, name=name)
            for name, value in self._parameters.items()
        }
        self._zeros = {name: zero_rows(value) for name, value in self._parameters.items()}
        with isolated_randomness(_TRIAL_SEED, self._devices):
            self._twin = private_copy(model)
            self._derived = find_derived(self._twin, self._laws)
            failed = reinitialize(self._twin)
        self._routes = self._plan()
        routes = {
            name: Route("tied", f"it is {first}") if name != first else self._routes[name]
            for name, first in self._ties.items()
        }
        routes |= {name: Route("kept", "buffers are no random draw") for name in self._buffers}
        routes |= {name: Route("derived", d.reason) for d in self._derived for name in d.names}
        self.report = RedrawReport(routes, failed)

    def _plan(self) -> dict[str, Route]:
        trial = dict(self._twin.named_parameters())
        return {name: _route(self._laws[name], value, trial[name].detach()) for name, value in self._parameters.items()}

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Draw one state.

        Args:
            seed: the same seed gives the same state, whatever was drawn before.

        Returns:
            Every parameter and buffer by qualified name, tied names included (they share one tensor).
        """
        twin = dict(self._twin.named_parameters())
        buffers = dict(self._twin.named_buffers(remove_duplicate=False))
        with isolated_randomness(seed, self._devices), torch.no_grad():
            for name, value in self._parameters.items():
                twin[name].copy_(value)
            for name, value in self._buffers.items():
                buffers[name].copy_(value)
            reinitialize(self._twin)
            new: dict[str, Tensor] = {}
            for name, value in self._parameters.items():
                way = self._routes[name].way
                if way == "initializer":
                    new[name] = twin[name].detach().clone()
                elif way == "law":
                    new[name] = draw_law(self._laws[name], value)
                else:
                    new[name] = value.clone()
                if way != "kept" and self._zeros[name].numel():
                    new[name][self._zeros[name]] = 0
            new |= {name: value.clone() for name, value in self._buffers.items()}
            for derived in self._derived:
                derived.update(self._twin, new)
        return {name: new[self._ties.get(name, name)] for name in (*self._ties, *self._buffers)}

    def draw_many(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Draw one state a seed, stacked on a leading axis.

        Args:
            seeds: one or more seeds.

        Returns:
            As :meth:`draw`, each tensor of shape (len(seeds), ...); tied names share one stack.

        Raises:
            ValueError: there is no seed.
        """
        if len(seeds) == 0:
            raise ValueError("got no seed: give at least one.")
        stacks: dict[str, Tensor] = {}
        for index, seed in enumerate(seeds):
            for name, value in self.draw(seed).items():
                if self._ties.get(name, name) != name:
                    continue
                if index == 0:
                    stacks[name] = value.new_empty((len(seeds), *value.shape))
                stacks[name][index] = value
        return {name: stacks[self._ties.get(name, name)] for name in (*self._ties, *self._buffers)}


def redraw(model: nn.Module, seed: int, *, laws: Mapping[str, Law] | None = None) -> dict[str, Tensor]:
    """Draw the weights of a model anew. The model itself is only read.

    For `torch.func.functional_call(model, state, x)`; where weights are tied and the state is batched by
    `torch.func.vmap`, pass it `tie_weights=False`, since vmap hands one tensor over under each of its names.

    Args:
        model: any module with real values.
        seed: integer from 0 to 2^63 - 1.
        laws: see :class:`Redrawer`, which also reports how each tensor is drawn.

    Returns:
        Every parameter and buffer by qualified name, tied names included.
    """
    return Redrawer(model, laws=laws).draw(seed)


def redraw_many(model: nn.Module, seeds: Sequence[int], *, laws: Mapping[str, Law] | None = None) -> dict[str, Tensor]:
    """Draw several states, stacked on a leading axis, with one copy of the model.

    Args:
        model: any module with real values.
        seeds: one or more seeds; the i-th slice equals `redraw(model, seeds[i])`.
        laws: see :class:`Redrawer`.

    Returns:
        Every parameter and buffer by qualified name, each of shape (len(seeds), ...).
    """
    return Redrawer(model, laws=laws).draw_many(seeds)


def _route(law: Law, old: Tensor, new: Tensor) -> Route:
    """Decide how a tensor is drawn, from its law and one trial of its module's initializer."""
    if law.stated:
        return Route("law", "the law was stated")
    if not (law.random or law.trained):
        return Route("kept", law.reason or "it is constant")
    if law.trained:
        return Route("law", "no init law explains it: a Gaussian of its second moment")
    untouched = torch.equal(old, new)
    if old.numel() == 1:
        way = "kept" if untouched else "initializer"
        return Route(way, "one entry tells no law")
    if untouched:
        return Route("law", "no initializer of its module draws it")
    difference = _difference(law, read_law(new, fan_in=1), old.numel())
    if difference:
        return Route("law", difference)
    return Route("initializer", "it draws the law of the tensor")


def _difference(law: Law, trial: Law, count: int) -> str:
    """Why a trial of an initializer has another law; "" where sampling error explains the difference."""
    if trial.second_moment == 0:
        return "its module's initializer sets it to zero"
    variance = sum(_KURTOSIS.get(one.kind, 3.0) - 1 for one in (law, trial)) / count
    ratio = trial.second_moment / law.second_moment
    if abs(math.log(ratio)) > _STANDARD_ERRORS * math.sqrt(variance) + 1e-3:
        return f"its module's initializer draws {ratio:.3g} times its second moment"
    spread = math.sqrt((law.std**2 + trial.std**2) / count)
    if abs(law.mean - trial.mean) > (_STANDARD_ERRORS + 1) * spread:
        return f"its module's initializer draws with mean {trial.mean:.3g}, not {law.mean:.3g}"
    # Small samples leave the shape open; a Gaussian cut at two deviations is told from a whole one late.
    light = {law.kind, trial.kind} <= {"gaussian", "truncated"}
    if law.kind != trial.kind and count >= (4096 if light else 256):
        return f"its module's initializer draws a {trial.kind} law, not a {law.kind} one"
    return ""
