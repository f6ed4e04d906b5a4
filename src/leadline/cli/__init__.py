"""The command line: what it is given, what it runs and what it shows."""

from __future__ import annotations

__all__: list[str] = []
