"""Rotary position embedding, ``x cos + rotate_half(x) sin``."""

from __future__ import annotations

from typing import Any

from torch import fx

from leadline.program.fuse.base import GraphView, Group, is_op, pattern

__all__: list[str] = []


@pattern(order=0)
def rotary(view: GraphView, node: fx.Node) -> Group | None:
    """Match ``add(mul(x, cos), mul(cat(neg(x[half:]), x[:half]), sin))``."""
    if not is_op(node, "add") or not all(is_op(a, "mul") for a in node.args[:2]):
        return None
    pair: Any = node.args
    for straight, turned in (pair[:2], pair[1::-1]):
        x, cos = straight.args[:2]
        rotated, sin = turned.args[:2]
        if cos not in view.fixed or sin not in view.fixed or not is_op(rotated, "cat"):
            continue
        halves = rotated.args[0]
        if len(halves) != 2 or not is_op(halves[0], "neg") or not is_op(halves[0].args[0], "slice"):
            continue
        second, first = halves[0].args[0], halves[1]
        if not is_op(first, "slice") or first.args[0] is not x or second.args[0] is not x:
            continue
        members = [node, straight, turned, rotated, halves[0], second, first]
        if view.closed(node, members):
            return Group("rotary", node, tuple(members), {"input": x, "cos": cos, "sin": sin})
    return None
