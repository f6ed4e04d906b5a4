"""Signals or gradients leave the range of 16-bit numbers."""

from __future__ import annotations

import math

from leadline.check.evidence import Evidence, Point
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import quoted, times

__all__ = ["half_precision"]

_LARGEST = 65504.0
_SMALLEST = 2.0**-24
_SIGMAS = 6.0  # the largest of a million Gaussian values is near 5 standard deviations
_SAFE = 64.0
_MASK = 1e30  # the most negative number of a mask is no signal


@rule(
    "half-precision",
    quantity="largest signal against 65504, and smallest typical gradient against 6e-8, the range of float16",
    thresholds={"error": 65504.0, "warning": 65504.0},
    reason="""
    float16 ends at 65504 and rounds what is below 6e-8 to zero; bfloat16 has the range of float32. A signal that
    passes the upper end is infinite from there on. A gradient below the lower end is lost unless the loss is multiplied
    by a scale that brings it back. In a model of float16 this is an error; in another it is a note for mixed precision.
    """,
    source="Micikevicius et al. (2018), Mixed precision training",
)
def half_precision(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge peaks and gradients of all points."""
    severity = "error" if evidence.half == "float16" else "note"
    found = []
    over = next((p for p in evidence.points if (_peak(evidence, p) or 0.0) * _SIGMAS > _LARGEST), None)
    if over is not None:
        peak = _peak(evidence, over) or 0.0
        message = (
            f"float16 overflows: values of {quoted(over)} have size {times(peak)}, so its largest ones pass 65504."
        )
        remedy = "Use bfloat16 (or float32) from this layer on, or lower the signal before it."
        found.append(self.verdict(severity, over.name, peak, message, remedy))
    gradients = [(p, g) for p in evidence.stations() if (g := _gradient(evidence, p)) is not None and g > 0]
    if gradients:
        lowest, g = min(gradients, key=lambda pair: pair[1])
        if g < _SMALLEST * _SAFE:
            scale = math.ceil(math.log2(_SMALLEST * _SAFE / g))
            message = (
                f"float16 underflows: a typical gradient at {quoted(lowest)} is {times(g)}, so a loss scale of at "
                "least "
                f"2^{scale} is needed."
            )
            remedy = f"Train with torch.amp.GradScaler(init_scale=2.0**{max(scale, 16)}), or use bfloat16."
            found.append(self.verdict(severity, lowest.name, g, message, remedy))
    return found


def _peak(evidence: Evidence, point: Point) -> float | None:
    peak = evidence.value(point, "peak")
    if peak is None:
        kernel = evidence.value(point, "kernel")
        peak = math.sqrt(kernel) if kernel is not None and kernel > 0 else None
    return None if peak is not None and _MASK < peak < math.inf else peak


def _gradient(evidence: Evidence, point: Point) -> float | None:
    """Typical derivative of one output by one value of the point."""
    J = evidence.value(point, "partial_jacobian")
    return math.sqrt(J / point.width) if J is not None and J >= 0 else None
