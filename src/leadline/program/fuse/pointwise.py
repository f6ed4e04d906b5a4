"""Chains of pointwise operators on one tensor, gathered into one callable: GPT-2's written-out GELU is such a chain."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, fx

from leadline.program.fuse.base import GraphView, Group, is_op, pattern

__all__ = ["LINEAR", "POINTWISE", "compile_chain"]

LINEAR = ("mul", "div", "add", "sub", "neg", "rsub", *("clone", "alias", "_to_copy", "type_as", "detach", "contiguous"))
POINTWISE = (
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "_prelu_kernel",
    "rrelu",
    "elu",
    "celu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "sigmoid",
    "tanh",
    "softplus",
    "softsign",
    "hardtanh",
    "hardsigmoid",
    "hardswish",
    "hardshrink",
    "softshrink",
    "tanhshrink",
    "threshold",
    "log_sigmoid",
    "logsigmoid",
    "log_sigmoid_forward",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "asinh",
    "atan",
    "abs",
    "sign",
    "sqrt",
    "rsqrt",
    "square",
    "reciprocal",
    "pow",
    "clamp",
    "clamp_min",
    "clamp_max",
    "maximum",
    "minimum",
    "where",
    "gt",
    "lt",
    "ge",
    "le",
    "heaviside",
    "sinc",
)


def _operand_roots(view: GraphView, node: fx.Node) -> set[fx.Node] | None:
    """Tensor operands of a node that carry randomness; None where a tensor constant takes part (not a scalar chain)."""
    roots: set[fx.Node] = set()
    for operand in node.all_input_nodes:
        value = operand.meta.get("val")
        if operand in view.fixed and isinstance(value, Tensor) and value.numel() == 1:
            continue
        if operand in view.scalars:
            continue
        if operand in view.fixed or operand.op == "placeholder":
            return None
        roots.add(operand)
    return roots


def _root(view: GraphView, node: fx.Node, members: set[fx.Node]) -> fx.Node | None:
    """The one tensor that a chain ending in ``node`` is a function of, growing the chain upwards as far as it stays one."""
    members.add(node)
    frontier = _operand_roots(view, node)
    if frontier is None:
        return None
    while True:
        grown = False
        for operand in list(frontier):
            if operand in view.taken or not is_op(operand, *POINTWISE, *LINEAR):
                continue
            above = _operand_roots(view, operand)
            if not above or not all(u in members for u in view.users(operand)) or operand is view.output:
                continue
            if len(frontier | above) - 1 > len(frontier) and len(above) > 1:
                continue
            frontier.discard(operand)
            frontier |= above
            members.add(operand)
            grown = True
        if not grown:
            break
    return next(iter(frontier)) if len(frontier) == 1 else None


def _shrink(view: GraphView, node: fx.Node) -> tuple[fx.Node, set[fx.Node]] | None:
    """Chain ending in ``node`` and the tensor it is a function of; only chains with a nonlinearity count."""
    members: set[fx.Node] = set()
    root = _root(view, node, members)
    if root is None:
        roots = _operand_roots(view, node)
        if roots is None or len(roots) != 1:
            return None
        root, members = next(iter(roots)), {node}
    if root in members or not any(_nonlinear(m) for m in members):
        return None
    return root, members


def _nonlinear(node: fx.Node) -> bool:
    if is_op(node, *POINTWISE):
        return True
    return is_op(node, "mul", "div") and len([a for a in node.args[:2] if isinstance(a, fx.Node)]) == 2


def compile_chain(
    root: fx.Node, members: Iterable[fx.Node], exit: fx.Node, constants: Mapping[str, Any]
) -> Callable[[Tensor], Tensor]:
    """A chain of nodes as a function of its root; ``constants`` has the scalars that it uses, by node name."""
    inside = set(members)
    order = [n for n in exit.graph.nodes if n in inside]
    scalars = {n.name: constants[n.name] for m in order for n in m.all_input_nodes if n not in inside and n is not root}

    def chain(z: Tensor) -> Tensor:
        values: dict[str, Any] = {root.name: z}
        for name, value in scalars.items():
            values[name] = _scalar(value, z)
        for node in order:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n.name])
            # a cast inside the chain must not take the float64 of the expectation away
            values[node.name] = args[0] if is_op(node, "_to_copy") else node.target(*args, **kwargs)
        return values[exit.name]

    return chain


def _scalar(value: Any, like: Tensor) -> Any:
    """A constant of the chain as one number of the argument's type."""
    if not isinstance(value, Tensor):
        return value
    one = value.detach().reshape(-1)[:1] if value.dim() else value.detach()
    return one.to(like) if value.is_floating_point() else one.to(like.device)


@pattern(order=10)
def pointwise(view: GraphView, node: fx.Node) -> Group | None:
    """Match the longest chain of pointwise operators that ends in a node and is a function of one tensor."""
    if not is_op(node, *POINTWISE, *LINEAR) or node.target is operator.getitem:
        return None
    chain = _shrink(view, node)
    if chain is None:
        return None
    root, members = chain
    if not view.closed(node, members) or not isinstance(node.meta["val"], Tensor):
        return None
    if node.meta["val"].shape != root.meta["val"].shape or not node.meta["val"].is_floating_point():
        return None
    return Group("pointwise", node, tuple(members), {"input": root})
