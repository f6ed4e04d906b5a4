"""Correlations against depth/width: the SDE's spread as a band, a few paths, and networks beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from leadline.plot import matplotlib_parts
from leadline.theory.covariance_sde.sde import CovariancePaths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["correlation_picture"]

_PREDICTED, _MEASURED = "#1f5fa8", "#d1495b"
_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
_SHOWN = 6


def correlation_picture(
    paths: CovariancePaths, networks: Tensor | None = None, *, title: str = "", point: Tensor | None = None
) -> Figure:
    """Draw the correlation of two inputs against depth/width: quantiles of the SDE, single paths, and networks.

    Args:
        paths: from :meth:`CovarianceSDE.sample`, kept at several times.
        networks: correlations of as many networks as you like at the same times, shape (networks, t).
        title: of the figure.
        point: correlation without noise, shape (t,), drawn as a dotted line.
    Returns:
        A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.
    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the networks were kept at other times.
    """
    if networks is not None and networks.shape[-1:] != paths.times.shape:
        raise ValueError(
            f"networks must hold {len(paths.times)} times as the paths do, got shape {tuple(networks.shape)}; "
            "keep their correlations at the same depths"
        )
    figure_class, _ = matplotlib_parts()
    figure = figure_class(figsize=(12.0, 4.4), dpi=130, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True, sharex=True) if networks is not None else [figure.subplots()]
    sides = [("SDE", _PREDICTED, paths.correlation())]
    if networks is not None:
        sides.append((f"{networks.shape[0]} networks", _MEASURED, networks))
    t = paths.times.tolist()
    for ax, (label, color, rho) in zip(axes, sides, strict=True):
        q = torch.nanquantile(rho, torch.tensor(_LEVELS, dtype=rho.dtype), dim=0)
        ax.fill_between(t, q[0].tolist(), q[4].tolist(), color=color, alpha=0.15, lw=0, label="80 % of the draws")
        ax.fill_between(t, q[1].tolist(), q[3].tolist(), color=color, alpha=0.25, lw=0, label="50 %")
        ax.plot(t, q[2].tolist(), color=color, lw=2.4, label="median")
        for row in rho[:_SHOWN].tolist():
            ax.plot(t, row, color=color, lw=0.7, alpha=0.8)
        if point is not None:
            ax.plot(t, point.tolist(), ":", color="0.25", lw=1.8, label="without noise")
        ax.set_title(label, loc="left", fontsize=14)
        ax.set_xlabel("depth / width", fontsize=13)
        ax.tick_params(labelsize=12)
        ax.set_ylim(-1.03, 1.03)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="lower left", frameon=False, fontsize=11)
    axes[0].set_ylabel("correlation of two inputs", fontsize=13)
    if title:
        figure.suptitle(title, fontsize=15, x=0.01, ha="left", fontweight="bold")
    return figure
