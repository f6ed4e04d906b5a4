"""The residual stream grows with depth."""

from __future__ import annotations

from statistics import median

from leadline.check.evidence import Evidence, Point
from leadline.check.residual import residual_projections
from leadline.check.series import steepest_fall
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import layers, quoted, times

__all__ = ["residual_growth"]

_APPLIED = 0.7  # of the way from not scaled to scaled, in standard deviation
_LEAST_BLOCKS = 3


@rule(
    "residual-growth",
    quantity="variance of the residual projections over what the model's initializer means it to be, or "
    "growth of the stream",
    thresholds={"error": 2.0, "warning": 1e4},
    reason="""
    Each block adds its branch to the stream, so the stream's variance grows with depth unless the last weights of
    every branch are drawn smaller, by 1/sqrt(2L) for L blocks of two branches. Some libraries mean to do so and never
    do, because the name that they look for never matches. Then late blocks count for little, the stream is many times
    larger than planned, and a learning rate found on a shallow model does not carry over. Where no scale is meant, a
    stream that is multiplied by blocks without normalization is still reported.
    """,
    source="Radford et al. (2019), Language models are unsupervised multitask learners, section 2.3; "
    "huggingface/transformers issue 47458",
)
def residual_growth(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge the projections against the intention, and the stream's own growth."""
    adds = [p for p in evidence.spine() if p.op == "add"]
    found = _meant(self, evidence, adds)
    if not found and len(adds) >= _LEAST_BLOCKS:
        found = _grown(self, evidence, adds)
    return found


def _meant(self: VerdictRule, evidence: Evidence, adds: list[Point]) -> list[Verdict]:
    scale = evidence.residual_scale
    projections = residual_projections(evidence)
    others = [
        p.weight.std
        for p in evidence.points
        if p.op == "linear" and p.weight is not None and p.weight.std > 0 and p not in projections
    ]
    if scale is None or scale > _APPLIED or not projections or not others or not adds:
        return []
    usual = median(others)
    wrong = [p for p in projections if p.weight is not None and p.weight.std > usual * scale ** (1 - _APPLIED)]
    if len(wrong) < len(projections) / 2:
        return []
    first = wrong[0]
    excess = median((p.weight.std / (usual * scale)) ** 2 for p in wrong if p.weight is not None)
    start, end = evidence.value(adds[0], "kernel"), evidence.value(adds[-1], "kernel")
    grown = f": the stream grows from {times(start)} to {times(end)}" if start and end else ""
    message = (
        f"residual stream grows: the model means to scale its {len(projections)} residual projections by "
        f"{times(scale)}, but from {quoted(first)} on they are drawn at full size, {times(excess)} times the variance"
        f"{grown}."
    )
    remedy = (
        f"Multiply these weights by {times(scale)} (1/sqrt(2L)) after building the model, or use a version of the "
        "library in which its initializer reaches them."
    )
    return [self.verdict("error", first.name, excess, message, remedy)]


def _grown(self: VerdictRule, evidence: Evidence, adds: list[Point]) -> list[Verdict]:
    rise = steepest_fall([1 / k if (k := evidence.value(p, "kernel")) else None for p in adds])
    if rise is None or rise.stop - rise.start + 1 < _LEAST_BLOCKS:
        return []
    rate, ratio = 1 / rise.rate, 1 / rise.ratio
    # A sum of equal branches grows in proportion to depth, which no one calls broken.
    if ratio < self.thresholds["warning"] or rate < 1.2:
        return []
    start = adds[rise.start]
    message = (
        f"residual stream grows: its kernel is multiplied by {times(rate)} a block from {quoted(start)} on, by "
        f"{times(ratio)} over {layers(rise.stop - rise.start + 1)}."
    )
    remedy = "Scale each branch by 1/sqrt(number of blocks) or start its last weights at zero, or normalize its input."
    return [self.verdict("warning", start.name, ratio, message, remedy)]
