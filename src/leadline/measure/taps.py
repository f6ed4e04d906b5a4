"""Run a Program's graph with taps: read a step's value, change it on the way, tell uses of a weight apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from leadline.program import Program, Ref, Step

__all__ = ["Tapped", "parameter_uses"]

Tap = Callable[[str, Any], Any]


class Tapped(fx.Interpreter):
    """Runs the graph up to the Program's output.

    Args:
        program: the Program whose graph is run.
        tap: called with a node's name and value; what it returns goes on in its place.
        uses: for a node, the values to take in place of some of its operands: node -> operand -> value or
            function of
            the operand's value.
        guard: called with the operand values of nodes in ``guarded``, before they run.
        guarded: names of nodes.
    """

    def __init__(
        self,
        program: Program,
        tap: Tap,
        uses: Mapping[str, Mapping[str, Callable[[Any], Any]]] | None = None,
        guard: Callable[[Any], Any] | None = None,
        guarded: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(program.exported.module)
        self._tap, self._uses, self._guard, self._guarded = tap, uses or {}, guard, guarded
        self._last = program.output
        self.result: Tensor | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, then hand its value to the tap; nodes after the output are passed over."""
        if self.result is not None:
            return None
        if n.op != "call_function" or (n.name not in self._uses and n.name not in self._guarded):
            value = super().run_node(n)
        else:
            value = self._changed(n)
        value = self._tap(n.name, value)
        if n.name == self._last:
            self.result = value
        return value

    def _changed(self, n: fx.Node) -> Any:
        uses = self._uses.get(n.name, {})

        def operand(node: fx.Node) -> Any:
            value = self.env[node]
            if node.name in uses:
                return uses[node.name](value)
            return self._guard(value) if self._guard is not None and n.name in self._guarded else value

        args, kwargs = fx.map_arg(n.args, operand), fx.map_arg(n.kwargs, operand)
        return n.target(*args, **kwargs)  # type: ignore[operator]


def parameter_uses(program: Program, steps: Sequence[Step]) -> list[tuple[Step, str, str | None]]:
    """Each use of a weight or bias by a weighted step.

    Args:
        program: the Program.
        steps: steps to look at.

    Returns:
        The step, the node that holds the weight, and the parameter's qualified name; the name is None where
        the weight is computed from parameters (weight_norm), whose gradient is then taken with respect to
        what was computed.
    """
    found = []
    for step in steps:
        if not step.weighted:
            continue
        for slot in ("weight", "bias"):
            ref = step.arguments.get(slot)
            if isinstance(ref, Ref) and ref.name not in program.constants:
                found.append((step, ref.name, program.exported.parameters.get(ref.name)))
    return found
