"""All of it: predict, measure, judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

import leadline.check.rules  # noqa: F401 (each of its files registers a rule)
from leadline.check.collect import collect
from leadline.check.evidence import Evidence, LossFacts
from leadline.check.loss import initial_loss, network_output
from leadline.check.probe import dead_shares
from leadline.check.report import Report
from leadline.check.verdict import RULES, SEVERITIES, Verdict
from leadline.measure import Measurement, measure
from leadline.measure.losses import LOSSES, TrainingLoss
from leadline.program import ExportFailure, Program, by_name, trace, validate
from leadline.program.errors import UserError, one_line, plain
from leadline.program.inputs import split_batch
from leadline.program.laws import explains
from leadline.theory import Prediction, predict

__all__ = ["check", "judge"]

Progress = Callable[[str, int, int], None]

# rules on sizes that a batch norm in train mode would hold
_OF_SIZE = (
    "exploding-signal", "vanishing-signal", "exploding-gradient", "vanishing-gradient", "output-scale",
    "residual-growth", "saturation", "dead-units", "rank-collapse", "too-deep-for-width",
)  # fmt: skip


def check(
    model: nn.Module,
    x: Any = None,
    *,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    draws: int | None = None,
    seed: int = 0,
    law: Mapping[str, Mapping[str, float]] | None = None,
    loss: TrainingLoss | None = None,
    targets: Tensor | None = None,
    susceptibilities: bool = True,
    progress: Progress | None = None,
    preview: Callable[[Report], None] | None = None,
    target: str = "",
) -> Report:
    """Predict a network layer by layer, measure the same on it, and say what is wrong.

    The network is read in the mode (train or eval) that it is in, and is left as it was.

    Args:
        model: any module.
        x: a batch: tensor, tuple, dict or DataLoader, as in :func:`leadline.trace`.
        args: positional call arguments, instead of `x`.
        kwargs: keyword call arguments, instead of or beside `x`.
        draws: re-drawn networks to measure on; 0: this very network; by default 8, and fewer, down to 2, for networks of
            more than 20 million parameters. A trained network is always measured itself.
        seed: of every draw.
        law: ``{module name: {"C_W": …, "C_b": …}}``, laws that override those read from the weights.
        loss: "cross_entropy", "mse" or a function of (output, targets).
        targets: of this batch, for the loss; taken from `x` where it is an (inputs, targets) pair.
        susceptibilities: measure those too, and not only predict them; half of the measuring time goes there.
        progress: called with (what is done, steps done, steps in all).
        preview: called with a report of the prediction alone, as soon as there is one: measuring takes longer.
        target: what the report calls the network.

    Returns:
        The report: ``report.ok``, ``report.verdicts``, and it prints well.

    Raises:
        UserError: a model, batch, law, loss or targets that cannot be used: one sentence.

    Example:
        >>> import torch, leadline as ll
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4))
        >>> ll.check(net, torch.randn(8, 64)).ok
        True
    """
    if draws is None:
        draws = _affordable(model)
    if draws < 0:
        raise UserError(f"draws is {draws}, expected 0 (this very network) or more: give such a number.")
    positional, named, found = _call(model, x, args, kwargs)
    targets = found if targets is None else targets
    _check_loss(loss, targets)
    validate(model, positional, named)
    program, prediction, reason = _predict(model, positional, named, law or {}, seed, progress)
    trained = explains(list(program.laws.values())).trained if program is not None else False
    draws = 0 if trained else draws
    dead = dead_shares(program) if program is not None else None

    def report(measurement: Measurement | None, facts: LossFacts | None) -> Report:
        evidence = collect(
            model,
            program,
            prediction.rows if prediction is not None else None,
            measurement.rows if measurement is not None else None,
            batch=by_name(positional, named),
            loss=facts,
            dead=dead,
            classifier=loss == "cross_entropy" or _is_classifier(model, program),
        )
        return Report(
            verdicts=tuple(judge(evidence)),
            evidence=evidence,
            prediction=prediction,
            measurement=measurement,
            program=program,
            target=target or type(model).__name__,
            seed=seed,
            draws=draws,
            reason=reason,
        )

    if preview is not None and prediction is not None:
        preview(report(None, None))
    measurement = _measure(model, positional, named, draws, seed, program, progress, susceptibilities)
    facts = None
    if loss is not None and targets is not None:
        facts = _loss(model, positional, named, loss, targets, prediction, seed)
    return report(measurement, facts)


def _affordable(model: nn.Module) -> int:
    """Number of draws that a first look takes: a draw costs a few forward and backward passes."""
    size = sum(p.numel() for p in model.parameters())
    return max(2, min(8, 160_000_000 // max(size, 1)))


def judge(evidence: Evidence) -> list[Verdict]:
    """Ask every rule.

    Args:
        evidence: what they may look at.

    Returns:
        Verdicts, errors first, then in order of depth.
    """
    found = [verdict for rule in RULES.values() for verdict in rule.judge(evidence)]
    if evidence.untouched:
        found = [replace(v, severity="note") if v.rule in _OF_SIZE else v for v in found]
    depth = {p.name: i for i, p in reversed(list(enumerate(evidence.points)))}
    return sorted(found, key=lambda v: (SEVERITIES.index(v.severity), depth.get(v.layer or "", -1)))


def _call(
    model: nn.Module, x: Any, args: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any], Tensor | None]:
    if args is not None or x is None:
        return tuple(args or ()), dict(kwargs or {}), None
    positional, named, targets = split_batch(x, model)
    return positional, {**named, **(kwargs or {})}, targets


def _check_loss(loss: TrainingLoss | None, targets: Tensor | None) -> None:
    if loss is None:
        return
    if not callable(loss) and loss not in LOSSES:
        raise UserError(
            f"there is no loss '{plain(loss)}', expected {' or '.join(LOSSES)} or a function: name one of these."
        )
    if targets is None:
        raise UserError(
            f"a loss ('{plain(loss)}') was given without targets, expected both: give the targets of this batch too."
        )


def _predict(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    law: Mapping[str, Mapping[str, float]],
    seed: int,
    progress: Progress | None,
) -> tuple[Program | None, Prediction | None, str]:
    """Program and prediction; where one cannot be made, the reason in one line."""
    if progress is not None:
        progress("reading the network", 0, 1)
    try:
        program = trace(model, law=law, args=args, kwargs=kwargs)
    except ExportFailure as failure:
        return None, None, one_line(failure).removeprefix("ExportFailure: ")
    inner = None if progress is None else lambda done, total: progress("predicting", done, total)
    try:
        return program, predict(program, seed=seed, progress=inner), ""
    except UserError:
        raise
    except Exception as error:  # a network of a form that no rule has met must still be measured
        return program, None, f"the prediction failed ({one_line(error)})"


def _measure(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    draws: int,
    seed: int,
    program: Program | None,
    progress: Progress | None,
    susceptibilities: bool,
) -> Measurement:
    inner = None if progress is None else lambda done, total: progress("measuring", done, total)
    if program is not None:
        return measure(
            model, draws=draws, seed=seed, program=program, progress=inner, susceptibilities=susceptibilities
        )
    return measure(model, draws=draws, seed=seed, args=args, kwargs=kwargs, progress=inner)


def _loss(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss: TrainingLoss,
    targets: Tensor,
    prediction: Prediction | None,
    seed: int,
) -> LossFacts:
    kernel = None
    if prediction is not None and prediction.program.output in {r.step for r in prediction.rows}:
        kernel = prediction.kernel(prediction.program.output).diagonal()
    return initial_loss(loss, network_output(model, args, kwargs), targets, kernel, seed=seed)


def _is_classifier(model: nn.Module, program: Program | None) -> bool:
    """Whether outputs are logits, as the configuration of a model of the transformers library says."""
    config = getattr(model, "config", None)
    if config is None or program is None or not program.steps:
        return False
    width = program.steps[-1].shape[-1] if program.steps[-1].shape else 0
    return width > 1 and width in (getattr(config, "vocab_size", None), getattr(config, "num_labels", None))
