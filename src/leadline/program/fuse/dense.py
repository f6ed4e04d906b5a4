"""A dense layer written as a product with a matrix of weights, ``x @ W.T``."""

from __future__ import annotations

from torch import fx

from leadline.program.fuse.base import GraphView, Group, is_op, pattern

__all__: list[str] = []


@pattern(order=-5)
def product_with_weights(view: GraphView, node: fx.Node) -> Group | None:
    """Match a product whose second factor is a matrix that depends on parameters alone."""
    if not is_op(node, "matmul") or len(node.meta["val"].shape) < 2:
        return None
    x, weight = node.args[:2]
    if (
        not isinstance(weight, fx.Node)
        or weight not in view.weights
        or x in view.weights
        or len(weight.meta["val"].shape) != 2
    ):
        return None
    given = {"input": x, "weight": weight, "bias": None, "transposed": True}
    return Group("linear", node, (node,), given) if view.closed(node, [node]) else None
