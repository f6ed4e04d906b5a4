"""Predicted beside measured, row by row, each difference in units of its standard error."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult

from leadline.measure.comparison_view import comparison_figure, comparison_screen
from leadline.measure.measurement import Measurement, finite
from leadline.theory.predict import Prediction
from leadline.theory.rows import QUANTITIES, Estimate, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Compared", "ComparedRow", "Comparison", "compare"]

_ROUNDING = 1e-5  # relative accuracy of a measurement in single precision


@dataclass(frozen=True)
class Compared:
    """One quantity of one row from both sides; a side that does not exist is None."""

    predicted: Estimate | None
    measured: Estimate | None
    z_meaningful: bool = True

    @property
    def z(self) -> float | None:
        r"""Standard score of the difference.

        .. math:: z = (m - p) / \sqrt{s_m^2 + s_p^2}

        None where a side is missing, and for a single network, whose distance from the mean of its law is
        no error.
        """
        if self.predicted is None or self.measured is None or not self.z_meaningful:
            return None
        largest = max(abs(self.predicted.value), abs(self.measured.value))
        error = math.hypot(self.measured.error, self.predicted.error, _ROUNDING * largest)
        difference = self.measured.value - self.predicted.value
        if not math.isfinite(error) or not math.isfinite(difference):
            return None
        return 0.0 if error == 0.0 else difference / error

    @property
    def relative(self) -> float | None:
        """Measured over predicted, less one; None where that does not exist."""
        if self.predicted is None or self.measured is None or self.predicted.value == 0:
            return None
        return finite(self.measured.value / self.predicted.value - 1)

    def to_dict(self) -> dict[str, float | None]:
        """Plain numbers, None for what does not exist."""
        predicted = None if self.predicted is None else finite(self.predicted.value)
        measured = None if self.measured is None else finite(self.measured.value)
        stderr = None if self.measured is None else finite(self.measured.error)
        return {"predicted": predicted, "measured": measured, "stderr": stderr}


@dataclass
class ComparedRow:
    """One step's quantities from both sides, by name; quantities that neither side has are absent."""

    step: str
    layer: str
    op: str
    ruled: bool
    values: dict[str, Compared] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Every quantity with predicted, measured and stderr."""
        nothing = Compared(None, None)
        values = {q.name: self.values.get(q.name, nothing).to_dict() for q in QUANTITIES}
        return {"layer": self.layer, "op": self.op, **values}


@dataclass
class Comparison:
    """All rows from both sides; ``print`` shows them as a table, ``rich.print`` fits it to the terminal.

    ``rows``: in order of execution. ``draws``: networks measured, 0: the given one.
    """

    rows: list[ComparedRow]
    draws: int

    def __iter__(self) -> Iterator[tuple[ComparedRow, str, Compared]]:
        """Each quantity of each row."""
        for row in self.rows:
            for name, value in row.values.items():
                yield row, name, value

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield comparison_screen(self, options.max_width)

    def __str__(self) -> str:
        """The table as plain text, a hundred columns wide."""
        text = io.StringIO()
        Console(file=text, width=100, color_system=None, force_terminal=False).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def size(self, value: Compared) -> float | None:
        """How far the two sides of a quantity are apart: the standard score, for a single network the relative difference."""
        return value.z if self.draws else value.relative

    def plot(self, quantities: Iterable[str] | None = None, *, title: str = "predicted and measured") -> Figure:
        """Draw quantities against depth, predictions as lines and measurements as points.

        Args:
            quantities: names, one panel each; None: kernel, correlation, partial Jacobian and spread.
            title: of the figure.

        Returns:
            A matplotlib figure; ``figure.savefig(path)`` writes it.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: a name that is no quantity, or nothing to draw.
        """
        return comparison_figure(self, quantities, title)

    def worst(self, count: int = 5, quantities: Iterable[str] | None = None) -> list[tuple[ComparedRow, str, Compared]]:
        """The largest disagreements: by standard score, and for a single network by relative difference.

        Args:
            count: how many.
            quantities: names to look at; None: all.

        Returns:
            (row, quantity, the two sides), worst first.
        """
        wanted = None if quantities is None else set(quantities)
        ranked = []
        for row, name, value in self:
            size = self.size(value)
            if size is not None and (wanted is None or name in wanted):
                ranked.append((abs(size), (row, name, value)))
        ranked.sort(key=lambda pair: -pair[0])
        return [found for _, found in ranked[:count]]

    def table(self, quantities: Iterable[str] | None = None) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows for a table or a picture.

        Args:
            quantities: names to show; None: all that occur.

        Returns:
            Headings (step, layer, op, then predicted, measured, stderr and z of each quantity) and rows of
            values, None for what does not exist.
        """
        occur = {name for _, name, _ in self}
        names = [q.name for q in QUANTITIES if q.name in (occur if quantities is None else set(quantities))]
        headings = ["step", "layer", "op"]
        headings += [f"{n}.{part}" for n in names for part in ("predicted", "measured", "stderr", "z")]
        lines: list[list[Any]] = []
        for row in self.rows:
            line: list[Any] = [row.step, row.layer, row.op]
            for name in names:
                value = row.values.get(name, Compared(None, None))
                line += [*value.to_dict().values(), value.z]
            lines.append(line)
        return headings, lines

    def to_dict(self) -> dict[str, Any]:
        """Rows as plain numbers, as in the JSON of a report."""
        return {"draws": self.draws, "rows": [row.to_dict() for row in self.rows]}


def compare(prediction: Prediction, measurement: Measurement) -> Comparison:
    """Put a prediction and a measurement side by side.

    Args:
        prediction: from :func:`leadline.predict`.
        measurement: from :func:`leadline.measure`, of the same model and batch.

    Returns:
        The rows of both in the prediction's order, then rows that only the measurement has.
    """
    measured = {row.step: row for row in measurement.rows}
    rows = [_row(p, measured.get(p.step), measurement.draws) for p in prediction.rows]
    known = {p.step for p in prediction.rows}
    rows += [_row(None, m, measurement.draws) for m in measurement.rows if m.step not in known]
    return Comparison(rows, measurement.draws)


def _row(predicted: Row | None, measured: Row | None, draws: int) -> ComparedRow:
    first = predicted or measured
    if first is None:
        raise ValueError("a row needs at least one side; give a predicted or a measured one.")
    names = [q.name for q in QUANTITIES if any(r is not None and q.name in r.values for r in (predicted, measured))]
    values = {
        n: Compared(
            predicted.values.get(n) if predicted else None,
            measured.values.get(n) if measured else None,
            z_meaningful=draws > 0,
        )
        for n in names
    }
    return ComparedRow(first.step, first.layer, first.op, predicted.ruled if predicted else False, values)
