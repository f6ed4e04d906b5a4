"""The spectrum of a Jacobian as a curve, with the histogram of measured singular values behind it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from leadline.plot import matplotlib_parts
from leadline.theory.spectra.spectrum import JacobianSpectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["spectrum_picture"]

_POINTS = 160
_BINS = 48
_DECADES = 3.0


def spectrum_picture(spectrum: JacobianSpectrum, measured: Tensor | None = None, *, title: str = "") -> Figure:
    """Draw the density of the logarithm of the singular values.

    Args:
        spectrum: from :func:`leadline.theory.spectra.jacobian_spectrum`.
        measured: singular values of networks (not squared), any shape; those that are 0 count in the whole.
        title: of the figure.
    Returns:
        A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.
    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_class, _ = matplotlib_parts()
    figure = figure_class(figsize=(9.0, 4.6), dpi=130, layout="constrained")
    ax = figure.subplots()
    top = 0.5 * math.log10(spectrum.largest)
    # squared steps from the edge, where the density has a root
    t = top - _DECADES * torch.linspace(0, 1, _POINTS, dtype=torch.float64)[1:] ** 2
    x = 10 ** (2 * t)
    per_decade = spectrum.density(x) * x * 2 * math.log(10)
    if measured is not None:
        values = measured.detach().to(torch.float64).reshape(-1)
        ends = torch.linspace(top - _DECADES, top + 0.15, _BINS + 1, dtype=torch.float64)
        place = torch.bucketize(values.clamp_min(1e-300).log10(), ends) - 1
        counts = torch.bincount(place[(place >= 0) & (place < _BINS)], minlength=_BINS)
        heights = counts / (values.numel() * float(ends[1] - ends[0]))
        ax.stairs(heights.tolist(), (10**ends).tolist(), fill=True, color="#d1495b", alpha=0.35, label="networks")
    ax.plot((10**t).tolist(), per_decade.tolist(), lw=2.4, color="#1f5fa8", label="free probability")
    atoms = []
    if spectrum.zero > 0:
        atoms.append(f"{spectrum.zero:.3g} at 0")
    if spectrum.isometric is not None:
        value, share = spectrum.isometric
        atoms.append(f"{share:.3g} at {math.sqrt(value):.3g}")
    if atoms:
        ax.plot([], [], " ", label="share of single values: " + ", ".join(atoms))
    ax.set_xscale("log")
    ax.set_xlim(10 ** (top - _DECADES), 10 ** (top + 0.15))
    ax.set_ylim(0, 1.25 * float(per_decade.max()))
    ax.set_xlabel("singular value of the Jacobian", fontsize=13)
    ax.set_ylabel("share per decade", fontsize=13)
    ax.tick_params(labelsize=12)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", frameon=False, fontsize=11.5)
    if title:
        ax.set_title(title, loc="left", fontsize=15, fontweight="bold")
    return figure
