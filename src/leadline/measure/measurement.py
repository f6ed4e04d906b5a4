"""What :func:`leadline.measure` returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from leadline.measure.estimates import kernel_of, row_values
from leadline.measure.points import Pairs
from leadline.measure.redraw import RedrawReport
from leadline.program import Program
from leadline.theory.rows import QUANTITIES, Estimate, Row

__all__ = ["Measurement", "plain_estimate"]

_VALUES = ("diagonal", "pairs", "square", "flat", "unit")
_CHANGES = ("jacobian", "tangent", "parallel", "origin", "perp")


@dataclass
class Measurement:
    """Rows of measured quantities, the same rows as those of a prediction.

    ``draws``: networks measured, 0 where it is the given network itself. ``routes``: how each tensor was
    drawn anew. ``reason``: why there are only rows of submodules (the module could not be written as a
    graph), else None. ``nonfinite``: step -> number of draws whose values there were infinite or not a
    number, ``nonfinite_changes``: whose derivatives were; they are left out of that step's row.
    ``batched``: draws that ran at once. ``single``: why they ran one by one, where that was not planned.
    """

    rows: list[Row]
    draws: int
    seed: int
    program: Program | None = field(default=None, repr=False)
    routes: RedrawReport | None = field(default=None, repr=False)
    reason: str | None = None
    nonfinite: dict[str, int] = field(default_factory=dict)
    nonfinite_changes: dict[str, int] = field(default_factory=dict)
    batched: int = 1
    single: str | None = None
    moments: dict[str, tuple[Tensor, Tensor, Pairs]] = field(default_factory=dict, repr=False)

    def row(self, step: str) -> Row:
        """The row of a step.

        Args:
            step: the step's name, or its layer's.

        Returns:
            The first such row.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if step in (row.step, row.layer):
                return row
        raise KeyError(f"no row for {step!r}; the steps are those of `measurement.rows`.")

    def kernel(self, step: str) -> tuple[Tensor, Tensor]:
        """Second moment of a step's value over its channels, averaged over draws.

        Args:
            step: the step's name.

        Returns:
            The mean and its standard error, each (points, points); NaN errors for a single network.

        Raises:
            KeyError: the step has no row, or more points than whole kernels are kept for.
        """
        if step not in self.moments:
            known = any(row.step == step for row in self.rows)
            why = "it has too many points to keep all pairs" if known else "there is no such row"
            raise KeyError(f"no kernel for {step!r}: {why}; see `measurement.rows`.")
        diagonal, second, pairs = self.moments[step]
        mean, error = kernel_of(diagonal, second, pairs)
        return (mean, torch.full_like(error, math.nan)) if self.draws == 0 else (mean, error)

    def to_dict(self) -> dict[str, Any]:
        """Rows as plain numbers.

        Returns:
            For each row and quantity {"measured", "stderr"}, None for what does not exist.
        """
        rows: list[dict[str, Any]] = []
        for row in self.rows:
            values = {q.name: plain_estimate(row.values.get(q.name)) for q in QUANTITIES}
            rows.append({"layer": row.layer, "op": row.op, **values})
        return {
            "draws": self.draws,
            "seed": self.seed,
            "reason": self.reason,
            "nonfinite": dict(self.nonfinite),
            "nonfinite_changes": dict(self.nonfinite_changes),
            "redrawn": None if self.routes is None else self.routes.count(),
            "rows": rows,
        }


def plain_estimate(estimate: Estimate | None) -> dict[str, float | None]:
    """An estimate as plain numbers; None for what does not exist or is not finite.

    Args:
        estimate: of a measured quantity.

    Returns:
        {"measured", "stderr"}.
    """
    if estimate is None:
        return {"measured": None, "stderr": None}
    return {"measured": finite(estimate.value), "stderr": finite(estimate.error)}


def finite(value: float) -> float | None:
    """A number, or None where it is infinite or none."""
    return value if math.isfinite(value) else None


def fill(
    measurement: Measurement,
    stats: Mapping[str, Mapping[str, Tensor]],
    pairs: Mapping[str, Pairs],
    *,
    together: int = 1,
) -> None:
    """Fill in the rows from the statistics of all draws.

    Args:
        measurement: whose rows have names only.
        stats: step -> statistic -> tensor with the draws on the leading axis.
        pairs: of each step.
        together: draws in a row that are not independent of each other: they are averaged first.
    """
    for row in measurement.rows:
        found = stats.get(row.step)
        if found is None:
            continue
        kept: dict[str, Tensor] = {}
        for names, bad in ((_VALUES, measurement.nonfinite), (_CHANGES, measurement.nonfinite_changes)):
            part, lost = _finite_draws({k: v for k, v in found.items() if k in names}, together)
            kept |= part
            if lost:
                bad[row.step] = lost
        if "diagonal" not in kept:
            continue
        row.values |= row_values(kept, pairs[row.step], redrawn=measurement.draws > 0)
        if pairs[row.step].complete:
            measurement.moments[row.step] = (kept["diagonal"], kept["pairs"], pairs[row.step])


def _finite_draws(stats: dict[str, Tensor], together: int) -> tuple[dict[str, Tensor], int]:
    """Statistics of the draws (averaged in groups) in which all are finite, and how many draws are not."""
    if not stats:
        return {}, 0
    groups = next(iter(stats.values())).shape[0] // together
    split = {k: v.reshape(groups, together, *v.shape[1:]) for k, v in stats.items()}
    good = torch.stack([v.isfinite().flatten(1).all(1) for v in split.values()]).all(0)
    if not bool(good.any()):
        return {}, groups * together
    return {k: v.mean(1)[good] for k, v in split.items()}, int((~good).sum()) * together
