"""The phase diagram as a picture for a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from leadline.plot import matplotlib_parts
from leadline.theory.criticality.diagram import PhaseDiagram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]

_INK = "#1b1b1b"
_LEVELS = (3, 10, 30, 100)
_SHORTEST, _LONGEST = 1.0, 300.0
_COLOURS = ((0.0, "#0b3c75"), (0.25, "#3f7fbf"), (0.5, "#ffffff"), (0.75, "#dd6b5b"), (1.0, "#8c1526"))


def draw(diagram: PhaseDiagram) -> Figure:
    """Phases by colour, the depth scale by shade (white: infinite), and what is critical on top.

    Args:
        diagram: the data.

    Returns:
        A matplotlib figure that belongs to no window.

    Raises:
        ImportError: matplotlib is not installed.
    """
    canvas, _ = matplotlib_parts()
    from matplotlib.colors import LinearSegmentedColormap

    figure = canvas(figsize=(11.5, 7.2), dpi=130, layout="constrained")
    ax = figure.subplots()
    x, y = diagram.C_W.numpy(), diagram.C_b.numpy()
    chi = diagram.chi_perp.numpy()
    bounded = diagram.phase.numpy() != 3
    shade = np.ma.masked_where(~bounded, _shade(chi))
    colours = LinearSegmentedColormap.from_list("phases", _COLOURS)
    mesh = ax.pcolormesh(x, y, shade, cmap=colours, vmin=-1, vmax=1, shading="nearest", rasterized=True)
    _unbounded(ax, x, y, bounded)
    _contours(ax, x, y, np.ma.masked_where(~bounded, np.log(np.clip(chi, 1e-12, 1e12))))
    edge = diagram.edge.numpy()
    inside = (edge[0] >= x[0]) & (edge[0] <= x[-1]) & (edge[1] <= y[-1]) & (edge[1] > 0)
    if inside.any():
        ax.plot(edge[0], edge[1], color=_INK, lw=3, zorder=4, label="edge of chaos, $\\chi_\\perp = 1$")
    _star(ax, diagram)
    _names(ax, diagram)
    _colour_bar(figure, mesh, ax)
    ax.set_xlim(float(x[0]), float(x[-1]))
    ax.set_ylim(float(y[0]), float(y[-1]))
    ax.set_xlabel("$C_W$   (fan-in × weight variance)", fontsize=16)
    ax.set_ylabel("$C_b$   (bias variance)", fontsize=16)
    ax.tick_params(labelsize=13)
    ax.set_title(_title(diagram), fontsize=19, loc="left", fontweight="bold", pad=12)
    if ax.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower left", fontsize=14, ncols=2, frameon=False)
    return figure


def _shade(chi: Any) -> Any:
    """-1 … 0 … 1 for order … edge … chaos: the logarithm of the depth scale, from 1 layer to 300."""
    with np.errstate(divide="ignore"):
        depth = 1 / np.abs(np.log(np.clip(chi, 1e-12, 1e12)))
    part = 1 - np.log(np.clip(depth, _SHORTEST, _LONGEST) / _SHORTEST) / np.log(_LONGEST / _SHORTEST)
    return np.sign(chi - 1) * part


def _unbounded(ax: Any, x: Any, y: Any, bounded: Any) -> None:
    if bounded.all() or min(x.size, y.size) < 2:
        return
    ax.contourf(x, y, (~bounded).astype(float), levels=[0.5, 1.5], colors=["#d9d9d9"], hatches=["//"], zorder=1)


def _contours(ax: Any, x: Any, y: Any, log_chi: Any) -> None:
    levels = sorted([-1 / n for n in _LEVELS] + [1 / n for n in _LEVELS])
    if min(x.size, y.size) < 2 or log_chi.count() < 4:
        return
    levels = [v for v in levels if float(log_chi.min()) < v < float(log_chi.max())]
    if not levels:
        return
    lines = ax.contour(x, y, log_chi, levels=levels, colors=_INK, linewidths=1.0, alpha=0.75, zorder=3, linestyles="--")
    ax.clabel(lines, fmt=lambda v: f"{round(1 / abs(v))} layers", fontsize=11)


def _star(ax: Any, diagram: PhaseDiagram) -> None:
    point = diagram.point
    if point is None:
        return
    near: Any = point if point.exists else point.nearest
    if near is None or near.C_W is None or not diagram.C_W[0] <= near.C_W <= diagram.C_W[-1]:
        return
    name = f"critical point ({point.universality_class})" if point.exists else "nearest useful point"
    ax.plot(
        [near.C_W], [near.C_b], "*", ms=22, color="#ffd23f", mec=_INK, mew=1.4, zorder=6, clip_on=False,
        label=f"{name}: $C_W$ = {near.C_W:.5g}, $C_b$ = {near.C_b:.4g}",
    )  # fmt: skip


def _names(ax: Any, diagram: PhaseDiagram) -> None:
    phase = diagram.phase.numpy()
    words = {0: ("ordered", "white"), 2: ("chaotic", "white"), 3: ("grows without end", _INK)}
    for number, (word, colour) in words.items():
        where = phase == number
        if where.mean() < 0.05:
            continue
        place = _middle(where)
        if place is not None:
            x, y = diagram.C_W[place[1]], diagram.C_b[place[0]]
            back = {"boxstyle": "round,pad=0.25", "fc": "#00000055" if colour == "white" else "#ffffffcc", "ec": "none"}
            ax.text(float(x), float(y), word, fontsize=19, color=colour, ha="center", va="center", zorder=5, bbox=back)


def _middle(where: Any) -> tuple[int, int] | None:
    """A place deep inside a region, by the distance to what is outside it."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(where, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return (int(row), int(column)) if depth.max() >= 3 else None


def _colour_bar(figure: Any, mesh: Any, ax: Any) -> None:
    marks = [1, 3, 10, 30, 100, 300]
    places = [1 - np.log(m) / np.log(_LONGEST) for m in marks]
    bar = figure.colorbar(mesh, ax=ax, pad=0.015)
    bar.set_ticks([-p for p in places] + list(reversed(places))[1:])
    bar.set_ticklabels([f"{m}" for m in marks[:-1]] + ["≥ 300"] + [f"{m}" for m in reversed(marks[:-1])])
    bar.ax.tick_params(labelsize=12)
    bar.set_label("depth scale 1/|ln χ⊥|, layers:  blue gradients vanish, red they explode", fontsize=13)


def _title(diagram: PhaseDiagram) -> str:
    name = diagram.activation.replace("$", r"\$")
    extra = [] if diagram.norm == "none" else [str(diagram.norm).replace("_", " ")]
    if diagram.residual:
        extra.append(f"skip {diagram.residual:g}")
    return f"Phase diagram of {name}" + (f" ({', '.join(extra)})" if extra else "")
