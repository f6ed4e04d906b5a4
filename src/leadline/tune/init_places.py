"""Where each weighted step of a Program stands: what feeds it, what follows, which residual branch it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from leadline.check.spine import spine_of
from leadline.program import Program, Ref, Step
from leadline.rules import RULES

__all__ = ["NORMS", "Branch", "Places", "find_places", "parameter_of"]

NORMS = ("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm")
_JOINING = ("cat", "stack")
_ALSO_PASSING = ("dropout", "rotary")


@dataclass(frozen=True)
class Branch:
    """A residual branch.

    Attributes:
        sum: name of the step that adds it to the stream.
        end: its last weighted step; None where none can take a factor, as behind a norm.
        stream: name of the operand that is the stream.
        parameter: name of the end's weight, "" where there is no end.
        normed: what the branch reads from the stream is normalised first.
        obstacle: why there is no end, in words.
    """

    sum: str
    end: str | None
    stream: str
    parameter: str = ""
    normed: bool = False
    obstacle: str = ""


@dataclass(frozen=True)
class Places:
    """The steps of a Program by name, what uses each, those on every path, and its residual branches."""

    steps: Mapping[str, Step]
    users: Mapping[str, tuple[str, ...]]
    spine: frozenset[str]
    output: str
    branches: tuple[Branch, ...] = ()
    weighted: tuple[Step, ...] = field(default=(), repr=False)

    def feeding(self, step: Step) -> Step | None:
        """The step whose value this one reads, seen through those that pass it on; None where it reads the batch."""
        return self.through(data_input(step))

    def through(self, name: str | None) -> Step | None:
        """The step of this name or, where it only passes a value on, the one that makes the value."""
        step = self.steps.get(name or "")
        while step is not None and passing(step):
            step = self.steps.get(data_input(step) or "")
        return step

    def following(self, step: Step) -> list[Step]:
        """The steps that do something with a step's value."""
        found: list[Step] = []
        for name in self.users.get(step.name, ()):
            user = self.steps[name]
            found += self.following(user) if passing(user) else [user]
        return found

    def ending(self, step: Step) -> Branch | None:
        """The branch that a step ends."""
        return next((b for b in self.branches if b.end == step.name), None)


def passing(step: Step) -> bool:
    """Whether a step hands its one input on with the same second moment."""
    rule = RULES.get(step.op)
    if step.op in _ALSO_PASSING or step.op == "getitem":
        return True
    return (
        rule is not None
        and rule.silent
        and step.op not in _JOINING
        and step.op not in ("var", "std", "linalg_vector_norm")
    )


def data_input(step: Step) -> str | None:
    """Name of the node that a step reads."""
    for slot in ("input", "self", "indices", "0"):
        value = step.arguments.get(slot)
        if isinstance(value, Ref):
            return value.name
    return step.inputs[0] if step.inputs else None


def parameter_of(step: Step, program: Program, slot: str = "weight") -> str | None:
    """Qualified name of the parameter in a slot of a step; None where it is none, or computed from one."""
    value = step.arguments.get(slot)
    return program.exported.parameters.get(value.name) if isinstance(value, Ref) else None


def find_places(program: Program) -> Places:
    """Read the places off a Program.

    Args:
        program: of the network.

    Returns:
        The places.
    """
    steps = {s.name: s for s in program.steps}
    users: dict[str, list[str]] = {}
    for step in program.steps:
        for name in step.inputs:
            users.setdefault(name, []).append(step.name)
    spine = spine_of(list(steps), {n: s.inputs for n, s in steps.items()}, program.output)
    plain = Places(
        steps, {n: tuple(u) for n, u in users.items()}, spine, program.output,
        weighted=tuple(s for s in program.steps if s.weighted),
    )  # fmt: skip
    depth = _depths(steps)
    branches = tuple(b for s in program.steps if (b := _branch(s, plain, depth, program)) is not None)
    return Places(plain.steps, plain.users, spine, program.output, branches, plain.weighted)


def _depths(steps: Mapping[str, Step]) -> dict[str, int]:
    """Most layers with weights on a way to each step."""
    depth: dict[str, int] = {}
    for name, step in steps.items():
        depth[name] = max((depth.get(i, 0) for i in step.inputs), default=0) + (
            step.op in ("linear", "conv", "conv_transpose")
        )
    return depth


def _branch(step: Step, places: Places, depth: Mapping[str, int], program: Program) -> Branch | None:
    """The branch that a sum adds; None where the step is no sum of a stream and a branch."""
    if step.op != "add" or step.name not in places.spine:
        return None
    operands = [n for n in step.inputs if n in places.steps]
    if len(operands) != 2 or depth[operands[0]] == depth[operands[1]]:
        return None
    stream, branch = sorted(operands, key=lambda n: depth[n])
    end, obstacle = _last_weighted(places.through(branch), places)
    if end is None:
        return Branch(step.name, None, stream, obstacle=obstacle)
    name = parameter_of(end, program) or ""
    return Branch(step.name, end.name, stream, name, _normed(end, places, stream))


def _last_weighted(step: Step | None, places: Places) -> tuple[Step | None, str]:
    """The layer at a branch's end, seen through factors and piecewise linear functions, which hand a scale on."""
    while step is not None:
        if step.op in ("linear", "conv", "conv_transpose"):
            return step, ""
        if step.op == "mul" and len([n for n in step.inputs if n in places.steps and not _static(n, places)]) == 1:
            step = places.through(next(n for n in step.inputs if n in places.steps and not _static(n, places)))
            continue
        if step.op == "pointwise" and step.fn is not None and homogeneous(step):
            step = places.feeding(step)
            continue
        return None, "a norm" if step.op in NORMS else step.op
    return None, "the batch"


def homogeneous(step: Step) -> bool:
    """Whether a pointwise step hands a positive factor on, as ReLU does."""
    import torch

    if step.fn is None:
        return False
    z = torch.tensor([-3.0, -0.7, 0.0, 0.4, 2.0], dtype=torch.float64)
    try:
        return bool(torch.allclose(step.fn(4 * z), 4 * step.fn(z), rtol=1e-9, atol=1e-12))
    except (RuntimeError, TypeError, ValueError):  # a chain that needs a shape of its own
        return False


def _static(name: str, places: Places) -> bool:
    """Whether a step's value comes from parameters alone."""
    step = places.steps[name]
    return not step.weighted and not any(i in places.steps for i in step.inputs) and not step.inputs


def _normed(end: Step, places: Places, stream: str) -> bool:
    """Whether a norm stands between a branch's end and the stream."""
    source, seen = places.through(stream), set()
    stack = [end.name]
    while stack:
        name = stack.pop()
        step = places.steps.get(name)
        if step is None or name in seen or (source is not None and name == source.name):
            continue
        seen.add(name)
        if step.op in NORMS:
            return True
        stack += step.inputs
    return False
