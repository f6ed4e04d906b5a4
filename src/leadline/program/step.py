"""A Program: the typed steps of a module, in order, each with the name of its submodule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from leadline.program.axes import Axis, Layout
from leadline.program.export import Exported
from leadline.program.laws import Law

__all__ = ["Program", "Step", "WEIGHT_OPS"]

WEIGHT_OPS = ("linear", "conv", "conv_transpose", "embedding")


@dataclass(frozen=True)
class Step:
    """One step of a Program.

    ``name``: the graph node whose value the step produces. ``op``: the canonical operator (``linear``, ``pointwise``,
    ``add``, …) that a rule is registered for, or ``aten.foo`` where there is none. ``layer``: the submodule's qualified
    name. ``arguments``: schema names to values, where a value computed in the graph is the name of its node wrapped in
    :class:`Ref`. ``layouts``: the axes of each output (one entry for most operators). ``fn``: for a fused chain of
    pointwise operators, the chain as one callable. ``members``: the nodes that the step covers.
    """

    name: str
    op: str
    layer: str
    node: fx.Node = field(repr=False)
    arguments: Mapping[str, Any] = field(repr=False)
    inputs: tuple[str, ...]
    layouts: tuple[Layout, ...] = field(repr=False)
    shapes: tuple[tuple[int, ...], ...]
    fn: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    members: tuple[str, ...] = field(default=(), repr=False)

    @property
    def layout(self) -> Layout:
        """Axes of the (first) output."""
        return self.layouts[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) output."""
        return self.shapes[0]

    @property
    def width(self) -> int:
        """Number of channels of the first output."""
        return _count(self.layout, "channel")

    @property
    def points(self) -> tuple[Axis, ...]:
        """Sample and site axes of the first output, in memory order."""
        return points_of(self.layout)

    @property
    def weighted(self) -> bool:
        """Whether the step draws fresh randomness from a weight."""
        return self.op in WEIGHT_OPS


@dataclass(frozen=True)
class Ref:
    """An argument that is the value of a graph node."""

    name: str


@dataclass
class Program:
    """A module as typed steps, with the law of every parameter.

    ``steps``: in order of execution. ``laws``: qualified parameter name -> law. ``constants``: node name -> value, for
    nodes that depend on no parameter and no input. ``exported``: the graph itself, which measurements run.
    """

    model: nn.Module = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    kwargs: Mapping[str, Any] = field(repr=False)
    exported: Exported = field(repr=False)
    steps: tuple[Step, ...]
    laws: Mapping[str, Law] = field(repr=False)
    constants: Mapping[str, Any] = field(repr=False)
    layouts: Mapping[str, tuple[Layout, ...]] = field(repr=False)
    weight_side: frozenset[str] = field(repr=False)
    output: str
    training: bool

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """Nodes of the graph by name."""
        return {n.name: n for n in self.exported.module.graph.nodes}

    def step(self, name: str) -> Step:
        """The step that produces a node."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(f"no step produces {name!r}; the steps are those of `program.steps`.")

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.steps)

    def __str__(self) -> str:
        """One line a step."""
        rows = [f"{s.layer or '.':40s} {s.op:16s} {'x'.join(map(str, s.shape))}" for s in self.steps]
        return "\n".join(rows)


def points_of(layout: Layout) -> tuple[Axis, ...]:
    """Sample and site axes of a layout, in memory order."""
    return tuple(axis for dim in layout for axis in dim if axis.kind != "channel")


def _count(layout: Layout, kind: str) -> int:
    total = 1
    for dim in layout:
        for axis in dim:
            if axis.kind == kind:
                total *= axis.size
    return total
