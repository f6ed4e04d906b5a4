"""Which layers write to the residual stream."""

from __future__ import annotations

from leadline.check.evidence import Evidence, Point

__all__ = ["branch_ends", "residual_projections"]

_PASSING = ("dropout", "mul", "transpose", "permute", "reshape", "view", "clone", "alias", "getitem", "contiguous")


def branch_ends(evidence: Evidence, add: Point) -> list[Point]:
    """The points whose values a sum adds, seen through steps that only pass them on.

    Args:
        evidence: with the steps that feed each point.
        add: a point whose operator is a sum.

    Returns:
        One point an operand that has a row.
    """
    by_step = {p.step: p for p in evidence.points}
    found = []
    for name in add.inputs:
        point = by_step.get(name)
        while point is not None and point.op in _PASSING and len(point.inputs) >= 1 and point.inputs[0] in by_step:
            point = by_step[point.inputs[0]]
        if point is not None:
            found.append(point)
    return found


def residual_projections(evidence: Evidence) -> list[Point]:
    """Layers whose output is added to a stream that every path passes through.

    Args:
        evidence: with the steps that feed each point.

    Returns:
        Points with a weight, in order.
    """
    found = []
    for add in evidence.spine():
        if add.op == "add":
            ends = [p for p in branch_ends(evidence, add) if p.op in ("linear", "conv") and not p.spine]
            found += [p for p in ends if p not in found]
    return found
