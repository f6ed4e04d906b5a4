"""What a large network costs to look at, and a second look at it that reuses the first."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from leadline.check import Report, judge
from leadline.check.collect import collect
from leadline.program import by_name, read_law, tied_parameters
from leadline.theory import predict

__all__ = ["is_large", "second_look"]

_LARGE = 20_000_000  # parameters beyond which a drawn network costs as much as a few training steps


def is_large(model: nn.Module) -> bool:
    """Whether a network is so large that what it is measured for is chosen.

    Args:
        model: any module.

    Returns:
        Whether it has more than twenty million parameters.
    """
    return sum(p.numel() for p in model.parameters()) > _LARGE


def second_look(first: Report, model: nn.Module) -> Report | None:
    """Predict a network anew whose weights have another size than at the first look, from the graph of that look.

    Nothing is measured: the first look has compared prediction and measurement of the same graph.

    Args:
        first: report of the network before.
        model: a copy with other weights.

    Returns:
        The report, without draws; None where the first look has no prediction or its measurements contradicted it.
    """
    program = first.program
    if program is None or first.prediction is None or _contradicted(first):
        return None
    parameters, before = dict(model.named_parameters()), dict(program.model.named_parameters())
    laws = dict(program.laws)
    for alias, name in tied_parameters(program.model).items():
        old = laws.get(alias)
        if old is not None and not torch.equal(parameters[name], before[name]):
            laws[alias] = read_law(parameters[name].detach(), fan_in=old.fan_in, name=alias)
    candidate = replace(program, laws=laws)
    prediction = predict(candidate, seed=first.seed)
    batch = by_name(program.args, program.kwargs)
    evidence = collect(model, candidate, prediction.rows, None, batch=batch, classifier=first.evidence.classifier)
    return replace(
        first, verdicts=tuple(judge(evidence)), evidence=evidence, prediction=prediction, program=candidate,
        measurement=None, draws=0,
    )  # fmt: skip


def _contradicted(report: Report) -> bool:
    """Whether a verdict of the first look went by a measurement against a prediction."""
    evidence = report.evidence
    for point in evidence.points:
        for name in ("kernel", "correlation", "partial_jacobian"):
            pair = point.values.get(name)
            if pair is not None and pair.predicted is not None and evidence.value(point, name) != pair.predicted:
                return True
    return False
