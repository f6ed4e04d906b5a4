"""What the theory needs of a nonlinearity: derivatives, kinks, Gaussian moments and duals.

``activation(obj)`` takes a torch module, a torch function, a name, or any pointwise callable, and returns an
``Activation``; its methods integrate over centred Gaussians, by a closed form where one is known and by
quadrature with an error estimate elsewhere. One family a file: a file dropped into this folder registers
itself.
"""

from __future__ import annotations

import importlib
import pkgutil

from leadline.activations.base import Activation
from leadline.activations.joint import four_point, joint_moment
from leadline.activations.mixed import mixed_moment
from leadline.activations.registry import REGISTRY, register
from leadline.activations.resolve import activation
from leadline.activations.shape import Shaped, shape, shape_relu
from leadline.activations.universality import OriginNumbers, curvature_roots, origin_numbers

__all__ = [
    "REGISTRY",
    "Activation",
    "OriginNumbers",
    "Shaped",
    "activation",
    "curvature_roots",
    "four_point",
    "joint_moment",
    "mixed_moment",
    "origin_numbers",
    "register",
    "shape",
    "shape_relu",
]

for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
