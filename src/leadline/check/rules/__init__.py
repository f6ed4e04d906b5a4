"""One file a verdict: its threshold, its reason, its source and the function that judges.

Dropping a file into this folder adds its rule; :func:`leadline.check.verdict.rule` registers it.
"""

from __future__ import annotations

import importlib
import pkgutil

__all__: list[str] = []

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
