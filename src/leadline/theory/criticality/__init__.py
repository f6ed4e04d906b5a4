"""Criticality: where a deep network neither explodes nor vanishes, and how far away a given one is.

- ``critical_point``: (C_W, C_b, K*) of any activation, its universality class, exponents and coefficients; the nearest
  useful point where there is none.
- ``critical_line``: the same with LayerNorm or RMSNorm before or after the activation, and with a skip.
- ``phase_diagram``: order, chaos and the edge between them over a grid of C_W and C_b, as data and as a picture.
- ``fixed_point``, ``fixed_points``: where the kernel of a repeated layer comes to rest, one or many (C_W, C_b).
- ``layer_spread``, ``spread_with_skip``: how the relative spread of a critical network grows with depth over width.
"""

from __future__ import annotations

from leadline.theory.criticality.block import Block, Norm
from leadline.theory.criticality.classes import Exponents, UniversalityClass
from leadline.theory.criticality.diagram import PHASES, PhaseDiagram, phase_diagram
from leadline.theory.criticality.find import critical_point
from leadline.theory.criticality.fixed_point import FixedPoint, FixedPoints, depth_scale, fixed_point, fixed_points
from leadline.theory.criticality.growth import Growth, full_skip
from leadline.theory.criticality.line import CriticalLine, LineKind, critical_line
from leadline.theory.criticality.nearest import NearestPoint, nearest_point
from leadline.theory.criticality.origin import Origin, origin
from leadline.theory.criticality.point import CriticalPoint
from leadline.theory.criticality.spread import layer_spread, spread_with_skip, third_moment

__all__ = [
    "PHASES", "Block", "CriticalLine", "CriticalPoint", "Exponents", "FixedPoint", "FixedPoints",
    "Growth", "LineKind", "NearestPoint", "Norm", "Origin", "PhaseDiagram", "UniversalityClass",
    "critical_line", "critical_point", "depth_scale", "fixed_point", "fixed_points", "full_skip", "layer_spread",
    "nearest_point", "origin", "phase_diagram", "spread_with_skip", "third_moment",
]  # fmt: skip
