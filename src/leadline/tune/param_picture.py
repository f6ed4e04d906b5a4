"""The picture of a coordinate check: the change of each layer's values against the width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leadline.plot import matplotlib_parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leadline.tune.param_coordinate import CoordinateCheck

__all__ = ["coordinate_picture"]

_COLORS = ("#1f5fa8", "#e08e1b", "#7a4fa3", "#2a9d5c", "#5b8ba0", "#b07d2b")
_OUTPUT = "#d1495b"
_MOST = 12  # layers with a name in the legend


def coordinate_picture(found: CoordinateCheck) -> Figure:
    """Draw the change of each layer's values against the width, with the standard error over seeds.

    Args:
        found: what :func:`leadline.tune.coordinate_check` found.

    Returns:
        A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_class, ticker = matplotlib_parts()
    figure = figure_class(figsize=(12.0, 6.4), dpi=130, layout="constrained")
    ax = figure.subplots()
    logs = found.updates.log()
    middle, error = logs.mean(1).exp(), logs.std(1) / logs.shape[1] ** 0.5
    slopes = found.slopes
    last = len(found.layers) - 1
    shown = set(range(0, last, max(1, -(-last // (_MOST - 1))))) | {last}
    for i, name in enumerate(found.layers):
        color = _OUTPUT if i == last else _COLORS[i % len(_COLORS)]
        label = f"{name.replace('$', chr(92) + '$')}  {slopes[name]}" if i in shown else None
        y = middle[:, i]
        low, high = y - y * (-error[:, i]).exp(), y * error[:, i].exp() - y
        ax.errorbar(
            found.widths, y.tolist(), yerr=[low.tolist(), high.tolist()], fmt="-o", ms=5, lw=2.2, capsize=2.5,
            color=color, alpha=1.0 if i in shown else 0.4, label=label, zorder=3 if i == last else 2,
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    low, high = float(middle.nan_to_num(nan=1.0).min()), float(middle.nan_to_num(nan=1.0).max())
    room = max(10.0 / (high / low), 1.5) ** 0.5  # a decade at least, so that a small slope looks small
    ax.set_ylim(low / room, high * room)
    ax.set_xticks(list(found.widths), [str(w) for w in found.widths])
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    ax.tick_params(labelsize=12)
    ax.set_xlabel("width", fontsize=13)
    ax.set_ylabel(f"change of a layer's values after {found.steps} steps", fontsize=13)
    ax.grid(color="0.92", lw=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Coordinate check, {found.name}", fontsize=16, x=0.01, ha="left", fontweight="bold")
    kind = found.verdict.split(":")[0]
    figure.legend(
        loc="outside right upper", frameon=False, fontsize=12, title=f"{kind}\nlayer, slope", title_fontsize=12
    )
    return figure
