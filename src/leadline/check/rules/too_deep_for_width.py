"""The network is too deep for its width: its scale is a lottery."""

from __future__ import annotations

import math

from leadline.check.evidence import Evidence, Point
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import layers, quoted, times

__all__ = ["too_deep_for_width"]


@rule(
    "too-deep-for-width",
    quantity="nu sum 1/n_l: the relative variances that the layers add to the scale of the signal",
    thresholds={"error": 2.0, "warning": 0.5},
    reason="""
    At width n each layer adds a relative variance nu/n to the scale of its signals and gradients, and the layers add
    up: depth over width is what decides. Beyond one, two seeds of the same network differ by large factors, the mean is
    carried by rare draws while the typical network has almost no signal, and no setting found with one seed holds for
    the next.
    """,
    source="Hanin & Rolnick (2018), How to start training; Roberts, Yaida & Hanin (2022), The principles of deep "
    "learning theory, ch. 4",
)
def too_deep_for_width(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge the largest predicted spread, or nu times the sum of inverse widths where there is none."""
    points = _up_to_the_output(evidence.spine())
    spreads = [(p, _spread(evidence, p)) for p in points]
    known = [(p, s) for p, s in spreads if s is not None]
    if known:
        worst, value = max(known, key=lambda pair: pair[1])
    elif (summed := _summed(evidence, points)) is not None:
        worst, value = points[-1], summed
    else:
        return []
    if not value > self.thresholds["warning"]:
        return []
    severity = "error" if value > self.thresholds["error"] else "warning"
    start = next((p for p, s in known if s > self.thresholds["warning"]), worst)
    before = points[: points.index(worst) + 1]
    hidden = [p for p in before if p.weighted]
    width = _harmonic([p.width for p in hidden])
    message = (
        f"too deep for its width: the {layers(len(hidden))} of width {times(width)} up to {quoted(worst)} add relative "
        f"variances of {times(value)} in all to the scale of the signal, more than {self.thresholds['warning']} from "
        f"{quoted(start)} on, so that it is off by a factor {times(math.exp(math.sqrt(value)))} from seed to seed."
    )
    needed = value / self.thresholds["warning"]
    remedy = (
        f"Make these layers {times(needed)} times wider or their number {times(needed)} times smaller, use orthogonal "
        "weights, or put the layers on a residual stream with a small scale."
    )
    return [self.verdict(severity, start.name, value, message, remedy)]


def _up_to_the_output(points: list[Point]) -> list[Point]:
    """Without what is done to the output of the last layer: it samples the few units of the output, not a layer."""
    end = max((i for i, p in enumerate(points) if p.op not in ("pointwise", "mul")), default=-1)
    return points[: end + 1]


def _spread(evidence: Evidence, point: Point) -> float | None:
    pair = point.values.get("spread")
    if pair is None:
        return None
    # A variance of a heavy-tailed scale over few networks is far too low: the prediction is asked first.
    spread = pair.predicted if pair.predicted is not None else pair.measured
    # Layers multiply the scale, 1 + spread = prod (1 + nu / n_l): the logarithm is their sum.
    return None if spread is None else math.log1p(max(spread, 0.0))


def _summed(evidence: Evidence, points: list[Point]) -> float | None:
    r"""Sum of nu / n over hidden layers of a chain, with nu = 3 <s'^4> / <s'^2>^2 - 1 taken as that of ReLU or tanh."""
    chain = [p for p in points if p.weighted]
    if len(chain) != sum(p.weighted for p in evidence.points) or len(chain) < 2:
        return None
    shapes = {p.shape for p in points if p.op == "pointwise"}
    nu = 5.0 if "one-sided" in shapes else 2.0 / 3.0 if "bounded" in shapes else 2.0
    return nu * sum(1 / p.width for p in chain[:-1])


def _harmonic(widths: list[int]) -> float:
    return len(widths) / sum(1 / w for w in widths) if widths else math.nan
