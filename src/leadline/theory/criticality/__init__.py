"""Criticality: where a deep network neither explodes nor vanishes, and how far away a given one is.

- ``critical_point``: (C_W, C_b, K*) of any activation, its universality class, exponents and coefficients; the nearest
  useful point where there is none.
- ``fixed_point``, ``fixed_points``: where the kernel of a repeated layer comes to rest, one or many (C_W, C_b).
"""

from __future__ import annotations

from leadline.theory.criticality.block import Block, Norm
from leadline.theory.criticality.classes import Exponents, UniversalityClass
from leadline.theory.criticality.find import critical_point
from leadline.theory.criticality.fixed_point import FixedPoint, FixedPoints, depth_scale, fixed_point, fixed_points
from leadline.theory.criticality.nearest import NearestPoint, nearest_point
from leadline.theory.criticality.point import CriticalPoint

__all__ = [
    "Block", "CriticalPoint", "Exponents", "FixedPoint", "FixedPoints", "NearestPoint", "Norm", "UniversalityClass",
    "critical_point", "depth_scale", "fixed_point", "fixed_points", "nearest_point",
]  # fmt: skip
