"""Two close inputs end up unrelated."""

from __future__ import annotations

import math

from leadline.check.evidence import Evidence
from leadline.check.series import steepest_fall
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import layers, quoted, times

__all__ = ["chaos"]

_LEAST_LAYERS = 4


@rule(
    "chaos",
    quantity="growth of a small difference between two inputs, relative to the signal, up to the output",
    thresholds={"error": 3e3, "warning": 1e3},
    reason="""
    In the chaotic phase chi_perp is above one: two inputs that differ a little are sent to unrelated outputs. The
    network then starts as a hash function: it can store its training set, but what it learns on one input says nothing
    of its neighbours.
    """,
    source="Poole et al. (2016), Exponential expressivity in deep neural networks through transient chaos",
)
def chaos(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge the product of chi_perp over the growth of the kernel along the spine."""
    points = evidence.spine()
    growth: list[float | None] = []
    total, previous = 1.0, None
    kept = []
    for p in points:
        chi, K = evidence.value(p, "chi_perp"), evidence.value(p, "kernel")
        if not p.weighted or K is None or K <= 0:
            continue
        if chi is not None and previous is not None and chi > 0:
            # one difference, carried on by chi_perp while the signal itself goes from one kernel to the next
            total /= chi * previous / K
        growth.append(total)
        kept.append(p)
        previous = K
    fall = steepest_fall(growth)
    if fall is None or fall.stop - fall.start + 1 < _LEAST_LAYERS:
        return []
    ratio, rate = math.sqrt(1 / fall.ratio), math.sqrt(1 / fall.rate)
    if ratio <= self.thresholds["warning"]:
        return []
    start = kept[fall.start]
    severity = "error" if ratio > self.thresholds["error"] else "warning"
    message = (
        f"chaos: a small difference between two inputs grows by a factor {times(rate)} a layer from "
        f"{quoted(start)} on, "
        f"{times(ratio)} over {layers(fall.stop - fall.start + 1)}."
    )
    remedy = "Lower the variance of these weights until chi_perp is near 1, or add skip connections."
    return [self.verdict(severity, start.name, ratio, message, remedy)]
