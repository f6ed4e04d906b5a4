"""Units that say nothing on any input."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import quoted

__all__ = ["dead_units"]


@rule(
    "dead-units",
    quantity="share of units of a one-sided nonlinearity whose slope vanishes on every input of the batch",
    thresholds={"error": 0.9, "warning": 0.7},
    reason="""
    A unit of ReLU or its kin that is on its flat side for every input passes nothing on and receives no gradient, so
    it never comes back. With centred pre-activations at most half of the units can be so; more means that biases or
    uncentred inputs push them there.
    """,
    source="Lu et al. (2020), Dying ReLU and initialization: theory and numerical examples",
)
def dead_units(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge each one-sided nonlinearity by its dead share; the first layer that is over the threshold is named."""
    over = []
    for p in evidence.points:
        if p.op != "pointwise" or p.shape != "one-sided":
            continue
        share = p.dead
        if share is None:
            share = evidence.value(p, "flat_fraction")
        if share is not None and share > self.thresholds["warning"]:
            over.append((p, share))
    if not over:
        return []
    first, _ = over[0]
    worst = max(share for _, share in over)
    severity = "error" if worst > self.thresholds["error"] else "warning"
    more = f" (and in {len(over) - 1} more)" if len(over) > 1 else ""
    message = f"dead units: {worst:.0%} of the units of {quoted(first)} are flat on every input{more}."
    remedy = "Set the biases before it to zero, centre the inputs, or use a nonlinearity that is flat on no side."
    return [self.verdict(severity, first.name, worst, message, remedy)]
