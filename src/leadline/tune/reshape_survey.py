"""What the nonlinearities of a network do to correlations as they are, and which of them could be reshaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from leadline.activations import Activation, activation
from leadline.program import Program, Step
from leadline.tune.graph_places import Place, find_places_of
from leadline.tune.init_places import Places
from leadline.tune.reshape_paths import Worst, local_slope, planned_kernels

__all__ = ["Map", "Survey", "by_function", "natural_map", "survey"]

T = TypeVar("T")
Map = Callable[[float], float]


@dataclass(frozen=True)
class Survey:
    """The nonlinearities of a network.

    Attributes:
        places: of the network's steps.
        kernels: planned second moments by step.
        activations: by step.
        eligible: names of steps that could be reshaped.
        located: where a change of the graph would find them, or why it cannot.
        kept: step to why it stays as it is.
        worst: of the graph.
        slopes, maps: of every nonlinearity as it is, at a unit variance.
        before: of the worst path, slope at one and correlation that comes from none.
    """

    places: Places
    kernels: Mapping[str, float]
    activations: Mapping[str, Activation]
    eligible: tuple[str, ...]
    located: Mapping[str, Place | str]
    kept: Mapping[str, str]
    worst: Worst
    slopes: Mapping[str, float]
    maps: Mapping[str, Map]
    before: tuple[float, float]

    def where(self, name: str) -> str:
        """The submodule of a step."""
        return self.places.steps[name].layer or name

    def input_kernel(self, name: str) -> float:
        """Planned variance of what a step reads."""
        return next((self.kernels[n] for n in self.places.steps[name].inputs if n in self.kernels), 1.0)


def survey(program: Program, places: Places) -> Survey:
    """Look at every nonlinearity of a network.

    Args:
        program: of the network.
        places: of its steps.

    Returns:
        The survey.
    """
    kept: dict[str, str] = {}
    acts: dict[str, Activation] = {}
    for step in program.steps:
        if step.op == "pointwise" and step.fn is not None:
            try:
                acts[step.name] = activation(step.fn)
            except (ValueError, TypeError, RuntimeError) as error:
                kept[step.name] = str(error).splitlines()[0]
    kernels = planned_kernels(places)
    worst = Worst(places, kernels)
    slopes, maps = by_function(acts, local_slope), by_function(acts, natural_map)
    eligible = []
    for name, act in acts.items():
        why = _obstacle(places.steps[name], act, places)
        if why:
            kept[name] = why
        else:
            eligible.append(name)
    located = find_places_of(program, (s for s in program.steps if s.op == "pointwise" and s.fn is not None))
    return Survey(
        places, kernels, acts, tuple(eligible), located, kept, worst, slopes, maps,
        (worst.slope(slopes), worst.at_zero(maps)),
    )  # fmt: skip


def by_function(acts: Mapping[str, Activation], of: Callable[[Activation], T]) -> dict[str, T]:
    """A value of each activation, worked out once for all that are the same function.

    Args:
        acts: activations by name.
        of: what to work out.

    Returns:
        Values by name.
    """
    z = torch.linspace(-6.01, 6.03, 23, dtype=torch.float64)
    cache: dict[tuple[float, ...], T] = {}
    found = {}
    for name, act in acts.items():
        key = tuple(act.fn(z).tolist())
        if key not in cache:
            cache[key] = of(act)
        found[name] = cache[key]
    return found


def natural_map(act: Activation) -> Map:
    """Correlation map C(c) of an activation at a unit variance.

    Args:
        act: the activation.

    Returns:
        The map; its values are kept.
    """
    one = torch.tensor(1.0, dtype=torch.float64)
    second = float(act.second_moment(one))
    known: dict[float, float] = {}

    def correlation(c: float) -> float:
        c = min(1.0, max(-1.0, c))
        if c not in known:
            known[c] = float(act.dual(one, torch.tensor(c, dtype=torch.float64), one)) / second
        return known[c]

    return correlation


def _obstacle(step: Step, act: Activation, places: Places) -> str:
    """Why a nonlinearity is not to be reshaped at all; "" where it may be."""
    following = places.following(step)
    if step.name == places.output or not following:
        return "it makes the output, whose range would change"
    if any(f.op in ("mul", "div") for f in following):
        return "it is a gate, whose product with a signal no wrap can shape"
    if not _reaches_layer(step, places):
        return "no layer with weights reads it"
    if act.jumps:
        return f"{act.name} jumps, so that it has no slope at any scale"
    return ""


def _reaches_layer(step: Step, places: Places) -> bool:
    stack, seen = [step.name], set()
    while stack:
        for user in places.users.get(stack.pop(), ()):
            if user in seen:
                continue
            seen.add(user)
            if places.steps[user].weighted:
                return True
            stack.append(user)
    return False
