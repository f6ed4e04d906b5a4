"""All inputs become one."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.series import steepest_fall
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import layers, quoted, times

__all__ = ["rank_collapse"]


@rule(
    "rank-collapse",
    quantity="distance 1 - c of two inputs at the output, over that at the first layer",
    thresholds={"error": 1e-7, "warning": 3e-7},
    reason="""
    In the ordered phase the correlation c of any two inputs tends to one exponentially with depth, and uncentred
    nonlinearities do the same to critical networks more slowly. When nothing is left of the difference, the output is
    the same for every input and the gradients of all samples point the same way: the network fits the mean of the
    targets and no more. The last layer is left out, since its bias is the same for all inputs and harmless. The
    thresholds were set on training runs: tanh and ReLU networks at 1e-6 still halve their loss in 200 steps of Adam,
    networks below 1e-8 do not.
    """,
    source="Schoenholz et al. (2017), Deep information propagation; Martens et al. (2021), Rapid training "
    "of deep networks",
)
def rank_collapse(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge the fall of 1 - c along the spine, where the last layers do not restore it."""
    points = evidence.stations()
    if len(points) > 2 and points[-1].weighted:
        points = points[:-1]
    distance = [evidence.distance(p) for p in points]
    known = [d for d in distance if d is not None]
    fall = steepest_fall(distance)
    if fall is None or not known or fall.ratio >= self.thresholds["warning"]:
        return []
    before = next((d for d in distance[fall.start - 1 :: -1] if d is not None), 1.0)
    if known[-1] > before * self.thresholds["warning"]:
        return []  # a later normalization brings the difference back
    start = points[fall.start]
    severity = "error" if fall.ratio < self.thresholds["error"] else "warning"
    # Layers until a tenth of the difference is left: correlations are lost for practical purposes.
    lost = next((i for i in range(fall.start, fall.stop + 1) if (distance[i] or 0.0) < 0.1 * before), fall.stop)
    message = (
        f"inputs collapse: from {quoted(start)} on their correlation tends to 1, a tenth of the difference is left "
        f"after {layers(lost - fall.start + 1)} and {times(fall.ratio)} of it after "
        f"{layers(fall.stop - fall.start + 1)}."
    )
    remedy = (
        "Raise the weights to the critical C_W of the nonlinearity with small biases, centre the nonlinearity, "
        "add skip "
        "connections, or normalize over the batch."
    )
    return [self.verdict(severity, start.name, fall.ratio, message, remedy)]
