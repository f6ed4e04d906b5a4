"""Sub-graphs that are one operator to the theory: pointwise chains, written-out norms, attention, rotary positions.

A file here is one pattern; it registers itself and needs no other file changed.
"""

from __future__ import annotations

import importlib
import pkgutil

from leadline.program.fuse.base import GraphView, Group, fuse

__all__ = ["GraphView", "Group", "fuse"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
