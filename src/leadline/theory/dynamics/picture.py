"""Squared bias, variance and expected error against depth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from leadline.plot import matplotlib_parts, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leadline.theory.dynamics.profile import GeneralizationProfile

__all__ = ["generalization_picture"]

_COLORS = ("#1f5fa8", "#2a9d5c", "#d1495b", "#e08e1b", "#7a4fa3", "#4a4a4a")


def generalization_picture(profile: GeneralizationProfile) -> Figure:
    """Draw squared bias, variance and expected squared error against depth, a colour a setting.

    Args:
        profile: what :func:`generalization_profile` found.

    Returns:
        A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_class, ticker = matplotlib_parts()
    figure = figure_class(figsize=(13.0, 4.6), dpi=130, layout="constrained")
    axes = figure.subplots(1, 3)
    panels = (
        ("squared bias", profile.bias),
        ("variance over initializations", profile.variance),
        ("sum", profile.total),
    )
    for ax, (title, values) in zip(axes, panels):
        for i, (label, (C_W, C_b)) in enumerate(profile.settings.items()):
            # what is exactly 0 up to rounding has no place on a logarithmic axis
            shown = [v if v > 1e-12 * profile.guess else math.nan for v in values[i].tolist()]
            ax.plot(
                profile.depths, shown, "-o", ms=4, lw=2.2, color=_COLORS[i % len(_COLORS)],
                label=f"{label}: C_W = {number(C_W)}, C_b = {number(C_b)}",
            )  # fmt: skip
        if title != "variance over initializations":
            ax.axhline(profile.guess, color="0.45", lw=0.9, ls=(0, (4, 3)), label="answering 0")
        ax.set_title(title, loc="left", fontsize=14)
        ax.set_yscale("log")
        ax.set_xlabel("depth (dense layers)", fontsize=13)
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        low, high = ax.get_ylim()
        subs = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=10))
        ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        ax.yaxis.set_minor_locator(ticker.NullLocator())
        ax.grid(axis="y", color="0.9", lw=0.8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mean over test inputs, units of y²", fontsize=13)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False, fontsize=12)
    figure.suptitle(
        f"Expected test error of trained {profile.name} networks", fontsize=16, x=0.01, ha="left", fontweight="bold"
    )
    return figure
