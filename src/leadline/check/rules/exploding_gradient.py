"""Early layers feel the loss too strongly."""

from __future__ import annotations

import math

from leadline.check.evidence import Evidence
from leadline.check.series import steepest_fall
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import layers, quoted, times

__all__ = ["exploding_gradient"]


@rule(
    "exploding-gradient",
    quantity="gradient (relative to the size of the signal) where it is largest, over where it is smallest after it",
    thresholds={"error": 3e3, "warning": 1e3},
    reason="""
    Where susceptibilities are above one while the signal's size is held (by saturation or by a normalization), the
    gradient grows exponentially towards the input: a step that is right for the last layers throws the first ones far
    away, and the loss is a rough function of the early weights. One step alone (a token that starts at zero before a
    norm) does not count. The thresholds were set on training runs: tanh networks with a factor of 500 and deep batch
    normalized ReLU networks with 900 still learn at small rates, those with 10,000 do not.
    """,
    source="Pennington, Schoenholz & Ganguli (2017), Resurrecting the sigmoid; Yang et al. (2019), Mean field theory "
    "of batch normalization",
)
def exploding_gradient(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge R = J K / K_out along the spine: it should not fall steeply with depth."""
    points = evidence.stations()
    fall = steepest_fall(evidence.response(points))
    if fall is None or fall.ratio <= 0 or fall.sustained <= 0:
        return []
    sustained = 1 / math.sqrt(fall.sustained)
    ratio, rate = 1 / math.sqrt(fall.ratio), 1 / math.sqrt(fall.rate)
    if sustained <= self.thresholds["warning"]:
        return []
    start, before, end = points[fall.start], points[max(fall.start - 1, 0)], points[fall.stop]
    severity = "error" if sustained > self.thresholds["error"] else "warning"
    message = (
        f"gradient explodes: it grows backwards by a factor {times(rate)} for each of "
        f"{layers(fall.stop - fall.start + 1)} "
        f"from {quoted(start)} on, so that at {quoted(before)} it is {times(ratio)} times that at {quoted(end)}."
    )
    remedy = (
        "Bring these layers to criticality (chi_perp near 1): smaller weights where the nonlinearity saturates, a skip "
        "connection around each, or fewer layers between two sums."
    )
    return [self.verdict(severity, start.name, ratio, message, remedy)]
