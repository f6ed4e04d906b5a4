"""Figures and terminal tables of arrays with labels and units; nothing here knows what a network is.

:mod:`leadline.plot.table` makes :mod:`rich` tables of predicted beside measured numbers,
:func:`leadline.plot.figure.layer_profile` a figure of them against depth (needs matplotlib, the ``plot`` extra).
"""

from __future__ import annotations

from leadline.plot.figure import Panel, layer_profile, matplotlib_parts
from leadline.plot.numbers import number, with_error
from leadline.plot.table import Column, Gap, two_sided_table
from leadline.plot.text import as_text

__all__ = [
    "Column",
    "Gap",
    "Panel",
    "as_text",
    "layer_profile",
    "matplotlib_parts",
    "number",
    "two_sided_table",
    "with_error",
]
