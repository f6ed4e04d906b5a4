"""Log evidence against depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from leadline.plot import matplotlib_parts, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leadline.theory.bayes.evidence import EvidenceRow, EvidenceTable

__all__ = ["evidence_picture"]

_DASHES = ((0, (1, 1.5)), (0, (4, 2)), (0, (8, 2)), (0, (8, 2, 1, 2)))
_COLORS = ("#1f5fa8", "#d1495b", "#2a9d5c", "#e08e1b", "#7a4fa3", "#4a4a4a")


def evidence_picture(table: EvidenceTable) -> Figure:
    """Draw log evidence against depth: a colour a (C_W, C_b), dashed at finite widths, a star at the best.

    Where C_W and C_b were maximised they differ from depth to depth and are one line.

    Args:
        table: what :func:`model_evidence` found.

    Returns:
        A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_class, ticker = matplotlib_parts()
    figure = figure_class(figsize=(9.0, 5.0), dpi=130, layout="constrained")
    ax = figure.subplots()
    lines = _lines(table.rows)
    for color, (label, rows) in zip(_COLORS * (1 + len(lines) // len(_COLORS)), lines):
        for width in table.widths:
            shown = [row for row in rows if row.trusted(width)]
            finite = sorted(table.widths).index(width)
            style = (
                {"ls": "-", "marker": "o", "lw": 2.2} if width == math.inf else {"ls": _DASHES[finite % 4], "lw": 1.6}
            )
            name = label if width == math.inf else f"{label}, n = {width:g}"
            ax.plot(
                [row.depth for row in shown], [row.at(width) for row in shown],
                **style, color=color, ms=5, label=name,
            )  # fmt: skip
    row, width = table.best
    ax.plot([row.depth], [row.at(width)], "*", ms=18, color="#f2c14e", mec="0.2", label="most probable", zorder=5)
    # what is far from probable would press the rest into one line
    heights = sorted(row.at(n) for row, n in table.ranked)
    middle = heights[-1] - heights[len(heights) // 2]
    if heights[-1] - heights[0] > 6 * middle > 0:
        ax.set_ylim(heights[-1] - 4 * middle, heights[-1] + 0.4 * middle)
    ax.set_xlabel("depth (dense layers)", fontsize=13)
    ax.set_ylabel("log evidence (nats)", fontsize=13)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.set_title(f"What {table.data} data say about {table.name} networks", loc="left", fontsize=15)
    ax.grid(axis="y", color="0.9", lw=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=11.5)
    return figure


def _lines(rows: Sequence[EvidenceRow]) -> list[tuple[str, list[EvidenceRow]]]:
    """Rows that share what was held fixed, with a label."""

    def grouped(key: Callable[[EvidenceRow], tuple[float, ...]]) -> dict[tuple[float, ...], list[EvidenceRow]]:
        found: dict[tuple[float, ...], list[EvidenceRow]] = {}
        for row in rows:
            found.setdefault(key(row), []).append(row)
        return found

    depths = {row.depth for row in rows}
    for key, label in (
        (lambda r: (r.C_W, r.C_b), "C_W = {0}, C_b = {1}"),
        (lambda r: (r.C_W,), "C_W = {0}, best C_b"),
        (lambda r: (r.C_b,), "best C_W, C_b = {0}"),
    ):
        groups = grouped(key)
        if all({row.depth for row in group} == depths for group in groups.values()):
            return [(label.format(*map(number, k)), group) for k, group in groups.items()]
    return [("best C_W, C_b", list(rows))]
