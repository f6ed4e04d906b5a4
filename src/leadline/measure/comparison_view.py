"""What a comparison looks like: a table for a terminal and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from leadline.plot import Column, Panel, layer_profile, number, two_sided_table
from leadline.program.errors import plain
from leadline.theory.rows import QUANTITIES, Quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leadline.measure.compare import Compared, ComparedRow, Comparison

__all__ = ["comparison_figure", "comparison_screen"]

# (quantity, least width of the terminal)
_COLUMNS = (("kernel", 0), ("correlation", 70), ("partial_jacobian", 96), ("spread", 126))
_SHOWN = ("kernel", "correlation", "partial_jacobian", "spread")
_LIMITS = {"correlation": (-0.05, 1.05), "site_correlation": (-0.05, 1.05)}
_REFERENCE = {"chi_perp": 1.0, "chi_parallel": 1.0, "correlation": 1.0}


def comparison_screen(found: Comparison, width: int) -> Group:
    """A line a step, its largest standard score, and the worst disagreement in words.

    Args:
        found: the comparison.
        width: columns of the terminal.

    Returns:
        What :mod:`rich` prints.
    """
    known = {q.name: q for q in QUANTITIES}
    columns = [_column(found, known[name]) for name, least in _COLUMNS if width >= least]
    columns.append(_differences(found))
    labels = [(plain(r.layer or r.step, 60), plain(r.op + ("" if r.ruled else " (drawn)"), 22)) for r in found.rows]
    table: Table = two_sided_table(labels, ("layer", "step"), columns, width=width)
    return Group(table, Text(), _summary(found))


def _column(found: Comparison, quantity: Quantity) -> Column:
    pairs = [row.values.get(quantity.name) for row in found.rows]
    predicted, measured, errors = _sides(pairs)
    return Column(quantity.title, predicted, measured, errors, relative=quantity.name not in _LIMITS)


def _sides(
    pairs: Sequence[Compared | None],
) -> tuple[list[float | None], list[float | None], list[float | None]]:
    plain_numbers = [None if p is None else p.to_dict() for p in pairs]
    predicted, measured, errors = (
        [None if p is None else p[side] for p in plain_numbers] for side in ("predicted", "measured", "stderr")
    )
    return predicted, measured, errors


def _differences(found: Comparison) -> Column:
    """The largest difference in each row, over all quantities: in standard errors, or relative for a single network."""
    nothing = [None] * len(found.rows)
    largest = [
        max((abs(v) for v in map(found.size, row.values.values()) if v is not None), default=None) for row in found.rows
    ]
    return Column("max |z|" if found.draws else "max |m/p - 1|", largest, nothing, nothing)


def _summary(found: Comparison) -> Text:
    worst = found.worst(1)
    networks = f"{found.draws} re-drawn networks" if found.draws else "this very network"
    if not worst:
        return Text(f"Measured on {networks}; no quantity has two sides to compare.", "dim")
    row, name, value = worst[0]
    size = found.size(value)
    by = f"z = {number(size)}" if found.draws else f"measured over predicted less one: {number(size)}"
    where = plain(row.layer or row.step, 60)
    return Text(f"Measured on {networks}. Furthest apart: {name} of {where} ({plain(row.op, 22)}), {by}.", "dim")


def comparison_figure(found: Comparison, quantities: Iterable[str] | None, title: str) -> Figure:
    """Quantities against depth: predictions as lines, measurements as points with their standard errors.

    Args:
        found: the comparison.
        quantities: names, one panel each; None: kernel, correlation, partial Jacobian and spread, as far as they occur.
        title: of the figure.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a name that is no quantity, or nothing to draw.
    """
    known = {q.name: q for q in QUANTITIES}
    names = list(_SHOWN if quantities is None else quantities)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"there is no quantity {unknown[0]!r}: choose from {', '.join(known)}.")
    panels = [_panel(found.rows, known[name]) for name in names]
    labels = [plain(row.layer or row.step, 40) for row in found.rows]
    return layer_profile(labels, panels, title=plain(title, 80))


def _panel(rows: Sequence[ComparedRow], quantity: Quantity) -> Panel:
    predicted, measured, errors = _sides([row.values.get(quantity.name) for row in rows])
    name = quantity.name
    return Panel(
        quantity.title,
        quantity.unit,
        predicted,
        measured,
        errors,
        reference=_REFERENCE.get(name),
        limits=_LIMITS.get(name),
        log=False if name in _LIMITS or name == "spread" else None,
    )
