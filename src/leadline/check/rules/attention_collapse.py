"""Attention makes all tokens alike, or looks at one token only."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.series import steepest_fall
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import layers, quoted, times

__all__ = ["attention_collapse"]


@rule(
    "attention-collapse",
    quantity="distance 1 - c of two tokens of one sample at the end of a fall over its beginning",
    thresholds={"error": 1e-6, "warning": 1e-5},
    reason="""
    At initialization attention weights are nearly uniform, so each attention replaces tokens by their mean. Without
    skip connections, or with branches far larger than the stream, all tokens become one at a rate that is doubly
    exponential in depth, and the gradients of queries and keys vanish with their differences.
    """,
    source="Dong, Cordonnier & Loukas (2021), Attention is not all you need; Noci et al. (2022), Signal propagation in "
    "transformers",
)
def attention_collapse(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge the fall of 1 - c between tokens along the spine of a network with attention."""
    if not any("attention" in p.op for p in evidence.points):
        return []
    points = [p for p in evidence.spine() if "attention" in p.op or p in evidence.stations()]
    distance = [evidence.distance(p, "site_correlation") for p in points]
    known = [d for d in distance if d is not None]
    fall = steepest_fall(distance)
    if fall is None or fall.ratio >= self.thresholds["warning"]:
        return []
    before = next((d for d in distance[fall.start - 1 :: -1] if d is not None), 1.0)
    if known[-1] > before * self.thresholds["warning"]:
        return []
    start = points[fall.start]
    severity = "error" if fall.ratio < self.thresholds["error"] else "warning"
    message = (
        f"attention collapses tokens: from {quoted(start)} on they become alike, {times(fall.ratio)} of their "
        "difference "
        f"is left after {layers(fall.stop - fall.start + 1)}."
    )
    remedy = "Put a skip connection around each attention, or scale down its branch against the stream."
    return [self.verdict(severity, start.name, fall.ratio, message, remedy)]
