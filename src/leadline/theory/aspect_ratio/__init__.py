"""Depth over width: the scale of the effective theory's corrections, and what it does to a network's outputs.

- ``depth_and_width``: a network's ratio, seed-to-seed spread, shared information and the guide r*, in one object.
- ``spread_rate``: nu of each universality class, with and without residual connections.
- ``mutual_information``: of groups of outputs, exact for a log-normal scale; ``mutual_information_series`` to third order.
- ``residual_flow``, ``residual_growth``: the spread and the mean of a residual stream.
"""

from __future__ import annotations

from leadline.theory.aspect_ratio.depth_width import DepthWidth, depth_and_width
from leadline.theory.aspect_ratio.growth import (
    aspect_ratio,
    log_normal_spread,
    product_spread,
    spread_rate,
)
from leadline.theory.aspect_ratio.information import (
    divergence_series,
    mutual_information,
    mutual_information_series,
    optimal_aspect_ratio,
    scale_mixture_divergence,
)
from leadline.theory.aspect_ratio.picture import information_picture
from leadline.theory.aspect_ratio.residual import (
    ResidualFlow,
    critical_branch_exponent,
    residual_flow,
    residual_growth,
)

__all__ = [
    "DepthWidth",
    "ResidualFlow",
    "aspect_ratio",
    "critical_branch_exponent",
    "depth_and_width",
    "divergence_series",
    "information_picture",
    "log_normal_spread",
    "mutual_information",
    "mutual_information_series",
    "optimal_aspect_ratio",
    "product_spread",
    "residual_flow",
    "residual_growth",
    "scale_mixture_divergence",
    "spread_rate",
]
