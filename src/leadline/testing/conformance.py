"""The tests that every rule must pass: against the operator itself, run on drawn channels.

A rule of your own earns them with one call::

    check_rule(module, batch, "pixel_shuffle")
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leadline.program import Ref, Step, trace
from leadline.rules import RULES, Context, State
from leadline.rules.banded import dense
from leadline.rules.fallback import Drawn
from leadline.rules.state import fresh
from leadline.theory import predict

__all__ = ["ConformanceError", "Finding", "check_rule"]

_CHANNELS = 2**14  # channels drawn in all, which leaves an error of one per cent


class ConformanceError(AssertionError):
    """A rule does not do what its operator does; the message says where and by how much."""


@dataclass(frozen=True)
class Finding:
    """One law that was tested: how far the rule is from the operator, in standard errors."""

    law: str
    step: str
    sigmas: float


def check_rule(module: nn.Module, batch: Any, op: str, *, sigmas: float = 5.0, seed: int = 0) -> list[Finding]:
    """Test a rule on a module that contains its operator.

    Every step of that operator is run itself, at the network's own width, on channels drawn from the state that reaches
    it; the rule's second moment, channel mean and adjoint must agree with what comes out. Besides, the second moment must
    be positive semi-definite and follow a permutation of the samples.

    Args:
        module: contains the operator between layers with weights.
        batch: what the module is called with; at least two samples, few sites (the draws hold all pairs).
        op: canonical operator name, as in ``step.op``.
        sigmas: standard errors allowed; a relative 2/width is allowed besides, since draws are at finite width.
        seed: of the draws.

    Returns:
        What was tested and how far it was.

    Raises:
        ConformanceError: a law does not hold; the message names law, step and distance.
        ValueError: the module has no step of that operator, or the operator has no rule.
    """
    program = trace(module, batch)
    steps = [s for s in program.steps if s.op == op]
    if not steps:
        found = ", ".join(sorted({s.op for s in program.steps}))
        raise ValueError(f"the module has no step {op!r}; it has {found}.")
    if op not in RULES:
        raise ValueError(f"{op!r} has no rule: register one with @rule({op!r}).")
    prediction = predict(program, seed=seed)
    ctx = prediction.context
    findings: list[Finding] = []
    for step in steps:
        if step.name in prediction.drawn:
            raise ConformanceError(f"{step.name}: the rule refused the step ({prediction.drawn[step.name]}).")
        findings += [_semi_definite(step, ctx), *_forward(step, ctx, sigmas), *_adjoint(step, ctx, sigmas)]
    findings.append(_permutation(module, batch, prediction.output_kernel(), seed))
    return findings


def _require(finding: Finding, limit: float, what: str) -> Finding:
    if not finding.sigmas <= limit:
        raise ConformanceError(
            f"{finding.step}: {finding.law} is off by {finding.sigmas:.1f}, allowed {limit:.1f} ({what})."
        )
    return finding


def _state(step: Step, ctx: Context) -> State:
    value = ctx.values[step.name]
    if not isinstance(value, State):
        raise ConformanceError(f"{step.name}: the rule gave a {type(value).__name__}, not a random state.")
    return value


def _semi_definite(step: Step, ctx: Context) -> Finding:
    K = dense(ctx.moments.second(_state(step, ctx).expr)).double()
    asymmetry = float((K - K.T).abs().max())
    lowest = -float(torch.linalg.eigvalsh((K + K.T) / 2).min())
    scale = max(float(K.diagonal().abs().max()), 1e-300)
    # draws make a sample second moment, which is semi-definite to rounding as well
    return _require(
        Finding("a symmetric, positive semi-definite second moment", step.name, max(asymmetry, lowest) / scale * 1e6),
        10.0,
        "in millionths of the largest entry",
    )


def _forward(step: Step, ctx: Context, sigmas: float) -> list[Finding]:
    """Second moment and mean against the operator on drawn channels."""
    state = _state(step, ctx)
    seconds, means = [], []
    for replicate in range(max(24, min(400, _CHANNELS // step.width))):
        out = Drawn().run(step, ctx, 1_000 + replicate)[0]
        h = ctx.channels(out[0] if isinstance(out, (tuple, list)) else out, step.layout)
        seconds.append(h.T @ h / h.shape[0])
        means.append(h.mean(0))
    scale = ctx.moments.diagonal(state.expr).clamp_min(0).sqrt()
    slack = 2.0 / step.width + ctx.moments.error(state.expr) * sigmas
    return [
        _distance(
            "the second moment",
            step,
            dense(ctx.moments.second(state.expr)),
            torch.stack(seconds),
            slack * torch.outer(scale, scale),
            sigmas,
        ),
        _distance("the channel mean", step, ctx.moments.mean(state.expr), torch.stack(means), slack * scale, sigmas),
    ]


def _distance(law: str, step: Step, predicted: Tensor, drawn: Tensor, slack: Tensor, sigmas: float) -> Finding:
    error = drawn.std(0) / math.sqrt(len(drawn))
    # few replicates make some errors small by chance: none counts as less than half their typical size
    error = error.clamp_min(float(error.square().mean().sqrt()) / 2).clamp_min(1e-12)
    excess = ((predicted - drawn.mean(0)).abs() - slack).clamp_min(0) / error
    return _require(Finding(law, step.name, float(excess.max())), sigmas, "standard errors of the drawn operator")


def _adjoint(step: Step, ctx: Context, sigmas: float) -> list[Finding]:
    """Squared derivative of white noise on the output, at each input, against reverse mode through the operator."""
    if not any(isinstance(a, Ref) and isinstance(ctx.values.get(a.name), State) for a in step.arguments.values()):
        return []
    size = _state(step, ctx).expr.size
    white = fresh(torch.eye(size, dtype=ctx.dtype, device=ctx.device) / size)
    ctx.part = 0
    ruled = RULES[step.op].adjoint(step, white, ctx)
    drawn = [Drawn().adjoint(step, white, ctx, first=100 * (r + 1)) for r in range(6)]
    findings = []
    for name, cotangent in ruled.items():
        predicted = cotangent.total(ctx.moments).diagonal()
        samples = torch.stack([d[name].total(ctx.moments).diagonal() for d in drawn])
        slack = predicted.abs() * (2.0 / step.width + sigmas * cotangent.error() + 0.01)
        findings.append(_distance(f"the adjoint towards {name}", step, predicted, samples, slack, sigmas))
    return findings


def _permutation(module: nn.Module, batch: Any, kernel: Tensor, seed: int) -> Finding:
    """Samples in another order give the kernel in that order."""
    if not isinstance(batch, Tensor) or module.training:
        return Finding("a permutation of samples", "the network", 0.0)
    order = torch.arange(len(batch)).flip(0)
    other = predict(trace(module, batch[order]), seed=seed).output_kernel()
    apart = (other - kernel[order][:, order]).abs().max() / kernel.diagonal().abs().max().clamp_min(1e-300)
    return _require(
        Finding("a permutation of samples", "the network", float(apart) * 100), 5.0, "per cent of the largest entry"
    )
