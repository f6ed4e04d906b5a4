"""The signal grows without end on its way through the network."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.remedies import change_gain
from leadline.check.series import steepest_fall
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import layers, quoted, times

__all__ = ["exploding_signal"]


@rule(
    "exploding-signal",
    quantity="kernel at the end of a rise over its beginning",
    thresholds={"error": 1e8, "warning": 1e6},
    reason="""
    Above the critical line a homogeneous network multiplies its kernel in each layer, and a residual stream without
    normalization in each block. Outputs, losses and gradients then start at sizes that no learning rate fits, and
    half precision overflows. The rule looks at the whole rise between layers that no normalization separates.
    """,
    source="He et al. (2015), Delving deep into rectifiers; Zhang, Dauphin & Ma (2019), Fixup initialization",
)
def exploding_signal(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge the rise of K along the spine, which is a fall of 1/K."""
    # An embedding's size is its own matter (embedding-scale).
    points = [p for p in evidence.stations() if p.op != "embedding"]
    kernels = [evidence.value(p, "kernel") for p in points]
    if any(k is not None and k != k for k in kernels) or any(k == float("inf") for k in kernels):
        first = next(p for p, k in zip(points, kernels, strict=True) if k is not None and (k != k or k == float("inf")))
        message = f"signal explodes: the kernel is not finite from {quoted(first)} on."
        return [
            self.verdict("error", first.name, None, message, "Lower the weights of the layers before, or normalize.")
        ]
    entry = evidence.inputs[0].rms ** 2 if len(evidence.inputs) == 1 else None
    rise = steepest_fall([1 / k if k else None for k in (entry, *kernels)])
    if rise is None or 1 / rise.ratio <= self.thresholds["warning"]:
        return []
    start, ratio, rate = points[max(rise.start - 1, 0)], 1 / rise.ratio, 1 / rise.rate
    severity = "error" if ratio > self.thresholds["error"] else "warning"
    message = (
        f"signal explodes: the kernel grows by a factor {times(rate)} a layer from {quoted(start)} on, by "
        f"{times(ratio)} over {layers(rise.stop - rise.start + 1)}."
    )
    return [self.verdict(severity, start.name, ratio, message, change_gain(start, rate))]
