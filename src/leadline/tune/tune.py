"""From a network to a recipe: check it, plan by theory, correct once by measurement, check again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

import leadline
from leadline.check import Report, Verdict, check, judge
from leadline.check.collect import collect
from leadline.check.probe import dead_shares
from leadline.measure import measure
from leadline.measure.losses import TrainingLoss
from leadline.program import Program, by_name, tied_parameters
from leadline.program.errors import UserError, plain
from leadline.tune.groups import OPTIMIZERS, parameter_groups
from leadline.tune.init_choose import choose, verdict_counts
from leadline.tune.init_correct import correct, layer_rows
from leadline.tune.init_places import Places, find_places
from leadline.tune.param_request import request_scaling
from leadline.tune.param_tune import plan_scaling
from leadline.tune.recipe import Decision, Group, Recipe
from leadline.tune.recipe_apply import fingerprint, unwrap
from leadline.tune.reshape_tune import Reshaping, no_graph, plan_reshaping
from leadline.tune.second_look import is_large, second_look
from leadline.tune.width import width_decision

__all__ = ["OPTIMIZERS", "tune"]

Progress = Callable[[str, int, int], None]


def tune(
    model: nn.Module,
    x: Any = None,
    *,
    optimizer: str | None = None,
    loss: TrainingLoss | None = None,
    targets: Tensor | None = None,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    draws: int | None = None,
    seed: int = 0,
    reshape_activations: bool = False,
    parametrization: str | None = None,
    base: nn.Module | int | None = None,
    base_lr: float | Recipe | None = None,
    progress: Progress | None = None,
    target: str = "",
) -> Recipe:
    """Say what to change in a network so that it can train; the network itself is only read.

    A network in whose check there is no error, and no warning of signals or gradients, is left alone. Else theory
    plans laws for its weights from their places, the smallest plan that helps is measured on drawn networks and
    corrected once, and the result is checked again.

    Args:
        model: any module that can be written as a graph; compiled and data-parallel ones are unwrapped.
        x: a batch, as for :func:`leadline.check`.
        optimizer: one of :data:`OPTIMIZERS`, for the groups of the recipe; None: any.
        loss: "cross_entropy", "mse" or a function, as for :func:`leadline.check`.
        targets: of the batch, for the loss.
        args: positional call arguments, instead of `x`.
        kwargs: keyword call arguments, instead of or beside `x`.
        draws: networks behind each measurement, at least 2; by default 8, and fewer for large networks.
        seed: of every draw, and of the weights that the recipe draws.
        reshape_activations: put nonlinearities in affine wraps, under which correlations neither collapse nor scatter on
            the graph's worst path; what folds into weights is applied with them, the rest with ``graph=True``.
        parametrization: one of :data:`leadline.tune.PARAMETRIZATIONS`: sizes and rates go with width (and depth) as it
            says. With a base alone it is muP, with depth where the numbers of residual branches differ.
        base: a narrower network of the same code, tuned and healthy: weights are drawn as large, and rates are as high, as
            the parametrization makes of the base's. Or a width that counts as the base; by default 128.
        base_lr: learning rate that was found for the base, or the base's recipe with its rates; without one the groups have
            factors, and the rate goes to :meth:`Recipe.param_groups`.
        progress: called with (what is done, steps done, steps in all).
        target: what the recipe calls the network.

    Returns:
        The recipe.

    Raises:
        UserError: something that cannot be used; the network is unhealthy and cannot be written as a graph; or the base is
            another network.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
        >>> print(tune(net, torch.randn(8, 16), optimizer="adamw"))
        Recipe for Sequential, adamw: left alone.
        before: healthy
        width and depth '1': nu * sum 1/n = ...
    """
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise UserError(
            f"there is no optimizer '{plain(optimizer)}', expected one of {', '.join(OPTIMIZERS)}: name one."
        )
    if draws is not None and draws < 2:
        raise UserError(f"draws is {draws}, expected 2 or more: a law is judged on networks that are drawn from it.")
    if reshape_activations and (parametrization is not None or base is not None):
        raise UserError(
            "reshape_activations and a parametrization are asked for at once, expected one of them: reshape a copy with "
            "graph=True, and tune that."
        )
    request = request_scaling(parametrization, base, base_lr, optimizer)
    inner = unwrap(model)
    large = is_large(inner)

    def checked(network: nn.Module) -> Report:
        return check(
            network, x, args=args, kwargs=kwargs, draws=draws, seed=seed, loss=loss, targets=targets, progress=progress,
            susceptibilities=not large,
        )  # fmt: skip

    first = checked(inner)
    program = first.program
    places = find_places(program) if program is not None else None
    recipe = Recipe(
        target=target or type(inner).__name__,
        fingerprint=fingerprint(inner),
        seed=seed,
        groups=_groups(inner, program, places, optimizer),
        optimizer=optimizer,
        summary={"before": _facts(first)},
        leadline=leadline.__version__,
    )
    if request is not None:
        scaling = plan_scaling(request, program, places)
        found = recipe.replace(decisions=_last_words(first))
        if not scaling.inherits:
            found = _weights(recipe, inner, first, places, checked, max(first.draws, draws or 2, 2), None, progress)

        def again(network: nn.Module) -> Report:
            cheap = large and not scaling.inherits and not found.laws
            return (second_look(first, network) if cheap else None) or checked(network)

        return scaling.onto(found, inner, again, _facts)
    reshaping = plan_reshaping(first, places) if reshape_activations else None
    most = max(first.draws, draws or 2, 2)
    if progress is not None and reshaping is not None:
        progress("reshaping the activations", 0, 1)
    found = _weights(recipe, inner, first, places, checked, most, reshaping, progress)
    if reshaping is None:
        return found.replace(decisions=(*found.decisions, *no_graph(first))) if reshape_activations else found
    found = reshaping.graph(found, inner, first, most, checked, _facts)
    return found.replace(decisions=(*reshaping.changes(found), *found.decisions, *reshaping.advice()))


def _weights(
    recipe: Recipe,
    inner: nn.Module,
    first: Report,
    places: Places | None,
    checked: Callable[[nn.Module], Report],
    draws: int,
    reshaping: Reshaping | None,
    progress: Progress | None,
) -> Recipe:
    """The recipe with what is done to the weights alone, what folds into them included."""
    program, folded = first.program, reshaping.weights() if reshaping is not None else None
    if verdict_counts(first.verdicts) == (0, 0) and folded is None:
        return recipe.replace(decisions=_last_words(first))
    if program is None or places is None or first.prediction is None:
        if first.ok:
            return recipe.replace(decisions=_last_words(first))
        raise UserError(
            f"{plain(type(inner).__name__)} is unhealthy and could not be predicted ({plain(first.reason, 200)}), which "
            "planning its weights needs: follow what the check says of it."
        )
    chosen = folded if folded is not None else choose(first, program, places)
    if chosen is None:
        return recipe.replace(decisions=(*_advice(first, "error"), *_last_words(first)))
    plan, prediction = chosen
    candidate = plan.stated(program)
    if progress is not None:
        progress("measuring the plan", 0, 1)
    measurement = measure(inner, program=candidate, draws=draws, seed=recipe.seed, susceptibilities=not is_large(inner))
    corrected = correct(plan, candidate, places, prediction, measurement)
    summary = {
        "before": _facts(first),
        "plan": plan.name,
        "layers": layer_rows(places, prediction.rows, measurement.rows),
    }
    names = tied_parameters(inner)
    made = recipe.replace(
        laws={names[n]: law for n, law in corrected.laws.items()},
        scales=dict(reshaping.folded.scales) if reshaping is not None and folded is not None else {},
        decisions=tuple(
            Decision(d.what, names[d.layer], d.before, d.after, d.why, d.source) for d in corrected.decisions
        ),
    )
    twin = copy.deepcopy(inner)
    made.apply(twin, redraw=list(made.laws))
    second = checked(twin)
    very = _very_network(twin, second, recipe.seed)
    if (errors := verdict_counts(second.verdicts)) > verdict_counts(first.verdicts):
        tried = f"the plan '{plan.name}' was tried and left {errors[0]} errors, so nothing is changed"
        return recipe.replace(
            decisions=(*_advice(first, "error"), Decision("advice", "", "", "", tried), *_width(first))
        )
    after = {**_facts(second), "ok": second.ok and not very}
    after["errors"] = [*after["errors"], *({"rule": v.rule, "layer": v.layer or "", "value": v.value} for v in very)]
    unlucky = tuple(
        Decision(
            "advice", v.layer or "", "", "", f"the weights drawn with seed {recipe.seed}: {v.message} Try another seed."
        )
        for v in very
    )
    return made.replace(
        decisions=(*made.decisions, *_advice(second, "error"), *unlucky, *_last_words(second, first)),
        summary={**summary, "after": after},
    )


def _very_network(model: nn.Module, report: Report, seed: int) -> list[Verdict]:
    """Errors of the weights as they are drawn, beyond those of their law: a few channels may miss every direction."""
    if report.program is None or report.prediction is None:
        return []
    program = report.program
    found = measure(model, program=program, draws=0, seed=seed, susceptibilities=not is_large(model))
    batch = by_name(program.args, program.kwargs)
    evidence = collect(
        model, program, report.prediction.rows, found.rows, batch=batch, dead=dead_shares(program),
        classifier=report.evidence.classifier,
    )  # fmt: skip
    known = {v.rule for v in report.verdicts if v.severity == "error"}
    return [v for v in judge(evidence) if v.severity == "error" and v.rule not in known]


def _groups(
    model: nn.Module, program: Program | None, places: Places | None, optimizer: str | None
) -> tuple[Group, ...]:
    if program is None or places is None:
        return (Group("hidden", tuple(n for n, _ in model.named_parameters())),)
    return parameter_groups(program, places, optimizer)


def _facts(report: Report) -> dict[str, Any]:
    """A report in a few plain numbers."""
    errors = [v for v in report.verdicts if v.severity == "error"]
    warnings = [v for v in report.verdicts if v.severity == "warning"]
    return {
        "ok": report.ok,
        "draws": report.draws,
        "errors": [{"rule": v.rule, "layer": v.layer or "", "value": v.value} for v in errors],
        "warnings": [{"rule": v.rule, "layer": v.layer or "", "value": v.value} for v in warnings],
    }


def _last_words(report: Report, before: Report | None = None) -> tuple[Decision, ...]:
    """Warnings, and how depth stands to width: under the laws of before where theory gives no spread of the new ones."""
    width = _width(report) if before is None else _width(report) or _width(before, "as it was drawn, ")
    return (*_advice(report, "warning"), *width)


def _width(report: Report, said: str = "") -> tuple[Decision, ...]:
    return width_decision(report.program, report.prediction, said)


def _advice(report: Report, severity: str) -> tuple[Decision, ...]:
    """What is still wrong, and what its verdict says to do about it."""
    return tuple(
        Decision("advice", v.layer or "", "", "", f"{v.message} {v.remedy}", v.source)
        for v in report.verdicts
        if v.severity == severity
    )
