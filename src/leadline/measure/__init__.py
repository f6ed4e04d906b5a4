"""Measurements on real networks and on fresh draws of their weights.

:func:`measure` gives the rows that :func:`leadline.theory.predict` predicts, with standard errors;
:func:`compare` puts the two side by side.
"""

from __future__ import annotations

from leadline.measure.compare import Comparison, compare
from leadline.measure.measurement import Measurement
from leadline.measure.networks import measure
from leadline.measure.redraw import RedrawReport, redraw, redraw_many

__all__ = ["Comparison", "Measurement", "RedrawReport", "compare", "measure", "redraw", "redraw_many"]
