"""Which plan: the smallest change that theory expects to leave the fewest errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from leadline.check import Report, Verdict, judge
from leadline.check.collect import collect
from leadline.program import Program, by_name, tied_parameters
from leadline.theory import Prediction, predict
from leadline.tune.init_design import Plan, full_plan, residual_plan
from leadline.tune.init_places import Places, parameter_of
from leadline.tune.recipe import ParameterLaw

__all__ = ["choose", "embedding_plan", "expected_verdicts", "verdict_counts"]

_TREATED = (
    "exploding-signal", "vanishing-signal", "exploding-gradient", "vanishing-gradient", "rank-collapse", "chaos",
    "residual-growth",
)  # fmt: skip
_EMBEDDING = "Takase et al. (2023), Spike no more: stabilizing the pre-training of large language models"


def choose(report: Report, program: Program, places: Places) -> tuple[Plan, Prediction] | None:
    """Make the plans from the smallest to the largest and take the first that leaves the fewest errors and warnings.

    Args:
        report: of the network as it is, with a prediction.
        program: of the network.
        places: of its steps.

    Returns:
        The plan and what theory expects of it; None where it expects none of them to help.

    Raises:
        ValueError: the report has no prediction.
    """
    if report.prediction is None:
        raise ValueError("got a report without a prediction: plans are judged by what theory expects of them.")
    frozen = frozenset(n for n, p in program.model.named_parameters(remove_duplicate=False) if not p.requires_grad)
    best, fewest = None, verdict_counts(expected_verdicts(report, program, report.prediction))
    embeddings = embedding_plan(report, program, places, frozen)
    # the full plan costs the most to make, so it waits until the small ones have failed
    for make in (
        lambda: embeddings,
        lambda: _merged(embeddings, residual_plan(program, places, frozen)),
        lambda: _merged(embeddings, full_plan(program, places, report.prediction, frozen)),
    ):
        plan = make()
        if not plan.laws:
            continue
        candidate = plan.stated(program)
        prediction = predict(candidate, seed=report.seed)
        counts = verdict_counts(expected_verdicts(report, candidate, prediction))
        if counts < fewest:
            best, fewest = (plan, prediction), counts
        if fewest == (0, 0):
            break
    return best


def expected_verdicts(report: Report, program: Program, prediction: Prediction) -> list[Verdict]:
    """Verdicts on a Program from its prediction alone.

    Args:
        report: of the network, for what does not depend on its laws.
        program: under the laws that are asked about.
        prediction: of that Program.

    Returns:
        The verdicts.
    """
    batch = by_name(program.args, program.kwargs)
    evidence = collect(
        program.model, program, prediction.rows, None, batch=batch, classifier=report.evidence.classifier
    )
    return judge(evidence)


def verdict_counts(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    """Numbers of errors, and of warnings that signals or gradients fade, grow or become alike, which weights decide."""
    errors = sum(v.severity == "error" for v in verdicts)
    return errors, sum(v.severity == "warning" and v.rule in _TREATED for v in verdicts)


def embedding_plan(report: Report, program: Program, places: Places, frozen: frozenset[str]) -> Plan:
    """Embeddings that a verdict names, at a kernel of one; at one over the width where the output layer is the same matrix.

    Args:
        report: with the verdicts.
        program: of the network.
        places: of its steps.
        frozen: parameters that stay as they are.

    Returns:
        The plan; without laws where no verdict names an embedding.
    """
    plan = Plan("embedding")
    named = {v.layer for v in report.verdicts if v.rule == "embedding-scale" and v.severity == "error"}
    first = list(tied_parameters(program.model).values())
    for step in places.weighted:
        name = parameter_of(step, program)
        if step.op != "embedding" or step.layer not in named or name is None or name in frozen:
            continue
        tied = first.count(tied_parameters(program.model)[name]) > 1
        kernel = 1 / step.width if tied else 1.0
        why = (
            "it is the output layer too: variance one over the width"
            if tied
            else "the stream begins with a kernel of one"
        )
        plan.put("weights", program.laws[name], ParameterLaw("gaussian", math.sqrt(kernel)), why, _EMBEDDING)
    return plan


def _merged(first: Plan, then: Plan) -> Plan:
    return Plan(then.name, {**first.laws, **then.laws}, [*first.decisions, *then.decisions]) if then.laws else then
