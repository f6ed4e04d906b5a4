"""Whether a prediction and a measurement agree, row by row, within standard errors and a stated floor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from leadline.theory import Estimate, Row

__all__ = ["QUANTITIES", "Comparison", "TooFewDraws", "assert_agree", "comparisons", "worst"]

QUANTITIES = ("kernel", "correlation", "partial_jacobian")
_ABSOLUTE = ("correlation", "site_correlation")  # on their own scale: one is the most they can be
_PRECISE = ("kernel", "correlation")
_STANDARD_ERROR = 0.01


class TooFewDraws(ValueError):
    """A measurement is too coarse to say whether a prediction is right."""


class HasRows(Protocol):
    """A prediction or a measurement."""

    rows: list[Row]


@dataclass(frozen=True)
class Comparison:
    """One quantity of one row: both sides, their difference and what it may be.

    ``error``, ``allowed``, ``standard_error`` (of the measurement) and ``stated`` (the prediction's own error, part of
    what is allowed) are on the scale of the measured value, of correlations on that of 1.
    """

    layer: str
    op: str
    quantity: str
    predicted: float
    measured: float
    error: float
    allowed: float
    standard_error: float
    stated: float

    @property
    def excess(self) -> float:
        """Difference over what is allowed: above one, the two sides disagree."""
        if not math.isfinite(self.error):
            return math.inf
        return self.error / self.allowed if self.allowed else (0.0 if self.error == 0 else math.inf)

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.layer or '(root)'} [{self.op}] {self.quantity}: predicted {self.predicted:.4g}, "
            f"measured {self.measured:.4g}, apart {self.error:.2%}, allowed {self.allowed:.2%}"
        )


def _keyed(rows: Sequence[Row]) -> dict[tuple[str, str, int], Row]:
    """Rows by layer, operator and how often the pair came before: node names shift where a network is changed."""
    seen: Counter[tuple[str, str]] = Counter()
    keyed: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        pair = (row.layer, row.op)
        keyed[(*pair, seen[pair])] = row
        seen[pair] += 1
    return keyed


def comparisons(
    prediction: HasRows,
    measurement: HasRows,
    *,
    sigmas: float = 4.0,
    floor: float = 0.03,
    quantities: Sequence[str] = QUANTITIES,
    common: bool = False,
) -> Iterator[Comparison]:
    """Every quantity of every row, both sides.

    Args:
        prediction: the predicted rows.
        measurement: the measured rows.
        sigmas: standard errors allowed.
        floor: relative (correlations: absolute) difference allowed in any case.
        quantities: names of the quantities.
        common: take the rows that both have, instead of refusing what only one of them has.

    Yields:
        One comparison a row and quantity.

    Raises:
        ValueError: a row or a value that only one side has, unless ``common``.
    """
    one, two = _keyed(prediction.rows), _keyed(measurement.rows)
    if not common and one.keys() != two.keys():
        missing = sorted(one.keys() ^ two.keys())[0]
        side = "predicted" if missing in one else "measured"
        raise ValueError(
            f"{missing[0]} [{missing[1]}] is only {side}: compare rows of the same network on the same batch."
        )
    for key, row in one.items():
        if key not in two:
            continue
        for name in quantities:
            p, m = row.values.get(name), two[key].values.get(name)
            if (p is None) != (m is None) and not common:
                side = "predicted" if m is None else "measured"
                raise ValueError(f"{name} of {key[0]} [{key[1]}] is only {side}.")
            if p is not None and m is not None:
                yield _compare(key[0], key[1], name, p, m, sigmas, floor)


def _compare(layer: str, op: str, name: str, p: Estimate, m: Estimate, sigmas: float, floor: float) -> Comparison:
    scale = 1.0 if name in _ABSOLUTE else abs(m.value)
    if scale == 0.0:  # an exact zero (a gradient that does not flow) leaves no scale: the prediction must be zero too
        scale = 1.0 if p.value == 0.0 else abs(p.value)
    standard_error = m.error / scale
    return Comparison(
        layer,
        op,
        name,
        p.value,
        m.value,
        abs(p.value - m.value) / scale,
        max(floor, sigmas * standard_error) + p.error / scale,
        standard_error,
        p.error / scale,
    )


def assert_agree(
    prediction: HasRows,
    measurement: HasRows,
    *,
    sigmas: float = 4.0,
    floor: float = 0.03,
    quantities: Sequence[str] = QUANTITIES,
    common: bool = False,
    precise: bool = True,
) -> None:
    r"""Require that a prediction and a measurement agree at every row.

    .. math:: |p - m| \le \max(\text{floor}\,|m|,\ \text{sigmas}\cdot\text{s.e.}) + \text{the prediction's own error}

    Correlations are compared on the same terms with 1 in place of abs(m); partial Jacobians by their mean over
    networks.

    Args:
        prediction: the predicted rows.
        measurement: the measured rows, with standard errors.
        sigmas: standard errors allowed.
        floor: relative difference allowed in any case.
        quantities: names of the quantities.
        common: take the rows that both have, instead of refusing what only one of them has.
        precise: require a standard error of at most 1 % on kernels and correlations.

    Raises:
        AssertionError: they disagree; the message lists the worst rows.
        TooFewDraws: the standard error of a kernel or a correlation is above 1 %.
        ValueError: a row that only one side has, or no row at all.
    """
    every = list(comparisons(prediction, measurement, sigmas=sigmas, floor=floor, quantities=quantities, common=common))
    if not every:
        raise ValueError(f"no row of the two sides has any of {', '.join(quantities)}: there is nothing to compare.")
    coarse = [c for c in every if c.quantity in _PRECISE and not c.standard_error <= _STANDARD_ERROR]
    if precise and coarse:
        most = max(coarse, key=lambda c: c.standard_error)
        more = 1.2 * (most.standard_error / _STANDARD_ERROR) ** 2
        raise TooFewDraws(
            f"the standard error of {most.quantity} at {most.layer or '(root)'} [{most.op}] is "
            f"{most.standard_error:.2%}, expected at most {_STANDARD_ERROR:.0%}: take {more:.1f} times the draws."
        )
    wrong = sorted((c for c in every if not c.excess <= 1.0), key=lambda c: -c.excess)
    if wrong:
        listed = "\n  ".join(str(c) for c in wrong[:8])
        raise AssertionError(f"{len(wrong)} of {len(every)} values disagree, the worst first:\n  {listed}")


def worst(
    prediction: HasRows,
    measurement: HasRows,
    *,
    sigmas: float = 4.0,
    floor: float = 0.03,
    quantities: Sequence[str] = QUANTITIES,
) -> Comparison:
    """The comparison that comes closest to, or goes furthest beyond, what is allowed.

    Args:
        prediction: the predicted rows.
        measurement: the measured rows.
        sigmas: standard errors allowed.
        floor: relative difference allowed in any case.
        quantities: names of the quantities.

    Returns:
        The comparison with the largest excess.
    """
    return max(
        comparisons(prediction, measurement, sigmas=sigmas, floor=floor, quantities=quantities, common=True),
        key=lambda c: c.excess,
    )
