"""Which steps have a row, and from where its susceptibilities are counted: both sides share this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leadline.program import Law, Program, Ref, Step
from leadline.rules import rule_for
from leadline.rules.conv import FEW
from leadline.rules.norm import CERTAIN

__all__ = ["chains", "rowed_steps"]

_STILL_GAUSSIAN = (
    "neg", "mean", "scaled_dot_product_attention", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d",
)  # fmt: skip


def rowed_steps(program: Program) -> list[Step]:
    """Steps that have a row: all but those that only rearrange values.

    Args:
        program: from :func:`leadline.trace`.

    Returns:
        Steps in order of execution.
    """
    return [step for step in program.steps if step.op != "getitem" and not _silent(step)]


def chains(program: Program) -> dict[str, str | None]:
    r"""For each step, the step from whose value its susceptibilities are counted.

    :math:`\chi` of a step is the growth of a small change of the value at the *start* of its chain. A chain
    starts at a layer with weights, and wherever the growth is no property of one input alone: at a sum, a
    gate, a pool, an attention, a nonlinearity of something that is not Gaussian. It is decided from the
    operators and laws alone.

    Args:
        program: from :func:`leadline.trace`.

    Returns:
        Step name -> name of the start of its chain; None where the step starts a chain and has no value
        itself. A weighted step has a value of the chain that ends in it; what follows counts from the step
        itself.
    """
    found: dict[str, str | None] = {}
    origin: dict[str, str] = {}
    gaussian: dict[str, bool] = {}
    for step in program.steps:
        random = [n for n in step.inputs if n in found and n not in program.weight_side]
        gaussian[step.name] = _gaussian(step, gaussian, program)
        if step.op == "getitem":
            known = _getitem_start(step, found, origin)
        else:
            goes_on = len(random) == 1 and _continues(step, random[0], gaussian, program)
            known = origin[random[0]] if goes_on else None
        found[step.name] = known
        origin[step.name] = step.name if known is None or step.weighted else known
    return found


def _getitem_start(step: Step, found: Mapping[str, str | None], origin: Mapping[str, str]) -> str | None:
    """A part of a tuple goes on with the tuple's chain; where that starts anew, each part does."""
    source = step.arguments["0"].name
    return origin[source] if found.get(source) is not None else None


def _silent(step: Step) -> bool:
    rule = rule_for(step)
    return rule is not None and rule.silent


def _continues(step: Step, name: str, gaussian: Mapping[str, bool], program: Program) -> bool:
    """Whether the growth across a step is a property of its one random input."""
    if step.op in ("linear", "conv", "conv_transpose"):
        weight = step.arguments["weight"]
        return isinstance(weight, Ref) and (weight.name in program.weight_side or weight.name in program.constants)
    if step.op == "pointwise":
        return gaussian[name]
    if step.op in ("mul", "div"):
        operands = [v for k, v in step.arguments.items() if k in ("self", "other")]
        return any(_number(operand, program) for operand in operands)
    return step.op in ("layer_norm", "rms_norm") or _silent(step)


def _number(operand: Any, program: Program) -> bool:
    """Whether an operand is one number for all channels and points."""
    if isinstance(operand, (int, float)):
        return True
    law = _law(operand, program)
    return law is not None and not law.random and law.std == 0.0


def _law(operand: Any, program: Program) -> Law | None:
    """Law of an operand that is a parameter."""
    if not isinstance(operand, Ref):
        return None
    name = program.exported.parameters.get(operand.name)
    return None if name is None else program.laws.get(name)


def _gaussian(step: Step, known: Mapping[str, bool], program: Program) -> bool:
    """Whether a step's value is a centred Gaussian function of the points in the wide limit."""
    inputs = [_operand_gaussian(n, known, program) for n in step.inputs]
    if step.op in ("linear", "conv_transpose", "embedding"):
        return True
    if step.op == "conv":
        return step.inputs[0] not in known or _conv_gaussian(step, program)
    if step.op in ("cat", "stack"):
        dim = step.arguments.get("dim", 0)
        along = step.op == "cat" and any(a.kind == "channel" for a in step.layout[dim])
        return not along and all(inputs)
    if step.op in ("add", "sub", "rsub"):
        numbers = [v for k, v in step.arguments.items() if k in ("self", "other") and isinstance(v, (int, float))]
        return not numbers and all(inputs)
    if step.op in ("mul", "div"):
        random = [_operand_gaussian(n, known, program) for n in step.inputs if n in known]
        operands = [v for k, v in step.arguments.items() if k in ("self", "other")]
        return len(random) == 1 and random[0] and any(_number(o, program) for o in operands)
    if step.op in ("layer_norm", "rms_norm"):
        return all(inputs) and _plain_affine(step, program)
    if step.op == "group_norm":
        wide = step.width // int(step.arguments.get("num_groups", step.width)) >= CERTAIN
        return wide and all(inputs) and _plain_affine(step, program)
    if step.op == "batch_norm":
        return "no_training" in str(step.node.target) and all(inputs) and _plain_affine(step, program)
    return (_silent(step) or step.op == "getitem" or step.op in _STILL_GAUSSIAN) and all(inputs)


def _operand_gaussian(name: str, known: Mapping[str, bool], program: Program) -> bool:
    if name in known:
        return known[name]
    law = _law(Ref(name), program)
    return law is not None and law.random and law.mean == 0.0


def _conv_gaussian(step: Step, program: Program) -> bool:
    bias = _law(step.arguments.get("bias"), program)
    weight = step.arguments["weight"]
    shape = (
        program.exported.state[program.exported.parameters[weight.name]].shape if _law(weight, program) else (0, FEW)
    )
    return shape[1] >= FEW or (bias is not None and bias.second_moment > 0)


def _plain_affine(step: Step, program: Program) -> bool:
    """Whether a norm's gain is one number and its bias adds no constant."""
    gain, bias = step.arguments.get("weight"), step.arguments.get("bias")
    law = _law(bias, program)
    no_offset = bias is None or (law is not None and (law.second_moment == 0 or (law.std > 0 and law.mean == 0)))
    return no_offset and (gain is None or _number(gain, program))
