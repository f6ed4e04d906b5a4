"""Reshaped activations in a recipe: designed on the traced graph, folded where that is exact, checked with the graph changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from leadline.check import Report
from leadline.measure import measure
from leadline.program import Program, tied_parameters
from leadline.program.errors import plain
from leadline.theory import Prediction, predict
from leadline.tune.graph_places import Place
from leadline.tune.init_choose import verdict_counts
from leadline.tune.init_correct import correct, layer_rows
from leadline.tune.init_design import Plan
from leadline.tune.init_places import Places, find_places
from leadline.tune.recipe import Decision, Recipe, Reshape
from leadline.tune.reshape_design import ETA, ZETA, Design, design_graph, in_range
from leadline.tune.reshape_laws import Folded, folding_plan, shaped_plan
from leadline.tune.reshape_survey import survey
from leadline.tune.reshape_wrap import Wrap

__all__ = ["Reshaping", "no_graph", "plan_reshaping"]

_DKS = (
    "Martens et al. (2021), Rapid training of deep neural networks without skip connections … using Deep Kernel Shaping"
)
_TAT = "Zhang, Botev & Martens (2022), Deep learning without shortcuts: shaping the kernel with tailored rectifiers"


class Reshaping:
    """What is known of the reshaped network before anything is measured.

    Args:
        program: of the network.
        places: of its steps.
        base: prediction of the network as it is.
    """

    def __init__(self, program: Program, places: Places, base: Prediction) -> None:
        self.program, self.base = program, base
        self.survey = survey(program, places)
        self.shaped, self.folded = Design(), Folded(Plan("reshaped"), Design())
        if not in_range(self.survey):
            self.shaped, self.folded = design_graph(self.survey), folding_plan(program, base, self.survey)

    def weights(self) -> tuple[Plan, Prediction] | None:
        """The plan with what folds into weights, and its prediction; None where nothing folds."""
        plan = self.folded.plan
        return (plan, predict(plan.stated(self.program))) if self.folded.design.wraps else None

    def advice(self) -> tuple[Decision, ...]:
        """Why nonlinearities stay as they are."""
        slope, zero = self.survey.before
        if in_range(self.survey):
            why = (
                f"on the graph's worst path small differences grow by {slope:.4g} and inputs of correlation 0 come out at "
                f"{zero:.3f}, within {ZETA:g} and {ETA:g}: no activation is reshaped"
            )
            return (Decision("advice", "", "", "", why, f"{_DKS}; {_TAT}"),)
        untouched = dict(self.survey.kept)
        for name in self.survey.eligible:
            if name not in self.shaped.wraps:
                untouched[name] = self.shaped.kept.get(name, "it is not in the graph")
        folds = self.folded.design.wraps
        return tuple(
            Decision(
                "advice", self.survey.where(name), "", "",
                f"the activation is {'reshaped in weights alone' if name in folds else 'not reshaped'}: {why}",
            )
            for name, why in untouched.items()
        )  # fmt: skip

    def changes(self, recipe: Recipe) -> tuple[Decision, ...]:
        """One decision a nonlinearity that the recipe reshapes: its constants, and whether they fold."""
        folded, found = self.folded.design, []
        reshaped = {r.place for r in recipe.reshapes}
        for name, wrap in self.shaped.wraps.items():
            if self.survey.located[name] not in reshaped:
                continue
            act = self.survey.activations[name].name
            if name in folded.wraps and recipe.scales:
                how = f"without graph=True {formula(act, folded.wraps[name])} is folded into the layers beside it"
            else:
                how = f"needs graph=True: {folded.kept.get(name, 'folded, it left more errors')}"
            why, source = (self._why_leaky(), _TAT) if wrap.skip else (self._why_smooth(), _DKS)
            place = str(self.survey.located[name])
            found.append(Decision("activation", place, act, formula(act, wrap), f"{why}; {how}", source))
        return tuple(found)

    def _why_leaky(self) -> str:
        return (
            f"left over right slope {self.shaped.ratio:.5g}, so that on the worst path inputs of correlation 0 come out at "
            f"{self.shaped.after[1]:.3f}, not {self.survey.before[1]:.3f}"
        )

    def _why_smooth(self) -> str:
        (slope, zero), (slope_after, zero_after) = self.survey.before, self.shaped.after
        return (
            f"local slope {self.shaped.slope:.5g}, so that on the worst path small differences grow by {slope_after:.4g}, not "
            f"{slope:.4g}, and inputs of correlation 0 come out at {zero_after:.3f}, not {zero:.3f}"
        )

    def graph(
        self, recipe: Recipe, model: nn.Module, first: Report, draws: int, checked: Callable[[nn.Module], Report],
        facts: Callable[[Report], dict[str, Any]],
    ) -> Recipe:  # fmt: skip
        """Add what ``graph=True`` applies to a recipe, measured, corrected once and checked again.

        Args:
            recipe: of the weights.
            model: the network as it is.
            first: its report.
            draws: networks behind the measurement.
            checked: makes a report of a network.
            facts: a report in plain numbers.

        Returns:
            The recipe; without wraps where they would leave more errors than there were.
        """
        if not self.shaped.wraps:
            return recipe
        plan = shaped_plan(self.program, self.base, self.survey, self.shaped.wraps)
        names = tied_parameters(model)
        reshapes = self._reshapes()
        made = recipe.replace(reshapes=reshapes, graph_laws={names[n]: law for n, law in plan.laws.items()})
        second = checked(made.apply(model, graph=True, redraw=list(made.graph_laws)))
        if verdict_counts(second.verdicts) > verdict_counts(first.verdicts):
            errors = verdict_counts(second.verdicts)[0]
            why = f"reshaping the graph was tried and left {errors} errors, so graph=True reshapes nothing"
            return recipe.replace(decisions=(*recipe.decisions, Decision("advice", "", "", "", why)))
        summary: dict[str, Any] = {"after": facts(second)}
        if second.program is not None and second.prediction is not None:
            twin_places = find_places(second.program)
            candidate = plan.stated(second.program)
            prediction = predict(candidate)
            found = measure(second.program.model, program=candidate, draws=draws, seed=recipe.seed)
            corrected = correct(plan, candidate, twin_places, prediction, found)
            summary["layers"] = layer_rows(twin_places, prediction.rows, found.rows)
            if corrected is not plan:
                plan = corrected
                made = made.replace(graph_laws={names[n]: law for n, law in plan.laws.items()})
                summary["after"] = facts(checked(made.apply(model, graph=True, redraw=list(made.graph_laws))))
        listed = tuple(
            replace(d, what=f"graph: {d.what}", layer=names[d.layer])
            for d in plan.decisions
            if recipe.laws.get(names[d.layer]) != plan.laws.get(d.layer)
        )
        return made.replace(decisions=(*made.decisions, *listed), summary={**made.summary, "graph": summary})

    def _reshapes(self) -> tuple[Reshape, ...]:
        """One a place, which several steps may share."""
        found: dict[Place, Reshape] = {}
        for name, wrap in self.shaped.wraps.items():
            place = self.survey.located[name]
            if isinstance(place, Place):
                found.setdefault(place, Reshape(place, self.survey.activations[name].name, wrap))
        return tuple(found.values())


def formula(name: str, wrap: Wrap) -> str:
    """A wrapped activation, written out."""
    inside = "x" if wrap.a == 1 else f"{wrap.a:.5g} x"
    if wrap.b:
        inside += f" {'-' if wrap.b < 0 else '+'} {abs(wrap.b):.5g}"
    outside = f"{name}({inside})"
    if wrap.d:
        outside += f" {'-' if wrap.d < 0 else '+'} {abs(wrap.d):.5g}"
    if wrap.skip:
        outside += f" + {wrap.skip:.5g} x"
    return f"{wrap.gamma:.5g} ({outside})"


def plan_reshaping(report: Report, places: Places | None) -> Reshaping | None:
    """Design the reshaping of a network.

    Args:
        report: of the network as it is.
        places: of its steps, or None.

    Returns:
        The reshaping; None where there is no graph to design it on.
    """
    if report.program is None or places is None or report.prediction is None:
        return None
    return Reshaping(report.program, places, report.prediction)


def no_graph(report: Report) -> tuple[Decision, ...]:
    """What is said where there is no graph to reshape.

    Args:
        report: of the network.

    Returns:
        One decision.
    """
    why = f"no activation is reshaped, since the network could not be predicted ({plain(report.reason, 200)})"
    return (Decision("advice", "", "", "", why),)
