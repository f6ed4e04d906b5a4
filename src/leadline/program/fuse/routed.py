"""A part of a network that chooses by its input (a mixture of experts): one step, which is drawn as a whole.

Sorting tokens by expert mixes up samples, sites and channels; step by step nothing could be said of what lies between.
"""

from __future__ import annotations

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from leadline.program.fuse.base import GraphView, Group, is_op, pattern

__all__ = ["innermost", "is_random"]

_CHOICES = ("topk", "sort", "argsort", "histc", "nonzero", "bincount", "one_hot", "index_put", "scatter", "index_add")


@pattern(order=-10)
def routed(view: GraphView, node: fx.Node) -> Group | None:
    """Match the smallest submodule around a choice that has one value leaving it."""
    if not is_op(node, *_CHOICES) or node in view.weights:
        return None
    parts = innermost(node).split(".")
    for depth in range(len(parts), 0, -1):
        inside = ".".join(parts[:depth])
        members = [n for n in view.nodes if is_random(n, view) and _within(innermost(n), inside)]
        exits = [n for n in members if n is view.output or any(u not in members for u in view.users(n))]
        if len(exits) == 1 and node in members and view.closed(exits[0], members):
            return _group(view, exits[0], members)
    return None


def _group(view: GraphView, exit: fx.Node, members: list[fx.Node]) -> Group | None:
    known, inside = view.fixed | view.weights, set(members)
    inputs = dict.fromkeys(
        a for n in members for a in pytree.tree_leaves((n.args, n.kwargs)) if isinstance(a, fx.Node) and a not in inside
    )
    data = [a for a in inputs if a not in known]
    if len(data) != 1 or not isinstance(data[0].meta["val"], Tensor):
        return None
    return Group("routed", exit, tuple(members), {"input": data[0]})


def is_random(node: fx.Node, view: GraphView) -> bool:
    """Whether a node is computed from data and parameters, and needed."""
    return node.op == "call_function" and node in view.wanted and node not in view.fixed and node not in view.weights


def innermost(node: fx.Node) -> str:
    """Path of the submodule whose forward makes a node."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _within(path: str, module: str) -> bool:
    return path == module or path.startswith(module + ".")
