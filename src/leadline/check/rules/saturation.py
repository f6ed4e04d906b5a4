"""A bounded nonlinearity is driven to its flat ends."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import quoted, times

__all__ = ["saturation"]


@rule(
    "saturation",
    quantity="share of units of a bounded nonlinearity whose slope is below 1 % of its maximum",
    thresholds={"error": 0.8, "warning": 0.5},
    reason="""
    A tanh or sigmoid far from zero is a constant: it passes the sign of its input on and almost no gradient back. At
    initialization this comes from weights or inputs that are too large, and it does not mend itself.
    """,
    source="Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward neural networks",
)
def saturation(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge each bounded nonlinearity by its flat share."""
    over = []
    for p in evidence.points:
        share = evidence.value(p, "flat_fraction") if p.op == "pointwise" and p.shape == "bounded" else None
        if share is not None and share > self.thresholds["warning"]:
            over.append((p, share))
    if not over:
        return []
    first = over[0][0]
    worst = max(share for _, share in over)
    severity = "error" if worst > self.thresholds["error"] else "warning"
    more = f", and more than {self.thresholds['warning']:.0%} in {len(over) - 1} more" if len(over) > 1 else ""
    kernel = _kernel_before(evidence, first.inputs)
    size = f" at pre-activations of size {times(kernel**0.5)}" if kernel else ""
    message = f"saturation: {worst:.0%} of the units of {quoted(first)} are on the flat ends{size}{more}."
    remedy = "Lower the weights (or the inputs) before it until pre-activations are of order 1, or normalize them."
    return [self.verdict(severity, first.name, worst, message, remedy)]


def _kernel_before(evidence: Evidence, steps: tuple[str, ...]) -> float | None:
    for step in steps:
        point = evidence.at(step)
        if point is not None:
            return evidence.value(point, "kernel")
    return None
