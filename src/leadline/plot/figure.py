"""Figures: predicted lines and measured points against depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Panel", "layer_profile", "matplotlib_parts"]

_PREDICTED = "#1f5fa8"
_MEASURED = "#d1495b"
_TROUBLE = "#f2c14e"
_BAND = "trouble starts"
_MOST_NAMES = 14
_LONGEST_NAME = 24


@dataclass(frozen=True)
class Panel:
    """One quantity against depth.

    ``predicted``, ``measured``, ``errors``: a number a layer, None where there is none. ``reference``: a level to
    mark, for instance 1. ``log``: None chooses a logarithmic axis where the numbers span more than a factor of 30.
    """

    title: str
    unit: str
    predicted: Sequence[float | None]
    measured: Sequence[float | None] = ()
    errors: Sequence[float | None] = ()
    reference: float | None = None
    limits: tuple[float, float] | None = None
    log: bool | None = field(default=None)


def layer_profile(
    names: Sequence[str], panels: Sequence[Panel], *, title: str = "", marked: Sequence[int] = ()
) -> Figure:
    """Draw quantities against depth: predictions as lines, measurements as points with their standard errors.

    Args:
        names: name of each layer, in the order in which they run; thinned where they are many.
        panels: the quantities, one under another.
        title: of the whole figure.
        marked: numbers of layers to mark with a vertical band, for instance where trouble starts.

    Returns:
        A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.

    Raises:
        ImportError: matplotlib is not installed; the message says how to get it.
        ValueError: nothing to draw, or a panel of another length than the names.
    """
    figure_class, ticker = matplotlib_parts()
    for panel in panels:
        if len(panel.predicted) != len(names):
            raise ValueError(
                f"panel {panel.title!r} has {len(panel.predicted)} numbers for {len(names)} layers: give one a layer."
            )
    panels = [p for p in panels if any(v is not None for v in (*p.predicted, *p.measured))]
    if not panels:
        raise ValueError("there is no number to draw: every panel is empty.")
    # Wide enough for a slide, high enough for rotated names under the last panel.
    figure = figure_class(figsize=(12.0, 1.4 + 2.3 * len(panels)), dpi=130, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, panel in zip(axes, panels, strict=True):
        _draw(ax, panel, ticker)
        for place in sorted(set(marked)):
            label = {"label": _BAND} if place == min(marked) else {}
            ax.axvspan(place - 0.5, place + 0.5, color=_TROUBLE, alpha=0.45, lw=0, zorder=0, **label)
    _name_layers(axes[-1], names)
    handles: list[Any] = []
    labels: list[str] = []
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    order = sorted(range(len(labels)), key=lambda i: labels[i] == _BAND)
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    if title:
        figure.suptitle(_literal(title), fontsize=16, x=0.01, ha="left", fontweight="bold")
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=12.5)
    return figure


def matplotlib_parts() -> tuple[Any, Any]:
    """The parts of matplotlib that figures without a window need.

    Returns:
        The class of a figure, and the module of ticks.

    Raises:
        ImportError: it is not installed; the message says how to get it.
    """
    try:
        from matplotlib import ticker
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib, which is not installed: pip install "leadline[plot]".') from error
    return Figure, ticker


def _literal(text: str) -> str:
    """Names are printed as they stand: a dollar sign starts no formula."""
    return text.replace("$", r"\$")


def _draw(ax: Any, panel: Panel, ticker: Any) -> None:
    known = [v for v in (*panel.predicted, *panel.measured) if v is not None and math.isfinite(v)]
    positive = [v for v in known if v > 0]
    log = panel.log
    if log is None:
        log = bool(positive) and min(known) >= 0 and max(positive) > 30 * min(positive)
    if log:
        ax.set_yscale("log")
        if max(positive) > 1e3 * min(positive):
            ax.yaxis.set_major_locator(ticker.LogLocator(numticks=6))
            ax.yaxis.set_minor_locator(ticker.NullLocator())
        else:  # between powers of ten the steps 2 and 5 have names too
            ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
            ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
            ax.yaxis.set_minor_locator(ticker.NullLocator())
    keep = (
        (lambda v: v is not None and math.isfinite(v) and v > 0)
        if log
        else (lambda v: v is not None and math.isfinite(v))
    )
    x = [i for i, v in enumerate(panel.predicted) if keep(v)]
    if x:
        style = "-" if len(x) > 40 else "-o"
        ax.plot(x, [panel.predicted[i] for i in x], style, ms=4, lw=2.4, color=_PREDICTED, label="predicted", zorder=2)
    x = [i for i, v in enumerate(panel.measured) if keep(v)]
    if x:
        errors = [(panel.errors[i] if i < len(panel.errors) else None) or 0.0 for i in x]
        ax.errorbar(
            x, [panel.measured[i] for i in x], yerr=errors, fmt="o", ms=6, mfc="white", mew=1.6, lw=1.4, capsize=2.5,
            color=_MEASURED, label="measured ± one standard error", zorder=3,
        )  # fmt: skip
    if panel.reference is not None:
        ax.axhline(panel.reference, color="0.45", lw=0.9, ls=(0, (4, 3)), zorder=1)
    if panel.limits is not None and not log:
        ax.set_ylim(*panel.limits)
    ax.set_title(panel.title, loc="left", fontsize=14)
    ax.set_ylabel("" if panel.unit == "1" else panel.unit, fontsize=13)
    ax.tick_params(labelsize=12)
    ax.grid(axis="y", color="0.9", lw=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.015)


def _name_layers(ax: Any, names: Sequence[str]) -> None:
    step = max(1, math.ceil(len(names) / _MOST_NAMES))
    places = list(range(0, len(names), step))
    if places[-1] != len(names) - 1:
        # The last layer is always named; a neighbour too near would be written over it.
        if len(names) - 1 - places[-1] < step / 2 and len(places) > 1:
            places.pop()
        places.append(len(names) - 1)
    shown = [names[i] if len(names[i]) <= _LONGEST_NAME else "…" + names[i][1 - _LONGEST_NAME :] for i in places]
    ax.set_xticks(places, [_literal(n) for n in shown], rotation=35, ha="right", rotation_mode="anchor", fontsize=12)
    ax.set_xlabel("layer, in the order in which they run", fontsize=13)
