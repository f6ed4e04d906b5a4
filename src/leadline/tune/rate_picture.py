"""The loss after training against the learning rate, beside the edges."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from leadline.plot import matplotlib_parts, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leadline.tune.rate_result import LearningRate

__all__ = ["rate_picture"]

_LOSS, _STABLE, _SMOOTH, _MEASURED, _ADVICE = "#1f5fa8", "#e08e1b", "#7a4fa3", "#d1495b", "#2a9d5c"


def rate_picture(found: LearningRate) -> Figure:
    """Draw the loss after training against the learning rate.

    Args:
        found: what :func:`learning_rate` found, with ``curve=True``.

    Returns:
        A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no curve was measured.
    """
    if not found.curve or found.edge is None:
        raise ValueError("there is no curve to draw: ask for it with curve=True.")
    figure_class, ticker = matplotlib_parts()
    figure = figure_class(figsize=(12.0, 6.0), dpi=130, layout="constrained")
    ax = figure.subplots()
    runs = sorted([*found.curve, *found.edge.runs], key=lambda r: r.rate)
    start, steps = found.edge.start, found.edge.steps
    good = [r for r in runs if math.isfinite(r.loss)]
    kept = [r for r in good if r.held]
    top = 3 * start
    ax.plot(
        [r.rate for r in kept], [r.loss for r in kept], "-o", ms=5, lw=2.4, color=_LOSS, zorder=3,
        label=f"loss after {steps} steps",
    )  # fmt: skip
    # far above the edge there is nothing to see
    widest = 8 * max(found.edge.value, *(line[0] for line in _lines(found)))
    failed = [r for r in runs if not r.held and r.rate <= widest]
    if failed:
        heights = [min(r.loss, 0.9 * top) for r in failed]
        ax.plot(
            [r.rate for r in failed], heights, "x", ms=8, mew=2, color=_MEASURED, zorder=3,
            label="did not end below its start",
        )  # fmt: skip
    ax.axhline(start, color="0.45", lw=0.9, ls=(0, (4, 3)), label=f"loss at the start, {number(start)}")
    for place, label, color in _lines(found):
        ax.axvline(place, color=color, lw=2.2, ls="-" if color == _ADVICE else "--", label=label, zorder=2)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(top=top)
    subs = (1.0, 2.0, 5.0)
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(ticker.LogLocator(subs=subs if high < 1e3 * low else (1.0,), numticks=12))
        axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        axis.set_minor_locator(ticker.NullLocator())
    ax.tick_params(labelsize=12)
    ax.set_xlabel("learning rate", fontsize=13)
    ax.set_ylabel("loss of the batch", fontsize=13)
    ax.grid(color="0.92", lw=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Loss against learning rate, {found.name}", fontsize=16, x=0.01, ha="left", fontweight="bold")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=12)
    return figure


def _lines(found: LearningRate) -> list[tuple[float, str, str]]:
    """Place, label and colour of each rate to mark."""
    lines: list[tuple[float, str, str]] = []
    if found.stability is not None and math.isfinite(found.stability.rate):
        lines.append((found.stability.rate, f"stable rate from curvature, {number(found.stability.rate)}", _STABLE))
    if found.smooth is not None:
        label = f"smooth edge from {found.smooth.steps}-step runs, {number(found.smooth.value)}"
        lines.append((found.smooth.value, label, _SMOOTH))
    if found.edge is not None:
        label = f"edge measured, {'at least ' if found.edge.open else ''}{number(found.edge.value)}"
        lines.append((found.edge.value, label, _MEASURED))
    lines.append((found.rate, f"recommended, {number(found.rate)}", _ADVICE))
    return lines
