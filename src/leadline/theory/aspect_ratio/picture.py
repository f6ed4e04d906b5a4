"""Mutual information of the outputs against depth over width: the series, the exact curve, and r*."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from leadline.plot import matplotlib_parts
from leadline.theory.aspect_ratio.information import (
    mutual_information,
    mutual_information_series,
    optimal_aspect_ratio,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["information_picture"]


def information_picture(nu: float, outputs: int, *, title: str = "") -> Figure:
    """Draw the mutual information of two halves of the outputs against depth over width.

    Args:
        nu: from :func:`leadline.theory.aspect_ratio.spread_rate`.
        outputs: n_L, 2 or more.
        title: of the figure.
    Returns:
        A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.
    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are fewer than two outputs.
    """
    if outputs < 2:
        raise ValueError(f"outputs must be 2 or more, got {outputs}: one neuron shares its information with none")
    figure_class, _ = matplotlib_parts()
    figure = figure_class(figsize=(9.0, 4.6), dpi=130, layout="constrained")
    ax = figure.subplots()
    half, star = outputs // 2, optimal_aspect_ratio(nu, outputs)
    r = torch.linspace(0, 2.2 * star, 45, dtype=torch.float64)
    exact = [float(mutual_information(nu * x, half, outputs - half)) for x in r.tolist()]
    for order, style in ((2, ":"), (3, "--")):
        series = mutual_information_series(nu * r, half, outputs - half, order=order)
        name = {2: "second", 3: "third"}[order]
        ax.plot(r.tolist(), series.tolist(), style, lw=2.0, color="#1f5fa8", label=f"series, {name} order")
    ax.plot(r.tolist(), exact, lw=2.4, color="#d1495b", label="exact, log-normal scale")
    ax.axvline(star, color="0.45", lw=1.2, ls=(0, (4, 3)), label=f"r* = {star:.3g}, where the third order turns")
    ax.set_ylim(-0.1 * max(exact), 1.25 * max(exact))
    ax.set_xlabel("depth / width", fontsize=13)
    ax.set_ylabel("mutual information, nats", fontsize=13)
    ax.tick_params(labelsize=12)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", framealpha=1.0, edgecolor="none", fontsize=11.5)
    if title:
        ax.set_title(title, loc="left", fontsize=15, fontweight="bold")
    return figure
