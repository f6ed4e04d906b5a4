"""Inputs that are not centred, or not of size one."""

from __future__ import annotations

from leadline.check.evidence import Evidence, Point
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import quoted, times
from leadline.program.errors import plain

__all__ = ["input_scale"]

_RESTORED = 0.5
_NORMS = ("layer_norm", "rms_norm", "group_norm", "batch_norm")
_SIZE = 30.0


@rule(
    "input-scale",
    quantity="mean of the inputs over their standard deviation",
    thresholds={"error": 10.0, "warning": 4.0},
    reason="""
    Initializations are made for inputs of mean zero and size one. A mean that is large against the spread makes all
    inputs nearly the same vector: their correlation starts near one, one direction of the loss is steeper than the
    others by the square of the ratio, and learning the difference between inputs is slow. A size far from one moves the
    first kernel away from the point that the weights were drawn for, and the first layer's learning rate with it.
    """,
    source="LeCun et al. (1998), Efficient backprop, section 4.3",
)
def input_scale(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge floating-point inputs, unless a norm of the network mends them at once."""
    found = []
    early = [p for p in evidence.points if p.spine][:3]
    first = next((p for p in early if p.weighted), early[0] if early else None)
    normed = any(p.op in _NORMS for p in early[:2])
    for x in evidence.inputs:
        name = f"input '{plain(x.name, 40)}'"
        ratio = abs(x.mean) / x.std if x.std > 0 else 0.0
        restored = normed and _correlation(evidence, early) < _RESTORED
        if ratio > self.thresholds["warning"] and not restored:
            severity = "error" if ratio > self.thresholds["error"] else "warning"
            alike = (
                f", so that two of them have a correlation of {x.correlation:.4f}" if x.correlation is not None else ""
            )
            message = (
                f"inputs are not centred: {name} has mean {times(x.mean)} and standard deviation {times(x.std)} at "
                f"{quoted(first)}{alike}."
            )
            remedy = "Subtract the mean of the training set from the inputs and divide by its standard deviation."
            found.append(self.verdict(severity, first.name if first else None, ratio, message, remedy))
        elif not normed and x.rms > 0 and not 1 / _SIZE <= x.rms <= _SIZE:
            message = (
                f"inputs are mis-scaled: {name} has a root mean square of {times(x.rms)} at "
                f"{quoted(first)}, 1 is expected."
            )
            remedy = f"Divide the inputs by {times(x.rms)}, or begin the network with a normalization."
            found.append(self.verdict("warning", first.name if first else None, x.rms, message, remedy))
    return found


def _correlation(evidence: Evidence, points: list[Point]) -> float:
    known = [c for p in points if (c := evidence.value(p, "correlation")) is not None]
    return min(known, default=1.0)
