"""Batch normalization in eval mode that has seen no data."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.program.errors import plain

__all__ = ["untouched_norm"]


@rule(
    "untouched-norm",
    quantity="number of batch norms in eval mode whose running mean is 0 and variance 1",
    thresholds={"note": 0.0},
    reason="""
    In eval mode a batch norm uses running statistics. Before any training they are those of construction, so that it
    passes its input on unchanged: the network that is read is not the one that will train, whose norms hold the signal
    at size one. Verdicts on sizes are then given as notes.
    """,
    source="Ioffe & Szegedy (2015), Batch normalization; PyTorch documentation, BatchNorm2d, running_mean",
)
def untouched_norm(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Name the first."""
    if not evidence.untouched:
        return []
    first = evidence.untouched[0]
    message = (
        f"untouched norms: {len(evidence.untouched)} batch norms in eval mode, `{plain(first, 60)}` first, have "
        "seen no "
        "data and pass signals on unchanged."
    )
    remedy = "Check the network in train mode (--train), which is the one that will learn."
    return [self.verdict("note", first, float(len(evidence.untouched)), message, remedy)]
