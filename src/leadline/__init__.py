"""Leadline: predict and measure, layer by layer, how deep a network can go before it is trained."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
