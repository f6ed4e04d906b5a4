"""The network starts out certain, and wrong."""

from __future__ import annotations

import math

from leadline.check.evidence import Evidence
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import quoted, times

__all__ = ["output_scale"]

_NOTHING = 1e-5  # outputs that start at exactly zero are meant to; those that nearly vanish are not
_LOGITS = 10.0  # root mean square from which a classifier is certain of a random class


@rule(
    "output-scale",
    quantity="initial loss over that of a blind guess (without a loss: root mean square of the outputs)",
    thresholds={"error": 10.0, "warning": 3.0},
    reason="""
    Before training a network knows nothing, so its loss should be near that of the best constant guess: the entropy of
    the classes, or the variance of the targets. Outputs of size s add about s²/2 to the cross entropy while s is small,
    s itself while it is large, and s² to the mean square: the first steps are then spent on undoing the initialization.
    """,
    source="Karpathy (2019), A recipe for training neural networks (verify loss at init); Yang & Hu (2021), Feature "
    "learning in infinite-width neural networks",
)
def output_scale(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge the loss where there is one, else the size of the outputs."""
    spine = evidence.spine()
    if not spine:
        return []
    last = next((p for p in reversed(spine) if p.weighted), spine[-1])
    kernel = evidence.value(spine[-1], "kernel")
    size = math.sqrt(kernel) if kernel is not None and kernel >= 0 else None
    loss = evidence.loss
    if loss is not None and loss.blind is not None and loss.blind > 0:
        ratio = loss.measured / loss.blind
        if ratio <= self.thresholds["warning"] and math.isfinite(ratio):
            return []
        severity = "error" if ratio > self.thresholds["error"] or not math.isfinite(ratio) else "warning"
        outputs = f" because outputs have size {times(size)}" if size is not None else ""
        message = (
            f"outputs are mis-scaled: at {quoted(last)} the initial loss is {times(loss.measured)}, "
            f"{times(ratio)} times "
            f"the {times(loss.blind)} of a blind guess{outputs}."
        )
        return [self.verdict(severity, last.name, ratio, message, _remedy(size))]
    if size is not None and 0 < size < _NOTHING:
        message = (
            f"outputs are mis-scaled: those of {quoted(last)} have size {times(size)}, so changes of the weights "
            "that keep "
            "the signal's size cannot be seen in the loss."
        )
        return [
            self.verdict(
                "error",
                last.name,
                size,
                message,
                "Multiply the outputs (or the last layer's weights) by a number that brings them to size 1.",
            )
        ]
    if size is None or size <= _LOGITS or not evidence.classifier:
        return []
    message = (
        f"outputs are mis-scaled: logits of {quoted(last)} have size {times(size)}, so the network starts certain of a "
        "random class."
    )
    severity = "error" if size > 10 * _LOGITS else "warning"
    return [self.verdict(severity, last.name, size, message, _remedy(size))]


def _remedy(size: float | None) -> str:
    factor = f" by {times(1 / size)}" if size and size > 1 else ""
    return f"Scale the last layer's weights{factor} (or start them at zero), or divide the outputs by a temperature."
