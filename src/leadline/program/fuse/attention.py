"""Attention written out, ``softmax(scale q k^T + mask) v``, gathered into the operator that PyTorch has for it."""

from __future__ import annotations

from typing import Any

from torch import fx

from leadline.program.fuse.base import GraphView, Group, arguments, is_op, pattern, skip_identity
from leadline.program.layouts import shape_of

__all__: list[str] = []

_PRODUCT = ("matmul", "bmm", "baddbmm")
_VIEW = ("reshape", "view", "_unsafe_view", "expand")


def _transposed(node: Any, members: list[fx.Node]) -> Any:
    """The tensor whose last two dimensions a node exchanges, or None."""
    node = _through(node, members)
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


def _through(node: Any, members: list[fx.Node]) -> Any:
    """Follow copies, casts, and views of the leading dimensions upwards."""
    while True:
        node = skip_identity(node, members)
        if not is_op(node, *_VIEW):
            return node
        inner = node.args[0]
        old, new = inner.meta["val"].shape, node.meta["val"].shape
        if tuple(old[-2:]) != tuple(new[-2:]) or inner.meta["val"].numel() != node.meta["val"].numel():
            return node
        members.append(node)
        node = inner


def _logits(view: GraphView, logits: Any, members: list[fx.Node]) -> tuple[Any, ...] | None:
    """Query, key, scale, soft cap, masks and their shapes of what a softmax is taken of; None where it is something else."""
    scale, masks, dropped = 1.0, [], []
    shapes: dict[str, list[tuple[int, ...]]] = {"masks": [], "dropped": []}  # of the logits where each comes in
    known = view.fixed | view.weights
    cap: float | None = None
    while True:
        logits = _through(logits, members)
        if is_op(logits, *_PRODUCT):
            break
        if is_op(logits, "mul", "div") and isinstance(logits.args[1], (int, float)):
            factor = float(logits.args[1])
            # the masks, already met on the way up, were added after this factor
            scale = scale * factor if is_op(logits, "mul") else scale / factor
            members.append(logits)
            logits = logits.args[0]
            continue
        if is_op(logits, "tanh") and cap is None:  # a soft cap on the logits
            cap, scale = scale, 1.0
            members.append(logits)
            logits = logits.args[0]
            continue
        if scale != 1.0 or cap is not None:
            return None  # a mask that is scaled
        if is_op(logits, "add") and isinstance(logits.args[1], fx.Node):
            inner, mask = logits.args[:2] if logits.args[1] in known else logits.args[1::-1]
            if mask not in known or inner in known:
                return None
            masks.append(mask)
            shapes["masks"].append(shape_of(logits))
        elif is_op(logits, "where") and logits.args[0] in view.fixed and _hides(logits.args[2], view):
            inner = logits.args[1]
            masks.append(logits.args[0])
            shapes["masks"].append(shape_of(logits))
        elif is_op(logits, "masked_fill") and logits.args[1] in view.fixed and _hides(logits.args[2], view):
            inner = logits.args[0]
            dropped.append(logits.args[1])
            shapes["dropped"].append(shape_of(logits))
        else:
            return None
        members.append(logits)
        logits = inner
    members.append(logits)
    one, two = logits.args[:2]
    if is_op(logits, "baddbmm"):
        given = arguments(logits)
        if scale != 1.0 or cap is not None or given.get("beta", 1) != 1 or logits.args[0] not in known:
            return None
        masks.append(logits.args[0])
        shapes["masks"].append(shape_of(logits))
        scale, (one, two) = float(given.get("alpha", 1)), logits.args[1:3]
    key = _transposed(two, members)
    return None if key is None else (one, key, scale, cap, masks, dropped, shapes)


def _hides(value: Any, view: GraphView) -> bool:
    """Whether a number put in the place of a logit keeps it from being attended to."""
    if isinstance(value, fx.Node):
        return value in view.fixed and value.meta["val"].numel() == 1
    return isinstance(value, (int, float)) and value < -1e3


@pattern(order=0)
def attention(view: GraphView, node: fx.Node) -> Group | None:
    """Match a product of a softmax over its last axis with a value, back to the product of query and key."""
    if not is_op(node, *_PRODUCT):
        return None
    members: list[fx.Node] = [node]
    weights = node.args[0]
    dropout = 0.0
    while True:
        weights = _through(weights, members)
        if is_op(weights, "getitem") and is_op(weights.args[0], "native_dropout"):
            dropout = arguments(weights.args[0])["p"]
            members += [weights, weights.args[0]]
            weights = weights.args[0].args[0]
            continue
        break
    if not is_op(weights, "softmax", "_softmax") or arguments(weights)["dim"] not in (
        -1,
        len(weights.meta["val"].shape) - 1,
    ):
        return None
    members.append(weights)
    found = _logits(view, weights.args[0], members)
    if found is None:
        return None
    query, key, scale, cap, masks, dropped, shapes = found
    if not view.closed(node, members):
        return None
    given = {
        "query": query,
        "key": key,
        "value": node.args[1],
        "attn_mask": masks or None,
        "dropped": dropped,
        "shapes": shapes,
        "dropout_p": dropout,
        "is_causal": False,
        "scale": scale,
        "cap": cap,
    }
    return Group("scaled_dot_product_attention", node, tuple(members), given)
