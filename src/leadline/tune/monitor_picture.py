"""A monitor's readings against the steps, in four panels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from leadline.plot import matplotlib_parts
from leadline.program.errors import plain
from leadline.tune.monitor_reading import FEATURES, LAZY, Reading, regime

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leadline.tune.monitor import Monitor

__all__ = ["monitor_picture"]

_MAIN, _EDGE, _OTHER = "#1f5fa8", "#d1495b", "#2a9d5c"
_FIRST, _LAST = (0.12, 0.37, 0.66), (0.88, 0.56, 0.11)  # colours of the first and the last layer


def monitor_picture(monitor: Monitor) -> Figure:
    """Draw sharpness and edge, changes since the start, update sizes and dead units against the steps.

    Args:
        monitor: with two readings or more.

    Returns:
        A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are fewer than two readings.
    """
    readings = monitor.readings
    if len(readings) < 2:
        raise ValueError("there is one reading and nothing to draw: train until there are more.")
    figure_class, ticker = matplotlib_parts()
    figure = figure_class(figsize=(13.0, 8.0), dpi=130, layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    _sharpness(axes[0, 0], readings)
    _changes(axes[0, 1], readings)
    _layers(axes[1, 0], readings, "updates", "size of a step, by layer", "|ΔW| / |W|", log=True)
    _layers(axes[1, 1], readings, "dead", "dead units, by layer", "share of units", log=False)
    for ax in axes[1]:
        ax.set_xlabel("step", fontsize=13)
    for ax in axes.flat:
        ax.tick_params(labelsize=12)
        ax.grid(color="0.92", lw=0.8)
        ax.spines[["top", "right"]].set_visible(False)
        if ax.get_yscale() == "log":
            low, high = ax.get_ylim()
            ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
            ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
            ax.yaxis.set_minor_locator(ticker.NullLocator())
        if ax.get_legend_handles_labels()[0]:
            ax.legend(
                framealpha=0.85, edgecolor="none", fontsize=11.5, loc="upper left" if ax is axes[0, 1] else "best"
            )
        else:
            ax.text(
                0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes, color="0.5", fontsize=13
            )
    what = f"{type(monitor.model).__name__}: {regime(readings)[0]}"
    figure.suptitle(what.replace("$", r"\$"), fontsize=16, x=0.01, ha="left", fontweight="bold")
    return figure


def _sharpness(ax: Any, readings: Sequence[Reading]) -> None:
    ax.set_title("sharpness, and the edge of this rate", loc="left", fontsize=14)
    ax.set_ylabel("loss / weight²", fontsize=13)
    sharp, edge = _line(readings, lambda r: r.sharpness), _line(readings, lambda r: r.edge)
    if sharp[0]:
        ax.plot(*sharp, "-o", ms=4, lw=2.2, color=_MAIN, label="largest curvature")
    if edge[0]:
        ax.plot(*edge, "--", lw=2.2, color=_EDGE, label="edge of stability")
    known = [*sharp[1], *edge[1]]
    if known and min(known) > 0 and max(known) > 30 * min(known):
        ax.set_yscale("log")


def _changes(ax: Any, readings: Sequence[Reading]) -> None:
    ax.set_title("change since the start", loc="left", fontsize=14)
    ax.set_ylabel("share of its size", fontsize=13)
    for get, color, label in (
        (lambda r: r.kernel_change, _MAIN, "tangent kernel"),
        (lambda r: r.kernel_turn, _EDGE, "tangent kernel, its direction (1 − cosine)"),
        (lambda r: statistics.median(r.features.values()) if r.features else None, _OTHER, "features, median layer"),
    ):
        x, y = _line(readings, get)
        if x:
            ax.plot(x, y, "-o", ms=4, lw=2.2, color=color, label=label)
    if ax.lines:
        for level, label in ((LAZY, f"lazy below {LAZY}"), (FEATURES, f"feature learning above {FEATURES}")):
            ax.axhline(level, color="0.45", lw=1.1, ls=":" if level == LAZY else (0, (4, 3)), label=label)
        ax.set_ylim(0, 1.65 * max(ax.get_ylim()[1], FEATURES))  # room for the names above the lines


def _layers(ax: Any, readings: Sequence[Reading], what: str, title: str, unit: str, *, log: bool) -> None:
    ax.set_title(title, loc="left", fontsize=14)
    ax.set_ylabel(unit, fontsize=13)
    names = list(dict.fromkeys(n for r in readings for n in getattr(r, what)))
    for i, name in enumerate(names):
        x, y = _line([r for r in readings if name in getattr(r, what)], partial(_of_layer, what, name))
        share = i / max(1, len(names) - 1)
        color = tuple((1 - share) * a + share * b for a, b in zip(_FIRST, _LAST, strict=True))
        label = plain(name or "model", 28).replace("$", r"\$")
        named = {"label": label} if len(names) <= 6 or i in (0, len(names) // 2, len(names) - 1) else {}
        ax.plot(x, y, "-o", ms=3, lw=1.6, color=color, **named)
    if log and any(v > 0 for r in readings for v in getattr(r, what).values()):
        ax.set_yscale("log")
    elif names:
        most = max(v for r in readings for v in getattr(r, what).values())
        ax.set_ylim(-0.04 * max(most, 0.1), 1.08 * max(most, 0.1))


def _of_layer(what: str, name: str, reading: Reading) -> float:
    return float(getattr(reading, what)[name])


def _line(readings: Sequence[Reading], get: Callable[[Reading], float | None]) -> tuple[list[int], list[float]]:
    known = [(r.step, v) for r in readings if (v := get(r)) is not None and math.isfinite(v)]
    return [s for s, _ in known], [v for _, v in known]
