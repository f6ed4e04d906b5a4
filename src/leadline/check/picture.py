"""The figure of a report: predictions as lines, measurements as points, verdicts marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leadline.check.evidence import Evidence
from leadline.check.verdict import Verdict
from leadline.plot import Panel, layer_profile
from leadline.program.errors import plain
from leadline.theory import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["picture"]

_LIMITS = {"correlation": (-0.05, 1.05), "site_correlation": (-0.05, 1.05)}
_REFERENCE = {"chi_perp": 1.0, "chi_parallel": 1.0, "correlation": 1.0}


def picture(evidence: Evidence, verdicts: Sequence[Verdict], title: str, quantities: Sequence[str]) -> Figure:
    """Draw the stations of the spine against depth.

    Args:
        evidence: rows with both sides.
        verdicts: where errors and warnings begin is marked.
        title: of the figure.
        quantities: names, one panel each.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a name that is no quantity, or no row to draw.
    """
    known = {q.name: q for q in QUANTITIES}
    unknown = [name for name in quantities if name not in known]
    if unknown:
        raise ValueError(f"there is no quantity {unknown[0]!r}: choose from {', '.join(known)}.")
    points = evidence.stations()
    if len(points) < 3:
        points = list(evidence.points)
    panels = []
    for name in quantities:
        pairs = [p.values.get(name) for p in points]
        panels.append(
            Panel(
                known[name].title,
                known[name].unit,
                [None if x is None else x.predicted for x in pairs],
                [None if x is None else x.measured for x in pairs],
                [None if x is None else x.stderr for x in pairs],
                reference=_REFERENCE.get(name),
                limits=_LIMITS.get(name),
                log=False if name in _LIMITS else None,
            )
        )
    wrong = {v.layer for v in verdicts if v.severity != "note"}
    marked = [i for i, p in enumerate(points) if p.name in wrong]
    return layer_profile([plain(p.name, 40) for p in points], panels, title=plain(title, 80), marked=marked)
