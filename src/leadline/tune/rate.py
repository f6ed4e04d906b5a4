"""The learning rate to use: from curvature, from short trial runs, with the noise of the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from leadline.measure.curvature import Objective, TrainingLoss
from leadline.program.errors import UserError
from leadline.tune.rate_batch import gradient_noise
from leadline.tune.rate_choose import SHARE, Choice, choose_rate
from leadline.tune.rate_edge import Edge, Run, measure_edge, rate_curve
from leadline.tune.rate_layers import grouped, layer_rates
from leadline.tune.rate_predict import predict_edge, stability, trial_steps
from leadline.tune.rate_result import LearningRate
from leadline.tune.rate_rules import UpdateRule
from leadline.tune.rate_run import Factory, Optimizer
from leadline.tune.rate_stream import Stream

__all__ = ["learning_rate"]

_BLIND_GUESS = 0.1
_RAISES = 10  # by a factor of 32 each
_LEAST_STEP = 1e-6  # of the weights' rms
_GAIN = 1.5  # what warm-up must allow to be worth its steps


def learning_rate(
    model: nn.Module,
    batch: Any = None,
    loss: TrainingLoss = "cross_entropy",
    targets: Tensor | None = None,
    *,
    optimizer: str | UpdateRule | Factory = "adamw",
    batch_size: int | None = None,
    trial: bool = True,
    warmup: bool = True,
    noise: bool = True,
    per_layer: bool = False,
    curve: bool = False,
    steps: int = 100,
    seed: int = 0,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> LearningRate:
    """Recommend a learning rate for a module, a batch and an optimizer.

    The stable rate follows from the top curvature. Short runs from above then say up to where the loss does not rise
    above its start (the smooth edge). Of half of it, a quarter and so on the one that learns most in a short run is taken,
    and confirmed by a longer run; without trials, half of the stable rate.

    Args:
        model: any module; left as it is, in every byte.
        batch: what it is called with; None with ``args`` and ``kwargs``.
        loss: "cross_entropy", "mse" or a function of (output, targets).
        targets: of the batch.
        optimizer: "sgd", "momentum", "nesterov", "adam", "adamw", a rule with settings of your own, or a function of
            (weights, rate) that returns any torch optimizer.
        batch_size: samples of a training step, where ``batch`` holds several steps' worth: the runs then see other
            samples at each step, as training does, and the rate is chosen by long runs of them.
        trial: run short trainings on copies of the weights.
        warmup: also find the edge with a warm-up, to say whether one is needed.
        noise: measure the gradient's noise, for other batch sizes.
        per_layer: one rate a layer, for rules without a preconditioner.
        curve: also train for ``steps`` at a range of rates: the measured edge, and what :meth:`LearningRate.plot` draws.
        steps: updates of those runs, and of the one that confirms the rate.
        seed: of start vectors and dropout.
        args: positional call arguments, where ``batch`` is None.
        kwargs: keyword call arguments, where ``batch`` is None.
        progress: called with (what is done, steps done, steps in all).

    Returns:
        The rate with all it rests on; print it.

    Raises:
        UserError: what was given cannot be used.
    """
    if isinstance(optimizer, str):
        optimizer = UpdateRule(optimizer)
    rule = optimizer if isinstance(optimizer, UpdateRule) else None
    if rule is None and not trial:
        raise UserError("an optimizer given as a function has no closed form, expected trial=True: leave trial on.")
    if per_layer and (rule is None or rule.adaptive):
        raise UserError(
            "one rate a layer is for sgd, momentum and nesterov (Adam's preconditioner sets each weight's scale already, "
            "and a function has its own groups): leave per_layer out."
        )
    tell = progress or (lambda what, done, total: None)
    whole = Objective(model, batch, loss, targets, args=args, kwargs=kwargs, seed=seed)
    objective = whole if batch_size is None else Stream(whole, batch_size, seed=seed)
    step = objective.at_step(0) if isinstance(objective, Stream) else whole
    total = 2 + noise + (1 + warmup) * trial + curve
    tell("curvature", 0, total)
    stable = None if rule is None else stability(step, rule)
    layers = layer_rates(step) if per_layer else []
    run: Optimizer = optimizer
    if layers and rule is not None:
        relative = {name: layer.relative for layer in layers for name in layer.parameters}
        run = grouped(rule, step, relative)
    guess = stable.rate if stable is not None and math.isfinite(stable.rate) else _BLIND_GUESS
    if rule is not None and rule.adaptive:  # its steps have the size of the rate, so one below rounding moves nothing
        guess = max(guess, _LEAST_STEP * float(whole.flatten(list(whole.weights.values())).square().mean().sqrt()))
    short = trial_steps(optimizer)
    smooth: Edge | None = None
    warm: Edge | None = None
    choice: Choice | None = None
    if trial:
        tell("trial runs", 1, total)
        smooth = _closed(objective, run, predict_edge(objective, run, guess, hold="smooth", steps=short))
        choice = choose_rate(objective, run, smooth, steps=max(steps, short))
        if warmup:
            tell("trial runs with warm-up", 2, total)
            warm = predict_edge(objective, run, guess, hold="smooth", steps=2 * short, warmup=short)
    found_noise = None
    if noise and whole.targets.dim() and whole.targets.shape[0] >= 2:
        tell("gradient noise", total - 1, total)
        found_noise = gradient_noise(whole)
    edge = smooth.value if smooth is not None else guess
    measured: Edge | None = None
    runs: list[Run] = []
    if curve:
        tell(f"training for {steps} steps at a range of rates", total - 1, total)
        measured = measure_edge(objective, run, max(edge, guess), steps=steps)
        lowest = min(edge, guess)
        runs = rate_curve(objective, run, lowest / 30, max(measured.value, 2 * lowest), steps=steps)
    return LearningRate(
        rule=rule,
        rate=choice.rate if choice is not None else SHARE * edge,
        choice=choice,
        stability=stable,
        smooth=smooth,
        warm=warm,
        noise=found_noise,
        layers=layers,
        batch=step.targets.shape[0] if step.targets.dim() else 1,
        warmup_gain=_GAIN,
        share=SHARE,
        edge=measured,
        curve=runs,
    )


def _closed(objective: Objective, optimizer: Optimizer, edge: Edge) -> Edge:
    """A smooth edge from a guess far too low holds at every rate tried: go on from the largest of them."""
    for _ in range(_RAISES):
        if not edge.open:
            break
        further = predict_edge(objective, optimizer, edge.value, hold="smooth", steps=edge.steps)
        edge = replace(further, passes=edge.passes + further.passes, runs=[*edge.runs, *further.runs])
    return edge
