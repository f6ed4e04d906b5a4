"""Reshaped activations in a recipe: designed on the traced graph, folded where that is exact, checked with the graph changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from leadline.check import Report
from leadline.measure import measure
from leadline.program import Program, tied_parameters
from leadline.theory import Prediction, predict
from leadline.tune.init_correct import correct, layer_rows
from leadline.tune.init_design import Plan
from leadline.tune.init_places import Places, find_places
from leadline.tune.recipe import Decision, Recipe, Reshape
from leadline.tune.reshape_design import Design, design
from leadline.tune.reshape_laws import Folded, folding_plan, shaped_plan
from leadline.tune.reshape_wrap import Wrap

__all__ = ["Reshaping", "plan_reshaping"]

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
        self.program, self.places, self.base = program, places, base
        self.design: Design = design(program, places)
        self.folded: Folded = (
            folding_plan(program, places, base, self.design) if self.design.graph else Folded(Plan("reshaped"))
        )

    @property
    def useful(self) -> bool:
        """Whether any nonlinearity is reshaped."""
        return bool(self.design.graph)

    def weights(self) -> tuple[Plan, Prediction] | None:
        """The plan with what folds into weights, and its prediction; None where nothing folds."""
        plan = self.folded.plan
        return (plan, predict(plan.stated(self.program))) if self.folded.wraps else None

    def advice(self) -> tuple[Decision, ...]:
        """Why nonlinearities stay as they are."""
        slope, zero = self.design.before
        if not self.design.graph and not self.design.kept:
            why = (
                f"on the graph's worst path correlations have the slope {slope:.4g} at one and come from none to {zero:.4g}, "
                "within what shaping would aim at: nothing is reshaped"
            )
            return (Decision("advice", "", "", "", why, _DKS),)
        return tuple(
            Decision("advice", where, "", "", f"the activation is not reshaped: {why}")
            for where, why in self.design.kept.items()
        )

    def changes(self) -> tuple[Decision, ...]:
        """One decision a nonlinearity: its constants, and whether they fold."""
        found = []
        for name, wrap in self.design.graph.items():
            act, place = self.design.activations[name].name, str(self.design.places[name])
            leaky = bool(wrap.skip)
            folds = self.folded.wraps.get(name)
            how = (
                f"without graph=True {formula(act, folds)} is folded into the layers beside it"
                if folds is not None
                else f"needs graph=True: {self.folded.kept.get(name, 'nothing folds')}"
            )
            found.append(
                Decision(
                    "activation", place, act, formula(act, wrap), f"{self._why(leaky)}; {how}", _TAT if leaky else _DKS
                )
            )
        return tuple(found)

    def _why(self, leaky: bool) -> str:
        (slope, zero), (slope_after, zero_after) = self.design.before, self.design.after
        if leaky:
            return (
                f"left over right slope {self.design.ratio:.5g}, so that on the worst path inputs of correlation 0 come out at "
                f"{zero_after:.4g}, not {zero:.4g}"
            )
        return (
            f"local slope {self.design.slope:.5g}, so that on the worst path small differences grow by {slope_after:.4g}, not "
            f"{slope:.4g}, and inputs of correlation 0 come out at {zero_after:.4g}, not {zero:.4g}"
        )

    def graph(
        self, recipe: Recipe, model: nn.Module, draws: int, checked: Callable[[nn.Module], Report],
        facts: Callable[[Report], dict[str, Any]],
    ) -> Recipe:  # fmt: skip
        """Add what ``graph=True`` applies to a recipe, measured, corrected once and checked again.

        Args:
            recipe: of the weights.
            model: the network as it is.
            draws: networks behind the measurement.
            checked: makes a report of a network.
            facts: a report in plain numbers.

        Returns:
            The recipe.
        """
        plan = shaped_plan(self.program, self.places, self.base, self.design.graph, self.design)
        names = tied_parameters(model)
        reshapes = tuple(
            Reshape(place, self.design.activations[n].name, self.design.graph[n])
            for n, place in _unique(self.design).items()
        )
        made = recipe.replace(reshapes=reshapes, graph_laws={names[n]: law for n, law in plan.laws.items()})
        second = checked(made.apply(model, graph=True, redraw=list(made.graph_laws)))
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


def _unique(found: Design) -> dict[str, Any]:
    """Steps with their places, each place once."""
    return {n: p for p, n in {found.places[n]: n for n in reversed(list(found.graph))}.items()}


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
