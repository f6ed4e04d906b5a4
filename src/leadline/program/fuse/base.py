"""What a pattern sees of the graph, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from leadline.program.layouts import bind, short_name

__all__ = ["GraphView", "Group", "fuse", "pattern"]


@dataclass(frozen=True)
class Group:
    """Nodes that make one step: ``exit`` is the node whose value leaves, ``members`` all of them."""

    op: str
    exit: fx.Node
    members: tuple[fx.Node, ...]
    arguments: Mapping[str, Any]
    fn: Callable[[Tensor], Tensor] | None = None


@dataclass
class GraphView:
    """The part of a graph that the output needs, with what is known of each node.

    ``wanted``: nodes whose value the output depends on. ``fixed``: nodes that depend on no parameter.
    ``weights``: nodes that depend on parameters alone. ``scalars``: parameters that hold one number for all channels (the
    slope of a PReLU). ``taken``: nodes that a group has already.
    """

    nodes: tuple[fx.Node, ...]
    wanted: frozenset[fx.Node]
    fixed: frozenset[fx.Node]
    output: fx.Node
    scalars: frozenset[fx.Node] = frozenset()
    weights: frozenset[fx.Node] = frozenset()
    taken: set[fx.Node] = field(default_factory=set)

    def users(self, node: fx.Node) -> list[fx.Node]:
        """Users of a node among the wanted ones; what takes only its size is none."""
        return [u for u in node.users if u in self.wanted and u not in self.fixed]

    def closed(self, exit: fx.Node, members: Iterable[fx.Node]) -> bool:
        """Whether nothing but the exit leaves the group, and no other group has a part of it."""
        inside = set(members)
        if inside & self.taken:
            return False
        return all(m is exit or (m is not self.output and all(u in inside for u in self.users(m))) for m in inside)


Pattern = Callable[[GraphView, fx.Node], "Group | None"]
_PATTERNS: list[tuple[int, Pattern]] = []


def pattern(order: int) -> Callable[[Pattern], Pattern]:
    """Register a pattern; lower orders are tried first (a norm before the pointwise chains that it contains)."""

    def register(function: Pattern) -> Pattern:
        _PATTERNS.append((order, function))
        return function

    return register


def fuse(view: GraphView) -> dict[fx.Node, Group]:
    """All groups of a graph, by exit node."""
    groups: dict[fx.Node, Group] = {}
    for _, match in sorted(_PATTERNS, key=lambda pair: pair[0]):
        for node in reversed(view.nodes):
            if node not in view.wanted or node in view.fixed or node in view.taken or node.op != "call_function":
                continue
            group = match(view, node)
            if group is not None:
                view.taken.update(group.members)
                groups[group.exit] = group
    return groups


def is_op(node: Any, *names: str) -> bool:
    """Whether a value is a call of one of the named ATen operators."""
    return isinstance(node, fx.Node) and node.op == "call_function" and short_name(node) in names


def arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of a node by schema name."""
    return bind(node)


IDENTITY = ("clone", "type_as", "alias", "contiguous", "detach", "_to_copy", "to", "lift_fresh_copy")


def skip_identity(node: Any, members: list[fx.Node]) -> Any:
    """Follow clones and casts upwards, adding them to the group's members."""
    while is_op(node, *IDENTITY):
        members.append(node)
        node = node.args[0]
    return node
