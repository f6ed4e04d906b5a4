"""Multipliers that a parametrization asks for inside a network, as factors on weights that take them up exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from leadline.program import Program, Ref, Step, tied_parameters
from leadline.tune.init_places import NORMS, Branch, Places, parameter_of

__all__ = ["Head", "attention_heads", "branch_multiplier", "in_branches", "step_parameters", "tied_gain"]


@dataclass(frozen=True)
class Head:
    """One attention.

    Attributes:
        layer: submodule.
        size: dimension of a head.
        scale: factor of its logits.
        weights: names of the parameters that make the queries alone, () where none does.
        obstacle: why there is none, in words.
    """

    layer: str
    size: int
    scale: float
    weights: tuple[str, ...] = ()
    obstacle: str = ""


def attention_heads(program: Program, places: Places) -> tuple[Head, ...]:
    """Every attention of a Program, with the weights into which a factor on its logits folds.

    Args:
        program: of the network.
        places: of its steps.

    Returns:
        One an attention step.
    """
    found = []
    for step in program.steps:
        if step.op != "scaled_dot_product_attention":
            continue
        query = step.arguments.get("query")
        node = program.nodes.get(query.name) if isinstance(query, Ref) else None
        if node is None:
            continue
        size = int(node.meta["val"].shape[-1])
        given = step.arguments.get("scale")
        scale = float(given) if isinstance(given, (int, float)) else 1 / math.sqrt(size)
        source = places.through(node.name)
        if source is None or source.op != "linear":
            found.append(
                Head(step.layer, size, scale, obstacle=f"its queries come from a {source.op if source else 'sum'}")
            )
        elif {s.name for s in places.following(source)} != {step.name} or _reaches(
            places, source.name, step, ("key", "value")
        ):
            found.append(Head(step.layer, size, scale, obstacle="one matrix makes queries, keys and values"))
        else:
            found.append(Head(step.layer, size, scale, step_parameters(source, program)))
    return tuple(found)


def _reaches(places: Places, source: str, step: Step, slots: Iterable[str]) -> bool:
    """Whether a step's value is also what other slots of an attention read."""
    for slot in slots:
        value = step.arguments.get(slot)
        made = places.through(value.name) if isinstance(value, Ref) else None
        if made is not None and made.name == source:
            return True
    return False


def step_parameters(step: Step, program: Program) -> tuple[str, ...]:
    """Weight and bias of a step.

    Args:
        step: of the network.
        program: of the network.

    Returns:
        Qualified names, tied ones under their first; without a bias, the weight alone.
    """
    first = tied_parameters(program.model)
    names = (parameter_of(step, program, slot) for slot in ("weight", "bias"))
    return tuple(first[n] for n in names if n is not None)


def branch_multiplier(branch: Branch, program: Program, places: Places) -> float:
    """Factor that the network's own code or parameters put on a residual branch, behind its last weights.

    Args:
        branch: of the network.
        program: of the network.
        places: of its steps.

    Returns:
        The factor at the start; 1 where there is none.
    """
    add = places.steps[branch.sum]
    name = next((n for n in add.inputs if n in places.steps and n != branch.stream), None)
    other = add.arguments.get("other")
    factor = _number(add.arguments.get("alpha", 1), program) if isinstance(other, Ref) and other.name == name else 1.0
    step = places.through(name)
    while step is not None and not step.weighted:
        if step.op == "pointwise" and step.fn is not None:
            factor *= float(step.fn(torch.ones(1, dtype=torch.float64)))
        elif step.op in ("mul", "div"):
            operands = [step.arguments.get(slot) for slot in ("self", "other")]
            moving = [o for o in operands if isinstance(o, Ref) and _moves(o.name, places)]
            fixed = [_number(o, program) for o in operands if o not in moving]
            if len(moving) != 1 or len(fixed) != 1:
                break
            factor *= fixed[0] if step.op == "mul" else 1 / fixed[0]
            step = places.through(moving[0].name)
            continue
        step = places.feeding(step)
    return factor


def _moves(name: str, places: Places) -> bool:
    """Whether a value depends on the batch."""
    return name in places.steps and bool(places.steps[name].inputs)


def _number(value: object, program: Program) -> float:
    """The one number of an operand: written in the code, in a buffer, or in a parameter that starts constant; else 1."""
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, Ref):
        return 1.0
    names = {**program.exported.parameters, **program.exported.buffers}
    found = program.constants.get(value.name, program.exported.state.get(names.get(value.name, "")))
    if isinstance(found, torch.Tensor) and found.numel() and bool((found == found.flatten()[0]).all()):
        return float(found.flatten()[0])
    return 1.0


def in_branches(program: Program, places: Places) -> frozenset[str]:
    """Parameters that act inside residual branches, norms that a branch reads through included.

    Args:
        program: of the network.
        places: of its steps.

    Returns:
        Qualified names.
    """
    first = tied_parameters(program.model)
    inside: set[str] = set()
    for branch in places.branches:
        outside = _before(branch.stream, places) | {branch.stream}
        ends = [n for n in places.steps[branch.sum].inputs if n != branch.stream]
        for end in ends:
            inside |= (_before(end, places) | {end}) - outside
    members = {m for name in inside for m in places.steps[name].members}
    operands = (n for name in inside | members if name in program.nodes for n in program.nodes[name].all_input_nodes)
    found: set[str] = set()
    stack, seen = [n.name for n in operands], set()
    while stack:  # a matrix may be cut up before a step reads it
        name = stack.pop()
        if name in seen or (name in places.steps and name not in program.weight_side):
            continue
        seen.add(name)
        qualified = program.exported.parameters.get(name)
        if qualified is not None:
            found.add(first[qualified])
        else:
            stack += [n.name for n in program.nodes[name].all_input_nodes]
    return frozenset(found)


def _before(name: str, places: Places) -> set[str]:
    """Names of every step that a value depends on."""
    found: set[str] = set()
    stack = [name]
    while stack:
        for before in places.steps[stack.pop()].inputs:
            if before in places.steps and before not in found:
                found.add(before)
                stack.append(before)
    return found


def tied_gain(program: Program, places: Places) -> tuple[str | None, tuple[str, ...], str]:
    """A matrix that is both embedding and output, and the gain of the norm before it, which can take the output's factor.

    Args:
        program: of the network.
        places: of its steps.

    Returns:
        Name of the tied matrix, or None; the norm's parameters, () where there is none; why there is none.
    """
    first = tied_parameters(program.model)
    embedded = {first.get(parameter_of(s, program) or "") for s in places.weighted if s.op == "embedding"}
    for step in places.weighted:
        name = first.get(parameter_of(step, program) or "")
        if step.op == "embedding" or name is None or name not in embedded:
            continue
        norm = places.feeding(step)
        if norm is None or norm.op not in NORMS:
            return name, (), "no norm comes before it"
        if [s.name for s in places.following(norm)] != [step.name]:
            return name, (), "the norm before it is read elsewhere too"
        gain = parameter_of(norm, program)
        if gain is None:
            return name, (), "the norm before it has no gain"
        return name, step_parameters(norm, program), ""
    return None, (), ""
