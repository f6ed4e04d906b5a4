"""A parametrization in a recipe: laws, rates and reasons for one network, counted against a small one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from leadline.check import Report
from leadline.program import ExportFailure, Law, Program, tied_parameters, trace
from leadline.program.errors import UserError, plain
from leadline.tune.init_design import words
from leadline.tune.init_places import Places, find_places
from leadline.tune.param_abc import Parametrization, parametrization
from leadline.tune.param_plan import Factors, Plan, plan_factors, scaled_groups
from leadline.tune.param_request import Request, Traced
from leadline.tune.recipe import Decision, ParameterLaw, Recipe
from leadline.tune.recipe_apply import unwrap

__all__ = ["Scaling", "plan_scaling", "traced_base"]

_SIGMAS = 4.0
_ORTHOGONAL = ("orthogonal", "delta_orthogonal")


@dataclass(frozen=True)
class Scaling:
    """A parametrization planned for a network.

    Attributes:
        chosen: the parametrization.
        plan: factors of every parameter.
        program: of the network.
        base: Program of the small network, or the width that is counted against.
        rates: learning rate of each parameter's counterpart, where it is known.
        size: of the base, in words.
    """

    chosen: Parametrization
    plan: Plan
    program: Program
    base: Program | int
    rates: Mapping[str, float]
    size: str

    @property
    def inherits(self) -> bool:
        """Whether the laws of the weights come from a small network."""
        return not isinstance(self.base, int)

    def onto(
        self,
        recipe: Recipe,
        model: nn.Module,
        checked: Callable[[nn.Module], Report] | None = None,
        facts: Callable[[Report], dict[str, Any]] | None = None,
    ) -> Recipe:
        """Put laws, groups and reasons into a recipe, and check the network under it.

        Args:
            recipe: with the laws that are planned already, if any.
            model: the network.
            checked: checks a network; None: it is not checked.
            facts: a report in plain numbers.

        Returns:
            The recipe.
        """
        laws, decisions = self._laws(recipe)
        groups = scaled_groups(self.plan, self.chosen.optimizer, self.rates)
        said = {
            "name": self.chosen.name, "optimizer": self.chosen.optimizer, "base": self.size,
            "folded": {n: f.folded for n, f in self.plan.factors.items() if f.folded != 1},
        }  # fmt: skip
        changed = recipe.replace(
            laws={**recipe.laws, **laws},
            groups=groups,
            decisions=(
                *(d for d in recipe.decisions if d.layer not in laws or not d.after), *decisions, *self._rates(recipe, groups),
                *self.plan.decisions, *self._first_step(),
            ),
            summary={**recipe.summary, "parametrization": said},
        )  # fmt: skip
        if not laws or checked is None or facts is None:
            return changed
        twin = copy.deepcopy(model)
        changed.apply(twin, redraw=list(changed.laws))
        return changed.replace(summary={**changed.summary, "after": facts(checked(twin))})

    def _laws(self, recipe: Recipe) -> tuple[dict[str, ParameterLaw], list[Decision]]:
        laws: dict[str, ParameterLaw] = {}
        decisions: list[Decision] = []
        names = tied_parameters(self.program.model)
        tied = {n for n in names.values() if list(names.values()).count(n) > 1}
        for name, factors in self.plan.factors.items():
            old = self.program.laws.get(name)
            if old is None:
                continue
            planned = recipe.laws.get(name)
            source = planned or (old if isinstance(self.base, int) else self.base.laws.get(factors.grown.base))
            law = _wanted(source, factors, old) if source is not None else None
            if law is None or (planned is None and self._alike(name, law, old, factors)):
                continue
            obstacle = self._kept(name, old, tied)
            if obstacle:
                said = f"it stays as it is, since it is {obstacle}, where '{self.chosen.name}' would draw it with {words(law)}."
                decisions.append(Decision("advice", name, "", "", said, self.chosen.source))
                continue
            laws[name] = law
            why = "; ".join(factors.why) or f"as large as its counterpart '{factors.grown.base}'"
            decisions.append(
                Decision("weights", name, words(planned or old), words(law), why, self.chosen.source)
            )  # fmt: skip
        return laws, decisions

    def _alike(self, name: str, law: ParameterLaw, old: Law, factors: Factors) -> bool:
        """Whether a parameter is of the wanted size already, to what its entries and its counterpart's tell."""
        if law.kind == "constant":
            return old.kind == "constant" and math.isclose(old.mean, law.mean)
        if factors.grown.role == "vector":
            return False  # too few entries to tell by
        if law.kind in _ORTHOGONAL and old.kind != law.kind:
            return False
        size, wanted = math.sqrt(old.second_moment), math.hypot(law.std, law.mean)
        count = 1 / self.program.exported.state[name].numel()
        if not isinstance(self.base, int):
            count += 1 / self.base.exported.state[factors.grown.base].numel()
        return bool(abs(size / wanted - 1) <= _SIGMAS * math.sqrt(count / 2))

    def _kept(self, name: str, old: Law, tied: set[str]) -> str:
        if name in tied:
            return "tied"
        if not self.program.exported.state[name].requires_grad:
            return "frozen"
        if old.trained:
            return "trained"
        return "of no single init law" if old.kind == "structured" else ""

    def _rates(self, recipe: Recipe, groups: tuple[Any, ...]) -> list[Decision]:
        found: list[Decision] = []
        for group in groups:
            if group.lr_factor == 1:
                continue
            g = self.plan.factors[group.parameters[0]].grown
            fans = " and ".join(
                f"{what} {ratio:.4g}" for what, ratio in (("fan-in", g.fan_in), ("fan-out", g.fan_out)) if ratio != 1
            )
            why = f"{self.chosen.name} for {self.chosen.optimizer}: {fans or 'the same fans'}, as ratios to {self.size}"
            why += f"; {self.chosen.why}" if not found else ""
            after = f"{group.lr_factor:.4g} times the base rate" if group.lr is None else f"{group.lr:.4g}"
            before = "the base rate" if group.lr is None else f"{group.lr / group.lr_factor:.4g}"
            found.append(Decision("learning rate", group.name, before, after, why, self.chosen.source))
        return found

    def _first_step(self) -> list[Decision]:
        if not self.chosen.first:
            return []
        powers = ", ".join(f"{-c:g}" for c in self.chosen.folded().first)
        said = (
            "its first step needs learning rates of its own, larger than the others by powers of the width (input, hidden, "
            f"output: n to the {powers}): take it with leadline.tune.first_step before training."
        )
        return [Decision("advice", "", "", "", said, self.chosen.source)]


