"""The quantities that have two sides: predicted from the law of the weights, measured on networks.

Both sides fill the same :class:`Row`, under the same names, in the same units.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["QUANTITIES", "Estimate", "Quantity", "Row"]


@dataclass(frozen=True)
class Quantity:
    """A quantity of a row: its name in code and JSON, what it is, its unit."""

    name: str
    title: str
    unit: str
    meaning: str


QUANTITIES: tuple[Quantity, ...] = (
    Quantity("kernel", "kernel K", "value²", "mean square of the step's value over its channels, samples and sites"),
    Quantity(
        "correlation",
        "correlation",
        "1",
        "mean correlation of two different samples at the same site (one sample: of two sites)",
    ),
    Quantity(
        "site_correlation",
        "site correlation",
        "1",
        "mean correlation of two different sites (tokens, pixels) of one sample",
    ),
    Quantity("chi_parallel", "χ∥", "1", "growth of a small rescaling of the last layer's value: d K / d K_before"),
    Quantity("chi_perp", "χ⊥", "1", "growth of a small random change of the last layer's value, per unit"),
    Quantity(
        "partial_jacobian",
        "partial Jacobian",
        "output²/value²",
        "squared derivative of one output with respect to all of the step's values, averaged over outputs",
    ),
    Quantity(
        "tangent_kernel",
        "tangent kernel",
        "output²/rate",
        "the step's own weights' share of the tangent kernel's diagonal",
    ),
    Quantity(
        "spread",
        "V/nK²",
        "1",
        "variance of the layer's scale from one draw of the weights to the next, over its square",
    ),
    Quantity(
        "fixed_point",
        "fixed point K*",
        "value²",
        "kernel at which the layer, repeated, comes to rest (inf: it grows without end)",
    ),
    Quantity(
        "depth_scale",
        "depth scale",
        "layers",
        "layers after which the distance of two close inputs has changed by a factor e",
    ),
    Quantity("flat_fraction", "flat", "1", "share of units whose slope is below 1 % of its maximum: dead or saturated"),
    Quantity("peak", "peak", "value", "largest root-mean-square value at any sample and site"),
)


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error (0 where it is exact to rounding)."""

    value: float
    error: float = 0.0


@dataclass
class Row:
    """One step's quantities; a quantity that does not exist for the step is absent (null in JSON)."""

    step: str
    layer: str
    op: str
    values: dict[str, Estimate] = field(default_factory=dict)
    ruled: bool = True

    def get(self, name: str) -> float | None:
        """Value of a quantity, None where there is none."""
        found = self.values.get(name)
        return None if found is None else found.value
