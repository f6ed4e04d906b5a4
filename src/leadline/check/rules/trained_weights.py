"""The weights are not a fresh draw."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.program.errors import plain
from leadline.program.laws import TRAINED_LEVEL

__all__ = ["trained_weights"]


@rule(
    "trained-weights",
    quantity="chance that a fresh draw looks like these weights",
    thresholds={"note": TRAINED_LEVEL},
    reason="""
    Predictions speak of networks drawn at random with the size of these weights. Training makes rows, columns and
    singular values unlike a random draw; then predictions are a reference and the verdicts go by what is measured on
    the network itself.
    """,
    source="Johnstone (2001), On the distribution of the largest eigenvalue; Martin & Mahoney (2021), Implicit "
    "self-regularization in deep neural networks",
)
def trained_weights(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Say so."""
    found = evidence.trained
    if found is None or not found.trained:
        return []
    layer = found.tensors[0].rpartition(".")[0] if found.tensors else None
    message = (
        f"trained weights: {plain(found.reason, 300)}; predictions speak of the law that such weights would be drawn "
        "from, measurements and verdicts of this network."
    )
    return [
        self.verdict(
            "note", layer or None, found.p_value, message, "Compare with a fresh build to see what training changed."
        )
    ]
