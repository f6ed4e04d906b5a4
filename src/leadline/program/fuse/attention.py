"""Attention written out, ``softmax(scale q k^T + mask) v``, gathered into the operator that PyTorch has for it."""

from __future__ import annotations

from typing import Any

from torch import fx

from leadline.program.fuse.base import GraphView, Group, arguments, is_op, pattern, skip_identity

__all__: list[str] = []

_PRODUCT = ("matmul", "bmm")


def _transposed(node: Any, members: list[fx.Node]) -> Any:
    """The tensor whose last two dimensions a node exchanges, or None."""
    if is_op(node, "transpose"):
        rank = len(node.meta["val"].shape)
        if {d % rank for d in node.args[1:3]} == {rank - 1, rank - 2}:
            members.append(node)
            return node.args[0]
    if is_op(node, "permute"):
        order = list(node.args[1])
        rank = len(order)
        if [d % rank for d in order] == [*range(rank - 2), rank - 1, rank - 2]:
            members.append(node)
            return node.args[0]
    return None


@pattern(order=0)
def attention(view: GraphView, node: fx.Node) -> Group | None:
    """Match a product of a softmax over its last axis with a value, back to the product of query and key."""
    if not is_op(node, *_PRODUCT):
        return None
    members: list[fx.Node] = [node]
    weights = node.args[0]
    dropout = 0.0
    while True:
        weights = skip_identity(weights, members)
        if is_op(weights, "getitem") and is_op(weights.args[0], "native_dropout"):
            dropout = arguments(weights.args[0])["p"]
            members += [weights, weights.args[0]]
            weights = weights.args[0].args[0]
            continue
        break
    if not is_op(weights, "softmax", "_softmax") or arguments(weights)["dim"] not in (
        -1,
        len(node.meta["val"].shape) - 1,
    ):
        return None
    members.append(weights)
    logits, scale, mask = weights.args[0], 1.0, None
    while not is_op(logits, *_PRODUCT):
        logits = skip_identity(logits, members)
        if is_op(logits, *_PRODUCT):
            break
        if is_op(logits, "mul", "div") and isinstance(logits.args[1], (int, float)):
            factor = float(logits.args[1])
            # the mask, already met on the way up, was added after this factor
            scale = scale * factor if is_op(logits, "mul") else scale / factor
        elif is_op(logits, "add") and mask is None and logits.args[1] in view.fixed and scale == 1.0:
            mask = logits.args[1]
        else:
            return None
        members.append(logits)
        logits = logits.args[0]
    members.append(logits)
    key = _transposed(logits.args[1], members)
    if key is None:
        return None
    if not view.closed(node, members):
        return None
    given = {
        "query": logits.args[0],
        "key": key,
        "value": node.args[1],
        "attn_mask": mask,
        "dropout_p": dropout,
        "is_causal": False,
        "scale": scale,
    }
    return Group("scaled_dot_product_attention", node, tuple(members), given)
