"""How the law of a network's pre-activations flows from layer to layer, at infinite and at large finite width.

- ``Layers``: widths, activation, variances and learning rates of a chain of dense layers.
- ``single_input_flow``: kernel, four-point vertex and kernel correction of every layer for single inputs.
- ``many_input_flow``: the same for several inputs at once.
- ``kernel_flow``, ``correlation_flow``, ``nearby_flow``: infinite width alone, to any depth; of single inputs, of several,
  of two nearby ones. ``depth_scales``: how many layers signals and correlations survive.
- ``kernel_matrices``: the kernel of every layer over many inputs.
- ``asymptotic_kernel``, ``asymptotic_angle``, ``spread_per_layer``: what becomes of them at criticality.
- ``effective_action``, ``connected_four_point``, ``four_point``: running couplings and correlators of a layer.
- ``kernel_moment``, ``log_law``, ``log_normal_limit``: exact laws of two-slope networks at any width.
"""

from __future__ import annotations

from leadline.theory.flow.asymptotics import asymptotic_angle, asymptotic_kernel, spread_per_layer
from leadline.theory.flow.correlation import CorrelationFlow, correlation_flow
from leadline.theory.flow.correlators import EffectiveAction, connected_four_point, effective_action, four_point
from leadline.theory.flow.kernel import end_slopes, kernel_flow
from leadline.theory.flow.layers import Layers
from leadline.theory.flow.many import ManyInputFlow, four_index, many_input_flow
from leadline.theory.flow.matrices import gram_of, kernel_matrices
from leadline.theory.flow.nearby import NearbyFlow, derivative_moment_slope, nearby_flow
from leadline.theory.flow.product_law import LogLaw, kernel_moment, log_law, log_normal_limit
from leadline.theory.flow.scales import DepthScales, depth_scales
from leadline.theory.flow.single import SingleInputFlow, single_input_flow

__all__ = [
    "CorrelationFlow",
    "DepthScales",
    "EffectiveAction",
    "Layers",
    "LogLaw",
    "ManyInputFlow",
    "NearbyFlow",
    "SingleInputFlow",
    "asymptotic_angle",
    "asymptotic_kernel",
    "connected_four_point",
    "correlation_flow",
    "depth_scales",
    "derivative_moment_slope",
    "effective_action",
    "end_slopes",
    "four_index",
    "four_point",
    "gram_of",
    "kernel_flow",
    "kernel_matrices",
    "kernel_moment",
    "log_law",
    "log_normal_limit",
    "many_input_flow",
    "nearby_flow",
    "single_input_flow",
    "spread_per_layer",
]
