"""Normalization after each sum, in a deep network."""

from __future__ import annotations

from itertools import pairwise

from leadline.check.evidence import Evidence, Point
from leadline.check.residual import branch_ends
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import quoted, times

__all__ = ["norm_placement"]

_NORMS = ("layer_norm", "rms_norm", "group_norm", "batch_norm")
_LEAST_SUMS = 4


@rule(
    "norm-placement",
    quantity="sum over blocks of the branch's share of the stream times the output's response to it",
    thresholds={"error": 10.0, "warning": 8.0},
    reason="""
    With a norm after each sum (post-LN) every branch keeps a fixed share of the stream, so small changes of all
    weights add up to an output change in proportion to depth; with a norm inside the branch (pre-LN) the shares fall
    like one over depth and the sum grows like its logarithm. Deep post-LN networks therefore diverge in the first
    steps unless the learning rate is warmed up, and their gradients sit near the output. The thresholds were set on
    training runs: 12 blocks with equal branches (6) still learn at every rate up to 0.001, transformers of 24
    blocks (11)
    at none.
    """,
    source="Xiong et al. (2020), On layer normalization in the transformer architecture; Liu et al. (2020), "
    "Understanding the difficulty of training transformers",
)
def norm_placement(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge sums on the spine that a norm follows directly."""
    spine = evidence.spine()
    sums = [
        (p, follower)
        for p, follower in pairwise(spine)
        if p.op == "add" and follower.op in _NORMS and p.step in follower.inputs
    ]
    if len(sums) < _LEAST_SUMS:
        return []
    response = dict(zip([p.step for p in spine], evidence.response(spine), strict=True))
    total = 0.0
    for p, _ in sums:
        share = _branch_share(evidence, p)
        seen = response[p.step]
        # A gradient that dies on the way, or explodes, has its own verdict; here a branch counts at most once.
        total += 0.0 if share is None else share * min(1.0 if seen is None else seen, 1.0)
    if total <= self.thresholds["warning"]:
        return []
    severity = "error" if total > self.thresholds["error"] else "warning"
    first = sums[0][1]
    message = (
        f"norm placement: {len(sums)} sums are each followed by a norm from {quoted(first)} on, so changes of the "
        f"weights add up to {times(total)} times the output (log of the depth with the norm inside the branches)."
    )
    remedy = (
        "Move each norm into its branch (pre-LN) with one norm at the end, or warm the learning rate up over some "
        "thousand steps, or scale the branches down."
    )
    return [self.verdict(severity, first.name, total, message, remedy)]


def _branch_share(evidence: Evidence, add: Point) -> float | None:
    """Kernel of the branch over that of the sum; the branch is the operand that does not lie on every path."""
    whole = evidence.value(add, "kernel")
    branches = [p for p in branch_ends(evidence, add) if not p.spine]
    kernel = evidence.value(branches[0], "kernel") if branches else None
    return min(kernel / whole, 1.0) if whole and kernel is not None else None
