"""Measurements on real networks and on fresh draws of their weights."""

from __future__ import annotations

__all__: list[str] = []
