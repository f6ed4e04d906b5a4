"""The neural tangent kernel of deep networks at large finite width."""

from __future__ import annotations

from leadline.theory.tangent.one import TangentFlow, tangent_flow

__all__ = ["TangentFlow", "tangent_flow"]
