"""How the law of a network's pre-activations flows from layer to layer, at infinite and at large finite width.

- ``Layers``: widths, activation, variances and learning rates of a chain of dense layers.
- ``single_input_flow``: kernel, four-point vertex and kernel correction of every layer for single inputs.
- ``many_input_flow``: the same for several inputs at once.
- ``kernel_flow``: the kernel alone, to any depth.
"""

from __future__ import annotations

from leadline.theory.flow.kernel import kernel_flow
from leadline.theory.flow.layers import Layers
from leadline.theory.flow.many import ManyInputFlow, many_input_flow
from leadline.theory.flow.single import SingleInputFlow, single_input_flow

__all__ = ["Layers", "ManyInputFlow", "SingleInputFlow", "kernel_flow", "many_input_flow", "single_input_flow"]
