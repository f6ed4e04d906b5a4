"""Which nonlinearities are reshaped and with which constants, so that the graph's worst path keeps correlations apart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from leadline.activations import Activation
from leadline.program import Program
from leadline.tune.graph_places import Place
from leadline.tune.reshape_paths import local_slope, solve_ratio, solve_slope
from leadline.tune.reshape_solve import solve_folding, solve_leaky, solve_smooth
from leadline.tune.reshape_survey import Survey, by_function, natural_map
from leadline.tune.reshape_wrap import Wrap, wrapped

__all__ = ["ETA", "ZETA", "Design", "design_folding", "design_graph", "in_range", "reshaped_program"]

ZETA = 1.5  # Martens et al. (2021), section 8.2: slope of the network's correlation map at one
ETA = 0.9  # Zhang, Botev & Martens (2022), section 4: correlation that inputs of none come out with


@dataclass(frozen=True)
class Design:
    """Wraps of nonlinearities by step, and what was left as it is.

    Attributes:
        wraps: constants by step.
        kept: step to why it stays as it is.
        slope: psi of the smooth ones; None where there are none.
        ratio: of the slopes of leaky rectifiers; None where there are none.
        after: of the graph's worst path, slope at one and correlation that comes from none.
    """

    wraps: Mapping[str, Wrap] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    slope: float | None = None
    ratio: float | None = None
    after: tuple[float, float] = (1.0, 0.0)


def in_range(found: Survey) -> bool:
    """Whether correlations neither scatter nor collapse on the worst path, so that nothing is to be reshaped.

    Args:
        found: the survey of a network.

    Returns:
        Slope at most zeta times that of sums and products alone, and correlation from none at most eta.
    """
    return found.before[0] <= ZETA * found.worst.slope({}) and found.before[1] <= ETA


def design_graph(found: Survey) -> Design:
    """Constants for a network whose graph may change: Deep Kernel Shaping, and leaky rectifiers for two slopes.

    Args:
        found: the survey of the network.

    Returns:
        The design.

    Source: Martens et al. (2021), Deep Kernel Shaping; Zhang, Botev & Martens (2022), tailored rectifiers.
    """
    kept = {n: p for n, p in found.located.items() if isinstance(p, str)}
    names = [n for n in found.eligible if n not in kept]
    by_place: dict[Place, list[str]] = {}
    for name, place in found.located.items():
        if isinstance(place, Place):
            by_place.setdefault(place, []).append(name)
    while True:
        made = _solve(found, names, _full, kept)
        clash = {n for group in by_place.values() if len({made.wraps.get(n) for n in group}) > 1 for n in group}
        clash &= set(made.wraps)
        if not clash:
            return made
        kept |= dict.fromkeys(clash, "one module serves in places that need different constants")
        names = [n for n in names if n not in clash]


def design_folding(found: Survey, obstacle: Callable[[str, Wrap], str]) -> Design:
    """Constants without a shift of the output, for those nonlinearities whose wraps fold into the layers beside them.

    Args:
        found: the survey of the network.
        obstacle: from a step and its wrap to why that does not fold, "" where it does.

    Returns:
        The design; the others count as they are.
    """
    names, kept = list(found.eligible), {}
    for name in found.eligible:
        if _two_slopes(found.activations[name]):
            kept[name] = "no weight can add a share of its input behind it"
    while True:
        made = _solve(found, [n for n in names if n not in kept], solve_folding, kept)
        blocked = {n: why for n, w in made.wraps.items() if (why := obstacle(n, w))}
        if not blocked:
            return made
        kept |= blocked


def _full(act: Activation, slope: float) -> Wrap | None:
    return solve_smooth(act, slope) or solve_folding(act, slope)


def _two_slopes(act: Activation) -> bool:
    return act.slopes is not None and act.slopes[0] != act.slopes[1]


def _solve(
    found: Survey, names: Collection[str], solver: Callable[[Activation, float], Wrap | None], kept: Mapping[str, str]
) -> Design:
    """Solve smooth nonlinearities for one slope and those of two slopes for one ratio, by their inputs' variances."""
    acts, kept = found.activations, dict(kept)
    leaky = [n for n in names if _two_slopes(acts[n])]
    smooth, psi = _smooth(found, [n for n in names if n not in leaky], solver, kept)
    stay = {n: m for n, m in found.maps.items() if n not in leaky and n not in smooth}
    ratio = solve_ratio(found.worst, leaky, stay, ETA) if leaky else None
    tailored = {n: w for n in leaky if ratio and (w := solve_leaky(acts[n], ratio)) is not None}
    kept |= dict.fromkeys(
        (n for n in leaky if n not in tailored),
        "correlations stay in range, or the rest of the path leaves none to give",
    )
    made = {**smooth, **tailored}
    shaped = {n: wrapped(acts[n], w) for n, w in made.items()}
    after = (
        found.worst.slope({**found.slopes, **by_function(shaped, local_slope)}),
        found.worst.at_zero({**found.maps, **by_function(shaped, natural_map)}),
    )
    wraps = {n: w.scaled(found.input_kernel(n)) for n, w in made.items()}
    return Design(wraps, kept, psi, ratio or None, after)


def _smooth(
    found: Survey, names: list[str], solver: Callable[[Activation, float], Wrap | None], kept: dict[str, str]
) -> tuple[dict[str, Wrap], float | None]:
    """Those that have no solution stay, and the others are solved anew."""
    while names:
        others = {n: s for n, s in found.slopes.items() if n not in names}
        psi = solve_slope(found.worst, names, others, ZETA)
        if psi is None or psi <= 1:
            kept |= dict.fromkeys(names, "no slope of it would bring the worst path to the target")
            break
        solved = by_function({n: found.activations[n] for n in names}, lambda act, psi=psi: solver(act, psi))  # type: ignore[misc]
        made = {n: w for n, w in solved.items() if w is not None}
        if len(made) == len(names):
            return made, psi
        for name in names:
            if name not in made:
                kept[name] = f"{found.activations[name].name} has no scale and shift that give the slope {psi:.5g}"
        names = [n for n in names if n in made]
    return {}, None


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
