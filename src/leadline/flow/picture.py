"""The picture of a flow: lines of theory, points of the ensemble, against depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from leadline.plot import Panel, layer_profile
from leadline.theory import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leadline.flow.flow import Flow

__all__ = ["picture"]

_POINTS = 25  # measured points beyond which a line would be covered


def picture(flow: Flow) -> Figure:
    """Draw a flow.

    Args:
        flow: what to draw.

    Returns:
        A matplotlib figure: kernel, spread, susceptibility, tangent kernel and its spread against depth.
    """
    panels = [
        _panel(flow, "kernel K + G1/n", "z²", flow.corrected("K"), flow.measured.get("K")),
        _panel(flow, "spread of the kernel over networks, V/(nK²)", "1", flow.spread, _spread(flow)),
    ]
    if flow.correlation is not None:
        panels.append(_panel(flow, "correlation of the first two inputs", "1", flow.correlation, None))
    theta = flow.corrected("Theta")
    if theta is not None:
        panels.append(_panel(flow, "tangent kernel Θ + H1/n", "z²", theta, flow.measured.get("Theta")))
    spread = flow.tangent_spread
    if spread is not None:
        title = "spread of the tangent kernel over networks, (A+2B)/(nΘ²)"
        panels.append(_panel(flow, title, "1", spread, _tangent_spread(flow)))
    law = _law(flow.layers.C_W, "C_W") + ", " + _law(flow.layers.C_b, "C_b")
    widths = sorted(set(flow.layers.widths[1:]))
    width = f"width {widths[0]}" if len(widths) == 1 else f"widths {widths[0]} to {widths[-1]}"
    names = [str(i) for i in range(1, flow.depth + 1)]
    return layer_profile(names, panels, title=f"{flow.layers.activation.name}, {width}, {law}")


def _law(values: Sequence[float], name: str) -> str:
    return f"{name} = {values[-1]:.4g}" if len(set(values[1:])) <= 1 else f"{name} by layer"


def _spread(flow: Flow) -> list[Estimate] | None:
    K, V = flow.measured.get("K"), flow.measured.get("V")
    if K is None or V is None:
        return None
    units = [n * k.value**2 or math.nan for n, k in zip(flow.layers.fan_in, K, strict=True)]
    return [Estimate(v.value / u, v.error / abs(u)) for v, u in zip(V, units, strict=True)]


def _tangent_spread(flow: Flow) -> list[Estimate] | None:
    Theta, A, B = (flow.measured.get(name) for name in ("Theta", "A", "B"))
    if Theta is None or A is None or B is None:
        return None
    units = [n * t.value**2 or math.nan for n, t in zip(flow.layers.fan_in, Theta, strict=True)]
    return [
        Estimate((a.value + 2 * b.value) / u, math.hypot(a.error, 2 * b.error) / abs(u))
        for a, b, u in zip(A, B, units, strict=True)
    ]


def _panel(flow: Flow, title: str, unit: str, line: Tensor | None, points: Sequence[Estimate] | None) -> Panel:
    predicted = [v if math.isfinite(v) else None for v in line.tolist()] if line is not None else [None] * flow.depth
    if points is None:
        return Panel(title, unit, predicted)
    step = max(1, math.ceil(flow.depth / _POINTS))
    shown = [i % step == 0 or i == flow.depth - 1 for i in range(flow.depth)]
    return Panel(
        title,
        unit,
        predicted,
        [p.value if keep and math.isfinite(p.value) else None for p, keep in zip(points, shown, strict=True)],
        [p.error for p in points],
    )
