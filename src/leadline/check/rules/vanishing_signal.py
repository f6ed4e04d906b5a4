"""The signal dies on its way through the network."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.remedies import change_gain
from leadline.check.series import steepest_fall
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import layers, quoted, times

__all__ = ["vanishing_signal"]

_KERNEL_TOO = 0.1  # where the kernel itself stays, inputs merge: that is rank collapse
_COLLAPSED = 1e-7  # distance of two inputs that is as good as none
_HOPELESS = 1e-12  # a kernel that small is below what Adam's eps lets through


@rule(
    "vanishing-signal",
    quantity="part of the kernel that tells inputs apart, at the end of a fall over its beginning",
    thresholds={"error": 1e-9, "warning": 3e-9},
    reason="""
    Off the critical line the kernel of a layer is a fixed fraction of that of the layer before, so what the network
    says of its input shrinks exponentially with depth. What is left at the output is the biases, or rounding. The rule
    looks at the whole fall: a small factor a layer is harmless in a shallow network, and one step alone (a norm after a
    large stream) does not count. Adaptive optimizers recover from a
    signal that is merely small while inputs still differ, so that is a warning until the kernel has fallen by 1e-12.
    The thresholds were set on training runs: plain tanh and ReLU networks of 10 to 15 layers at 1e-8 still learn.
    """,
    source="Poole et al. (2016), Exponential expressivity in deep neural networks; Roberts, Yaida & Hanin "
    "(2022), ch. 5",
)
def vanishing_signal(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge the fall of K (1 - c) along the spine."""
    points = evidence.stations()
    signals = [evidence.signal(p) for p in points]
    entry = evidence.entry_signal()
    fall = steepest_fall([entry, *signals])
    kernel = steepest_fall([evidence.value(p, "kernel") for p in points])
    if fall is None or kernel is None or kernel.ratio > _KERNEL_TOO or fall.sustained >= self.thresholds["warning"]:
        return []
    c = evidence.value(points[fall.stop - 1], "correlation")
    lost = kernel.ratio < _HOPELESS or (c is not None and 1 - c < _COLLAPSED)
    severity = "error" if fall.sustained < self.thresholds["error"] and lost else "warning"
    start = points[fall.start - 1]  # the entry is number 0
    count = fall.stop - fall.start + 1
    message = (
        f"signal vanishes: the part of the kernel that tells inputs apart falls by a factor {times(fall.rate)} a layer "
        f"from {quoted(start)} on, to {times(fall.ratio)} of itself after {layers(count)}."
    )
    return [self.verdict(severity, start.name, fall.ratio, message, change_gain(start, fall.rate))]
