"""RMSNorm written out, ``x * rsqrt(mean(x**2) + eps)``, as Llama and its relatives have it."""

from __future__ import annotations

from typing import Any

from torch import fx

from leadline.program.fuse.base import GraphView, Group, arguments, is_op, pattern, skip_identity

__all__: list[str] = []


@pattern(order=-1)
def rms_norm_with_gain(view: GraphView, node: fx.Node) -> Group | None:
    """Match the norm times its learned gain."""
    if not is_op(node, "mul"):
        return None
    for gain, normed in (node.args[:2], node.args[1::-1]):
        if gain not in view.weights:
            continue
        members: list[fx.Node] = [node]
        inner = rms_norm(view, skip_identity(normed, members))
        if inner is None or not view.closed(node, [*members, *inner.members]):
            continue
        return Group("rms_norm", node, (*members, *inner.members), {**inner.arguments, "weight": gain})
    return None


@pattern(order=0)
def rms_norm(view: GraphView, node: fx.Node) -> Group | None:
    """Match ``mul(x, rsqrt(add(mean(square(x), -1), eps)))``."""
    if not is_op(node, "mul"):
        return None
    for x, scale in (node.args[:2], node.args[1::-1]):
        members: list[fx.Node] = [node]
        root = skip_identity(scale, members)
        if not is_op(root, "rsqrt"):
            continue
        members.append(root)
        shifted = root.args[0]
        if not is_op(shifted, "add") or not isinstance(shifted.args[1], float):
            continue
        mean = shifted.args[0]
        if not is_op(mean, "mean"):
            continue
        square = mean.args[0]
        base: Any = None
        if (is_op(square, "pow") and square.args[1] == 2) or (
            is_op(square, "mul") and square.args[0] is square.args[1]
        ):
            base = square.args[0]
        dims = arguments(mean).get("dim")
        if base is not x or dims not in ([-1], -1):
            continue
        members += [shifted, mean, square]
        if view.closed(node, members):
            given = {
                "input": x,
                "normalized_shape": [node.meta["val"].shape[-1]],
                "weight": None,
                "eps": shifted.args[1],
            }
            return Group("rms_norm", node, tuple(members), given)
    return None
