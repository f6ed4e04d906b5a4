"""Which nonlinearities are reshaped, with which constants, in the graph and where all folds into weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch

from leadline.activations import Activation, activation
from leadline.program import Program, Step
from leadline.tune.graph_places import Place, find_place
from leadline.tune.init_places import Places
from leadline.tune.reshape_paths import Worst, local_slope, planned_kernels, solve_ratio, solve_slope
from leadline.tune.reshape_solve import solve_folding, solve_leaky, solve_smooth
from leadline.tune.reshape_wrap import Wrap, wrapped

__all__ = ["ETA", "ZETA", "Design", "design", "reshaped_program"]

T = TypeVar("T")

ZETA = 1.5  # Martens et al. (2021), section 8.2: slope of the network's correlation map at one
ETA = 0.9  # Zhang, Botev & Martens (2022), section 4: correlation that inputs of none come out with


@dataclass(frozen=True)
class Design:
    """Wraps of nonlinearities, and what was left as it is.

    Attributes:
        graph: constants by step, for a network whose graph may change.
        places: of these steps in the module tree.
        folding: constants by step without a shift of the output; only these can fold.
        activations: the nonlinearities, by step.
        kept: name of a step's layer to why it stays as it is.
        slope: psi of the smooth ones; None where there are none.
        ratio: of the slopes of leaky rectifiers; None where there are none.
        before, after: of the graph's worst path, slope at one and correlation at zero.
    """

    graph: Mapping[str, Wrap] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    folding: Mapping[str, Wrap] = field(default_factory=dict)
    activations: Mapping[str, Activation] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    slope: float | None = None
    ratio: float | None = None
    before: tuple[float, float] = (1.0, 0.0)
    after: tuple[float, float] = (1.0, 0.0)


def design(program: Program, places: Places) -> Design:
    r"""Solve the constants of every nonlinearity on the graph's worst path.

    Nothing is reshaped where correlations neither scatter nor collapse already: a slope of at most zeta times what sums
    and products alone have, and a correlation of at most eta.

    Args:
        program: of the network.
        places: of its steps.

    Returns:
        The design.

    Source: Martens et al. (2021), Deep Kernel Shaping; Zhang, Botev & Martens (2022), tailored rectifiers.
    """
    kept: dict[str, str] = {}
    acts: dict[str, Activation] = {}
    for step in program.steps:
        if step.op == "pointwise" and step.fn is not None:
            try:
                acts[step.name] = activation(step.fn)
            except (ValueError, TypeError, RuntimeError) as error:
                kept[step.layer or step.name] = str(error).splitlines()[0]
    kernels = planned_kernels(places)
    worst = Worst(places, kernels)
    slopes, maps = _by_name(acts, local_slope), _by_name(acts, _natural_map)
    before = worst.slope(slopes), worst.at_zero(maps)
    if before[0] <= ZETA * worst.slope({}) and before[1] <= ETA:
        return Design(activations=acts, before=before, after=before, kept=kept)
    chosen = {n: a for n, a in acts.items() if _eligible(places.steps[n], places, kept)}
    leaky = [n for n, a in chosen.items() if a.slopes is not None and a.slopes[0] != a.slopes[1]]
    smooth = [n for n in chosen if n not in leaky]
    graph: dict[str, Wrap] = {}
    folding: dict[str, Wrap] = {}
    psi = _smooth(smooth, chosen, worst, slopes, graph, folding, kept, places)
    stay = {n: f for n, f in maps.items() if n not in leaky and n not in graph}
    ratio = solve_ratio(worst, leaky, stay, ETA) if leaky else None
    for name in leaky:
        wrap = solve_leaky(chosen[name], ratio) if ratio else None
        if wrap is None:
            kept[_where(places, name)] = "its correlations stay in range, or those of the rest leave none to give"
        else:
            graph[name] = wrap
    located = {n: find_place(program, places.steps[n]) for n in graph}
    graph = {n: w.scaled(_input_kernel(places.steps[n], kernels)) for n, w in graph.items()}
    folding = {n: w.scaled(_input_kernel(places.steps[n], kernels)) for n, w in folding.items()}
    made = {n: wrapped(chosen[n], w) for n, w in graph.items()}
    after = (
        worst.slope({**slopes, **_by_name(made, local_slope)}),
        worst.at_zero({**maps, **_by_name(made, _natural_map)}),
    )
    return Design(
        graph=_alike(graph, located, kept, places, acts, program),
        places={n: p for n, p in located.items() if isinstance(p, Place)},
        folding=folding, activations=acts, kept=kept, slope=psi, ratio=ratio or None, before=before, after=after,
    )  # fmt: skip


def _smooth(
    names: list[str],
    chosen: Mapping[str, Activation],
    worst: Worst,
    slopes: Mapping[str, float],
    graph: dict[str, Wrap],
    folding: dict[str, Wrap],
    kept: dict[str, str],
    places: Places,
) -> float | None:
    """Solve the smooth ones for one slope; those that have no solution stay, and the others are solved anew."""
    left = [n for n in names if not chosen[n].jumps]
    for name in set(names) - set(left):
        kept[_where(places, name)] = f"{chosen[name].name} jumps, so that no scale of it has a slope"
    while left:
        others = {n: s for n, s in slopes.items() if n not in left}
        psi = solve_slope(worst, left, others, ZETA)
        if psi is None or psi <= 1:
            for name in left:
                kept[_where(places, name)] = "no slope of it would bring the worst path to the target"
            return None
        found = _by_name({n: chosen[n] for n in left}, partial(_both, slope=psi))
        failed = [n for n in left if found[n] == (None, None)]
        if not failed:
            for name in left:
                full, folds = found[name]
                if (best := full or folds) is not None:
                    graph[name] = best
                if folds is not None:
                    folding[name] = folds
            return psi
        for name in failed:
            kept[_where(places, name)] = f"{chosen[name].name} has no scale and shift of the slope {psi:.5g}"
        left = [n for n in left if n not in failed]
    return None


def _both(act: Activation, slope: float) -> tuple[Wrap | None, Wrap | None]:
    return solve_smooth(act, slope), solve_folding(act, slope)


def _by_name(acts: Mapping[str, Activation], of: Callable[[Activation], T]) -> dict[str, T]:
    """A value of each activation, worked out once for each that is the same function."""
    z = torch.linspace(-6.01, 6.03, 23, dtype=torch.float64)
    cache: dict[tuple[float, ...], T] = {}
    found = {}
    for name, act in acts.items():
        key = tuple(act.fn(z).tolist())
        if key not in cache:
            cache[key] = of(act)
        found[name] = cache[key]
    return found


def _natural_map(act: Activation) -> Callable[[float], float]:
    """C(c) of an activation at unit variance."""
    second = float(act.second_moment(torch.tensor(1.0, dtype=torch.float64)))
    one = torch.tensor(1.0, dtype=torch.float64)
    known: dict[float, float] = {}

    def correlation(c: float) -> float:
        c = min(1.0, max(-1.0, c))
        if c not in known:
            known[c] = float(act.dual(one, torch.tensor(c, dtype=torch.float64), one)) / second
        return known[c]

    return correlation


def _eligible(step: Step, places: Places, kept: dict[str, str]) -> bool:
    following = places.following(step)
    where = step.layer or step.name
    if step.name == places.output or not following:
        kept[where] = "it makes the output, whose range would change"
    elif any(f.op in ("mul", "div") for f in following):
        kept[where] = "it is a gate, whose product with a signal no wrap can shape"
    elif not _reaches_layer(step, places):
        kept[where] = "no layer with weights reads it"
    else:
        return True
    return False


def _reaches_layer(step: Step, places: Places) -> bool:
    stack, seen = [step.name], set()
    while stack:
        name = stack.pop()
        for user in places.users.get(name, ()):
            if user in seen:
                continue
            seen.add(user)
            if places.steps[user].weighted:
                return True
            stack.append(user)
    return False


def _input_kernel(step: Step, kernels: Mapping[str, float]) -> float:
    return next((kernels[n] for n in step.inputs if n in kernels), 1.0)


def _where(places: Places, name: str) -> str:
    return places.steps[name].layer or name


def _alike(
    graph: dict[str, Wrap],
    located: Mapping[str, Place | str],
    kept: dict[str, str],
    places: Places,
    acts: Mapping[str, Activation],
    program: Program,
) -> dict[str, Wrap]:
    """Leave out steps without a place, and places that would need several sets of constants."""
    reasons = {n: p for n, p in located.items() if isinstance(p, str)}
    for place in {p for p in located.values() if isinstance(p, Place)}:
        here = [n for n, p in located.items() if p == place]
        shared = [s.name for s in program.steps if s.op == "pointwise" and not place.call and s.layer == place.module]
        if len({graph[n] for n in here}) > 1 or any(n not in graph for n in shared):
            reasons |= dict.fromkeys(here, "one module serves in places that need different constants")
    for name, why in reasons.items():
        kept[_where(places, name)] = why
    return {n: w for n, w in graph.items() if n not in reasons and n in acts}


def reshaped_program(program: Program, wraps: Mapping[str, Wrap], acts: Mapping[str, Activation]) -> Program:
    """A Program whose steps have their nonlinearity in a wrap; predictions see it, its graph does not.

    Args:
        program: of the network.
        wraps: constants by step.
        acts: nonlinearities by step.

    Returns:
        The Program under the same laws.
    """
    steps = tuple(replace(s, fn=wrapped(acts[s.name], wraps[s.name])) if s.name in wraps else s for s in program.steps)
    return replace(program, steps=steps)