def _wanted(source: Law | ParameterLaw, factors: Factors, old: Law) -> ParameterLaw | None:
    """The law that a parameter should have; None where nothing is asked of it."""
    if source.kind == "constant":
        if factors.grown.role != "vector" or factors.std == 1 or source.mean == 0:
            return None
        return ParameterLaw("constant", 0.0, factors.std * source.mean, old.fan_in)
    if factors.grown.role == "vector" and factors.std == 1:
        return None  # what a bias or gain starts with fades beside what it learns
    if source.std == 0 or (isinstance(source, Law) and (source.trained or source.kind == "structured")):
        return None
    kind = source.kind if source.kind in _ORTHOGONAL else "gaussian"
    return ParameterLaw(kind, factors.std * source.std, factors.std * source.mean, old.fan_in)


def plan_scaling(request: Request, program: Program | None, places: Places | None) -> Scaling:
    """Plan the parametrization that is asked for.

    Args:
        request: what is asked for.
        program: of the network, None where it has no graph.
        places: of its steps.

    Returns:
        The plan.

    Raises:
        UserError: there is no graph, or the base does not fit; the message says what.
    """
    if program is None or places is None:
        raise UserError(
            "the network cannot be written as a graph, which a parametrization needs: see what the check says."
        )
    name, base = request.name, request.base
    small = traced_base(base, program.args, program.kwargs) if isinstance(base, nn.Module) else base
    size = f"a width of {base}" if isinstance(base, int) else "the base network"
    if name is None:
        deeper = not isinstance(small, int) and len(places.branches) != len(small[1].branches)
        name = "depth_mup" if deeper else "mup"
    layers = sum(s.op in ("linear", "conv", "conv_transpose") and s.name in places.spine for s in places.weighted)
    chosen = parametrization(name, request.optimizer, max(layers - 1, 1))
    plan = plan_factors(chosen, program, places, small)
    rates = _base_rates(plan, request.base_lr)
    return Scaling(chosen, plan, program, small if isinstance(small, int) else small[0], rates, size)


def traced_base(base: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Traced:
    """Read a base network.

    Args:
        base: the module.
        args: positional call arguments.
        kwargs: keyword call arguments.

    Returns:
        Its Program, and the places of its steps.

    Raises:
        UserError: it cannot be written as a graph on these arguments.
    """
    try:
        program = trace(unwrap(base), args=args, kwargs=kwargs)
    except ExportFailure as error:
        raise UserError(
            f"the base network cannot be written as a graph on this batch ({plain(error, 200)}): pass one of the same inputs."
        ) from error
    return program, find_places(program)


def _base_rates(plan: Plan, base_lr: float | Recipe | None) -> dict[str, float]:
    if base_lr is None:
        return {}
    if not isinstance(base_lr, Recipe):
        return dict.fromkeys(plan.factors, float(base_lr))
    known = {n: group.lr for group in base_lr.groups for n in group.parameters if group.lr is not None}
    lacking = next((f.grown.base for f in plan.factors.values() if f.grown.base not in known), None)
    if lacking is not None:
        raise UserError(
            f"the base's recipe has no learning rate for '{plain(lacking)}', expected one for every parameter: pass the rate "
            "itself as base_lr."
        )
    return {n: known[f.grown.base] for n, f in plan.factors.items()}
