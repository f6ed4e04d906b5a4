"""What the monitor reads off a network at one step, and what the readings say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["FEATURES", "LAZY", "Reading", "edge_words", "regime"]

LAZY = 0.1  # a tangent kernel that has changed by less: training is that of a linear model
FEATURES = 0.3  # and by more: the kernel is learned
_FALL = 0.5  # of the loss, before which a kernel that has not moved says nothing
_NEAR = 0.9  # share of the edge from which a network counts as at it


@dataclass(frozen=True)
class Reading:
    r"""A network at one step.

    Attributes:
        step: number of updates so far.
        loss: of the monitor's batch; None where there is no loss.
        rate: learning rate, the largest of the parameter groups; None without an optimizer.
        sharpness: largest curvature of the loss, per squared weight; under Adam of the preconditioned loss. Where groups
            have other rates, their weights count by the root of their share of the largest rate.
        residual: an eigenvalue lies within it of the sharpness.
        edge: largest sharpness at which this rate is stable, 2/rate for gradient descent; None where none follows.
        kernel_change: of the tangent kernel since the start, :math:`|K - K_0|/|K_0|`.
        kernel_turn: of its direction, 1 - cosine(K, K_0): what is left when only its size has changed.
        updates: of the last step, :math:`|\Delta W|/|W|` by layer.
        features: of what a layer gives out, since the start, :math:`|h - h_0|/|h_0|`.
        dead: share of a layer's units that are flat on every input of the batch.
        seconds: what the reading cost.
        notes: what could not be read, and why.
    """

    step: int
    loss: float | None = None
    rate: float | None = None
    sharpness: float | None = None
    residual: float | None = None
    edge: float | None = None
    kernel_change: float | None = None
    kernel_turn: float | None = None
    updates: Mapping[str, float] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    dead: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def of_edge(self) -> float | None:
        """Sharpness as a share of the edge; None where either is unknown."""
        if self.sharpness is None or self.edge is None or not self.edge > 0:
            return None
        return self.sharpness / self.edge

    def scalars(self, prefix: str = "leadline/", *, layers: bool = True) -> dict[str, float]:
        """Everything that is a finite number, by the name under which it is logged.

        Args:
            prefix: of every name.
            layers: also by layer; else medians of steps and features, and the largest share of dead units.

        Returns:
            Name to number.
        """
        single = {
            "loss": self.loss, "sharpness": self.sharpness, "edge": self.edge, "sharpness_over_edge": self.of_edge,
            "kernel_change": self.kernel_change, "kernel_turn": self.kernel_turn,
        }  # fmt: skip
        found = {name: value for name, value in single.items() if value is not None}
        for kind, values in (("update", self.updates), ("feature_change", self.features), ("dead", self.dead)):
            if values:
                found[kind] = statistics.median(values.values()) if kind != "dead" else max(values.values())
            if layers:
                found |= {f"{kind}/{layer or 'model'}": value for layer, value in values.items()}
        return {prefix + name: value for name, value in found.items() if math.isfinite(value)}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts."""
        found = asdict(self)
        return {**found, "notes": list(self.notes)}


def regime(readings: Sequence[Reading]) -> tuple[str, str]:
    """Whether training moves the tangent kernel, by the latest reading that has one.

    Lazy: it has changed by less than :data:`LAZY`, as at infinite width, where a network is a linear model in its
    weights; this is said once the loss of the batch has halved, for a network that has learned little has not moved its
    kernel either. Feature learning: by more than :data:`FEATURES`. The three numbers are a convention.

    Args:
        readings: in order.

    Returns:
        "lazy", "feature learning", "between", "undecided" or "unknown"; and the sentence that says why.
    """
    known = [r for r in readings if r.kernel_change is not None and math.isfinite(r.kernel_change)]
    if not known:
        return "unknown", "the tangent kernel was not measured."
    start, last = readings[0].loss, known[-1]
    change = last.kernel_change or 0.0
    said = f"the tangent kernel has changed by {change:.2g} of its size in {last.step} steps"
    if change > FEATURES:
        return "feature learning", f"{said} (more than {FEATURES}): its features are learned."
    if start is None or last.loss is None or not last.loss <= (1 - _FALL) * start:
        return "undecided", f"{said}, and the loss of the batch has not halved yet."
    if change < LAZY:
        return "lazy", f"{said} (less than {LAZY}): it trains like a linear model in its weights."
    return "between", f"{said}, between lazy (less than {LAZY}) and feature learning (more than {FEATURES})."


def edge_words(reading: Reading) -> str:
    """How a sharpness stands to the edge, in words.

    Args:
        reading: one with both.

    Returns:
        A few words.
    """
    share = reading.of_edge
    if share is None:
        return "no edge follows from curvature for this optimizer"
    if share > 1 / _NEAR:
        return "above the edge: the sharpest direction is unstable at this rate"
    if share > _NEAR:
        return "at the edge of stability"
    return "below the edge: the sharpest direction is stable at this rate"
