"""Two networks of one architecture: which parameter of the small one stands for each of the wide one's, and how it grew."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from leadline.program import Program, Step, tied_parameters
from leadline.program.errors import UserError, plain
from leadline.tune.groups import parameter_roles
from leadline.tune.init_places import Places, parameter_of

__all__ = ["Grown", "against", "grown", "kernel_of"]

_DIGITS = re.compile(r"\d+")
_SLOTS = ("weight", "bias")


@dataclass(frozen=True)
class Grown:
    """How a parameter differs from the one that it is counted against.

    Attributes:
        role: "input", "hidden", "output", "embedding" or "vector", by what grows with the width.
        fan_in: ratio of fan-ins.
        fan_out: ratio of fan-outs; of a vector, of its lengths.
        base: name of the parameter of the small network, "" where there is none.
    """

    role: str
    fan_in: float
    fan_out: float
    base: str = ""


@dataclass(frozen=True)
class _Slot:
    """Where a parameter is used: what must agree between two networks."""

    op: str
    slot: str
    role: str
    axes: int


def grown(program: Program, places: Places, base: Program, base_places: Places) -> dict[str, Grown]:
    """Compare every parameter with its counterpart in a smaller network of the same architecture.

    Counterparts have one name or, in networks of other depth, names that differ in their numbers alone. Which role a
    matrix plays is then read off what grows: input where its fan-out alone does, output where its fan-in alone does.

    Args:
        program: of the network.
        places: of its steps.
        base: of the small network.
        base_places: of its steps.

    Returns:
        By qualified name; tied parameters under their first name.

    Raises:
        UserError: another architecture, or another depth without residual branches.
    """
    here, there = _slots(program, places), _slots(base, base_places)
    _check_depth(program, places, base, base_places)
    sizes, base_sizes = _fans(program, here), _fans(base, there)
    found = {}
    for name, slot in here.items():
        other = _counterpart(name, slot, there)
        if other is None:
            near = "another shape or use" if name in there else "no such parameter"
            raise UserError(
                f"the base network is of another architecture: for '{plain(name)}' it has {near}; build it with the same code, "
                "narrower."
            )
        ratios = [a / b for a, b in zip(sizes[name], base_sizes[other])]
        role = _role(slot.role, *ratios) if slot.slot == "weight" else slot.role
        if program.exported.state[name].dim() < 2 or slot.role == "vector" or slot.slot == "bias":
            role = "vector"
        found[name] = Grown(role, ratios[0], ratios[1], other)
    return found


def against(program: Program, places: Places, width: int) -> dict[str, Grown]:
    """Count every parameter's fans against one width, where they are not those of the data or the output.

    Args:
        program: of the network.
        places: of its steps.
        width: that stands for one.

    Returns:
        By qualified name.
    """
    slots = _slots(program, places)
    sizes = _fans(program, slots)
    found = {}
    for name, slot in slots.items():
        fan_in, fan_out = sizes[name]
        role = "vector" if slot.slot == "bias" or program.exported.state[name].dim() < 2 else slot.role
        channels = fan_in / kernel_of(program, name)
        # a convolution of each channel by itself reads one at any width
        reads = channels / width if role in ("hidden", "output") and channels > 1 else 1.0
        role = "input" if role == "hidden" and channels == 1 else role
        # the output's own bias does not grow
        gives = 1.0 if "output" in (slot.role, role) else fan_out / width
        found[name] = Grown(role, reads, gives)
    return found


def kernel_of(program: Program, name: str) -> int:
    """Number of sites that a convolution's kernel covers; 1 of everything else.

    Args:
        program: of the network.
        name: of a parameter.

    Returns:
        The number.
    """
    shape = program.exported.state[name].shape
    used = any(parameter_of(s, program) == name and s.op in ("conv", "conv_transpose") for s in program.steps)
    return int(shape[2:].numel()) if used else 1


def _slots(program: Program, places: Places) -> dict[str, _Slot]:
    first = tied_parameters(program.model)
    roles = parameter_roles(program, places)
    found: dict[str, _Slot] = {}
    for step in program.steps:
        for slot in _SLOTS:
            name = first.get(parameter_of(step, program, slot) or "")
            if name is not None and name not in found:
                found[name] = _Slot(step.op, slot, _step_role(step, program, roles, first), _axes(program, name))
    for name in roles:
        found.setdefault(name, _Slot("", "weight", roles[name], _axes(program, name)))
    return {name: found[name] for name in roles}


def _step_role(step: Step, program: Program, roles: Mapping[str, str], first: Mapping[str, str]) -> str:
    """The role of a step's weight, which its bias shares as far as finding a counterpart goes."""
    return roles.get(first.get(parameter_of(step, program) or "", ""), "vector")


def _axes(program: Program, name: str) -> int:
    return program.exported.state[name].dim()


def _fans(program: Program, slots: Mapping[str, _Slot]) -> dict[str, tuple[float, float]]:
    """Fan-in and fan-out of each parameter; a vector has a fan-in of one."""
    found = {}
    for name, slot in slots.items():
        tensor = program.exported.state[name]
        if slot.op == "embedding":
            found[name] = (1.0, float(tensor.shape[-1]))
            continue
        fan_in = float(program.laws[name].fan_in) if name in program.laws and tensor.dim() > 1 else 1.0
        found[name] = (fan_in, tensor.numel() / fan_in)
    return found


def _role(traced: str, fan_in: float, fan_out: float) -> str:
    if traced not in ("input", "hidden", "output") or (fan_in == 1 and fan_out == 1):
        return traced
    if fan_in == 1:
        return "input"
    return "output" if fan_out == 1 else "hidden"


def _counterpart(name: str, slot: _Slot, there: Mapping[str, _Slot]) -> str | None:
    if there.get(name) == slot:
        return name
    pattern = _DIGITS.sub("#", name)
    alike = [n for n, s in there.items() if s == slot and _DIGITS.sub("#", n) == pattern]
    if not alike:
        return None
    # in the same place of a block; of blocks that the small one lacks, its last stands for all
    mine = _numbers(name)

    def nearness(other: str) -> tuple[int, bool, list[int]]:
        theirs = _numbers(other)
        return sum(a == b for a, b in zip(mine, theirs)), theirs <= mine, theirs

    return max(alike, key=nearness)


def _numbers(name: str) -> list[int]:
    return [int(d) for d in _DIGITS.findall(name)]


def _check_depth(program: Program, places: Places, base: Program, base_places: Places) -> None:
    depth, base_depth = len(places.branches), len(base_places.branches)
    layers, base_layers = len(places.weighted), len(base_places.weighted)
    if layers != base_layers and (depth < 2 or base_depth < 2):
        raise UserError(
            f"the base network has {base_layers} layers with weights and this one {layers}, expected one depth or residual "
            "branches in both: rates are carried over depth in residual networks alone."
        )
