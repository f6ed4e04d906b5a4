"""The measured pass: what drawn networks say of a plan, and the one correction that they earn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from leadline.measure import Measurement
from leadline.program import Program, Step
from leadline.theory import Prediction, Row
from leadline.tune.init_design import Plan, words
from leadline.tune.init_places import NORMS, Places, parameter_of
from leadline.tune.recipe import Decision

__all__ = ["correct", "layer_rows"]

_LEAST = 0.1  # of a layer's gain, in logarithm: smaller differences do not matter over the depths that networks have
_ERRORS = 4.0
_SOURCE = "Doshi, He & Gromov (2023), Critical initialization using partial Jacobians"


def correct(plan: Plan, program: Program, places: Places, prediction: Prediction, measurement: Measurement) -> Plan:
    r"""Bring the gain of each planned layer to what was predicted, where drawn networks differ from it.

    .. math:: C_W \to C_W \Big/ \frac{K^{meas}_l / K^{pred}_l}{K^{meas}_{l'} / K^{pred}_{l'}}

    with l' the last layer, norm or sum before layer l.

    Args:
        plan: as theory has it.
        program: under the laws of the plan.
        places: of its steps.
        prediction: of that Program.
        measurement: of networks drawn from it.

    Returns:
        The plan itself where nothing differs by more than a tenth and four standard errors, else a corrected one.
    """
    predicted, measured = _by_step(prediction.rows), _by_step(measurement.rows)
    laws, decisions = dict(plan.laws), list(plan.decisions)
    uses = Counter(parameter_of(step, program) for step in places.weighted)
    for step in places.weighted:
        name = parameter_of(step, program)
        # the uses of one weight are not independent, as the prediction takes them to be
        if name is None or name not in plan.laws or uses[name] > 1:
            continue
        here = _log_ratio(step.name, predicted, measured)
        before = _log_ratio(anchor(step, places), predicted, measured) or (0.0, 0.0)
        if here is None:
            continue
        gain, error = here[0] - before[0], math.hypot(here[1], before[1])
        if abs(gain) < max(_LEAST, _ERRORS * error):
            continue
        law = plan.laws[name]
        new = replace(law, std=law.std * math.exp(-gain / 2))
        laws[name] = new
        why = (
            f"drawn networks have {math.exp(gain):.3g} +- {math.exp(gain) * error:.1g} times the kernel that the layer was "
            "predicted to hand on"
        )
        decisions.append(Decision("measured correction", name, words(law), words(new), why, _SOURCE))
    return plan if len(decisions) == len(plan.decisions) else Plan(plan.name, laws, decisions)


def anchor(step: Step, places: Places) -> str | None:
    """Name of the last layer, norm or sum before a step; None where the batch comes first."""
    before = places.feeding(step)
    while before is not None and not (before.weighted or before.op in NORMS or before.op in ("add", "sub")):
        before = places.feeding(before)
    return None if before is None else before.name


def layer_rows(
    places: Places,
    predicted: Sequence[Row],
    measured: Sequence[Row],
    names: Sequence[str] = ("kernel", "partial_jacobian"),
) -> list[dict[str, Any]]:
    """Both sides of each layer with weights, as plain data.

    Args:
        places: of the network.
        predicted: rows.
        measured: rows.
        names: of the quantities.

    Returns:
        One dict a layer: its name and, for each quantity, [predicted, measured, standard error].
    """
    left, right = _by_step(predicted), _by_step(measured)
    found: list[dict[str, Any]] = []
    for step in places.weighted:
        row: dict[str, Any] = {"layer": step.layer or step.name}
        for name in names:
            p = left[step.name].get(name) if step.name in left else None
            m = right[step.name].values.get(name) if step.name in right else None
            row[name] = [_short(p), _short(m.value if m else None), _short(m.error if m else None)]
        found.append(row)
    return found


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _by_step(rows: Sequence[Row]) -> dict[str, Row]:
    return {r.step: r for r in rows}


def _log_ratio(step: str | None, predicted: dict[str, Row], measured: dict[str, Row]) -> tuple[float, float] | None:
    """Logarithm of measured over predicted kernel, and its standard error."""
    p, m = predicted.get(step or ""), measured.get(step or "")
    expected = p.get("kernel") if p is not None else None
    found = m.values.get("kernel") if m is not None else None
    if not expected or found is None or not (found.value > 0 and math.isfinite(found.value) and expected > 0):
        return None
    doubt = p.values["kernel"].error / expected if p is not None else 0.0
    return math.log(found.value / expected), math.hypot(found.error / found.value, doubt)
