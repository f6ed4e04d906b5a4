"""Terminal tables: predicted numbers beside measured ones, a line a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from leadline.plot.numbers import number, with_error

__all__ = ["Column", "Gap", "two_sided_table"]

_SHORTEST_LABEL = 10
_ROOMY = 24  # what labels should have before numbers are set wide


@dataclass(frozen=True)
class Column:
    """One quantity: its title, and what was predicted and measured at each label (None: nothing).

    ``relative``: standard errors are given in per cent, which suits what spans orders of magnitude.
    """

    title: str
    predicted: Sequence[float | None]
    measured: Sequence[float | None]
    errors: Sequence[float | None]
    relative: bool = True


@dataclass(frozen=True)
class Gap:
    """A line of text in place of labels that are left out, before the label of this number."""

    before: int
    text: str


def two_sided_table(
    labels: Sequence[tuple[str, str]],
    heads: tuple[str, str],
    columns: Sequence[Column],
    *,
    width: int,
    gaps: Sequence[Gap] = (),
    marks: Sequence[str] | None = None,
) -> Table:
    """Table with a line a label and, for each quantity, the prediction and the measurement side by side.

    Numbers are never cut: where the terminal is narrow, the first label loses its beginning.

    Args:
        labels: two cells that name each line; printed as they stand.
        heads: titles of those cells.
        columns: the quantities; a side that no line has is left out.
        width: columns of the terminal.
        gaps: lines of text between labels.
        marks: style of each line ("" for none).

    Returns:
        A table to print with :mod:`rich`.
    """
    sides = _sides(columns)
    second = max(len(text) for text in (heads[1], *(b for _, b in labels)))
    gap = 1 if sum(size for *_, size in sides) + 2 * len(sides) + second > width - _ROOMY else 2
    used = second + gap + sum(size + gap for *_, size in sides)
    longest = max(len(text) for text in (heads[0], *(a for a, _ in labels), *(g.text for g in gaps)))
    room = max(min(longest, width - used), _SHORTEST_LABEL)

    # The box has one space between columns already.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0), header_style="bold")
    for head, size in zip(heads, (room, second), strict=True):
        table.add_column(Text(f"\n{head}"), no_wrap=True, width=size)
    for head, _, style, size in sides:
        table.add_column(Text(head), justify="right", no_wrap=True, width=size, style=style)
    by_place = {gap.before: gap for gap in gaps}
    for line, (first, after) in enumerate(labels):
        if line in by_place:
            table.add_row(Text(by_place[line].text[:room], "dim italic"))
        values = [Text(cells[line], "dim" if cells[line] == "—" else "") for _, cells, _, _ in sides]
        style = marks[line] if marks else ""
        table.add_row(Text(_cut(first, room)), Text(after, "" if style else "dim"), *values, style=style)
    return table


def _sides(columns: Sequence[Column]) -> list[tuple[str, list[str], str, int]]:
    """Head, cells, style and width of each column of numbers."""
    found = []
    for c in columns:
        predicted = [number(v) for v in c.predicted]
        measured = [with_error(v, e, relative=c.relative) for v, e in zip(c.measured, c.errors, strict=True)]
        left = any(v is not None for v in c.predicted)
        right = any(v is not None for v in c.measured)
        if left and right:
            # A long title goes over both sides.
            size, other = (max(9, *map(len, cells)) for cells in (predicted, measured))
            first, _, rest = c.title.partition(" ") if len(c.title) > size else (c.title, "", "")
            size = max(size, len(first))
            found.append((f"{first:>{size}}\n{'predicted':>{size}}", predicted, "", size))
            found.append((f"{rest:<{other}}\n{'measured':>{other}}", measured, "cyan", other))
        elif left or right:
            cells = predicted if left else measured
            size = max(len(c.title), *map(len, cells))
            found.append((f"{c.title:>{size}}\n", cells, "" if left else "cyan", size))
    return found


def _cut(text: str, room: int) -> str:
    """The end of a name says more than its beginning."""
    return text if len(text) <= room else "…" + text[len(text) - room + 1 :]
