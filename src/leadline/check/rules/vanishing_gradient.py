"""Early layers do not feel the loss."""

from __future__ import annotations

import math

from leadline.check.evidence import Evidence
from leadline.check.series import steepest_fall
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import layers, quoted, times

__all__ = ["vanishing_gradient"]


@rule(
    "vanishing-gradient",
    quantity="gradient (relative to the size of the signal) where it is smallest, over where it is largest after it",
    thresholds={"error": 1e-4, "warning": 1e-3},
    reason="""
    The response of the output to a small relative change at a layer is a product of susceptibilities over the layers
    after it. Where they are below one it decays exponentially towards the input: early layers learn nothing, however
    the learning rate is chosen. Only layers that every path passes through are judged, as a branch of a residual
    network may be weak by design, and one step alone (a token that starts at zero before a norm) does not count.
    """,
    source="Schoenholz et al. (2017), Deep information propagation; Doshi, He & Gromov (2023), partial Jacobian norms",
)
def vanishing_gradient(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge R = J K / K_out along the spine: it should not rise with depth."""
    points = evidence.stations()
    response = evidence.response(points)
    known = [r for r in response if r is not None]
    if not known or max(known[:-1], default=0.0) == 0.0:
        return []  # an output layer that starts at zero gives no gradient yet, on purpose
    # Read backwards from the output, the response falls.
    fall = steepest_fall(response[::-1])
    if fall is None:
        return []
    ratio, rate = math.sqrt(fall.ratio), math.sqrt(fall.rate)
    if math.sqrt(fall.sustained) >= self.thresholds["warning"]:
        return []
    last, first = len(points) - 1 - fall.start, len(points) - 1 - fall.stop
    # The gradient at `first` is small because of what follows it: the trouble is in the layers after it.
    start, end = (
        points[first + 1 if first + 1 < len(points) and first > 0 else first],
        points[min(last + 1, len(points) - 1)],
    )
    severity = "error" if math.sqrt(fall.sustained) < self.thresholds["error"] else "warning"
    message = (
        f"gradient vanishes: it falls backwards by a factor {times(rate)} for each of "
        f"{layers(fall.stop - fall.start + 1)} "
        f"from {quoted(start)} on, so that at {quoted(points[first])} it is {times(ratio)} of that at {quoted(end)}."
    )
    remedy = (
        "Bring these layers to criticality (chi_perp near 1): larger weights or a less saturated nonlinearity, a skip "
        "connection around each, or fewer layers."
    )
    return [self.verdict(severity, start.name, ratio, message, remedy)]
