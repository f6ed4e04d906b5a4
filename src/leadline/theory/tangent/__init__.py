"""The neural tangent kernel of deep networks at large finite width.

- ``tangent_flow``: mean, fluctuations, differentials for one input at a time, to any depth.
- ``tangent_tensors``: the same between several inputs.
- ``tangent_matrices``: the mean alone, of every layer over many inputs.
- ``gradient_step``, ``gradient_flow``: the mean output that they predict after one step, and at any time of training.
- ``layer_contributions``, ``layer_contributions_between``: what each layer adds to the mean.
- ``critical_rates``, ``equal_rates``, ``scaling_sentence``: learning rates that make all layers contribute alike.
- ``relu_dispersion``, ``relu_dispersion_limit``: exact second moment for deep ReLU networks at any depth and width.
"""

from __future__ import annotations

from leadline.theory.tangent.dispersion import Dispersion, relu_dispersion, relu_dispersion_limit
from leadline.theory.tangent.learned import MeanOutput
from leadline.theory.tangent.matrices import tangent_matrices
from leadline.theory.tangent.mean import LayerContributions, layer_contributions, layer_contributions_between
from leadline.theory.tangent.one import TangentFlow, tangent_flow
from leadline.theory.tangent.rates import critical_rates, equal_rates, scaling_sentence
from leadline.theory.tangent.several import TangentTensors, tangent_tensors
from leadline.theory.tangent.step import gradient_step
from leadline.theory.tangent.training import gradient_flow

__all__ = [
    "Dispersion", "LayerContributions", "MeanOutput", "TangentFlow", "TangentTensors", "critical_rates", "equal_rates",
    "gradient_flow", "gradient_step", "layer_contributions", "layer_contributions_between", "relu_dispersion",
    "relu_dispersion_limit", "scaling_sentence", "tangent_flow", "tangent_matrices", "tangent_tensors",
]  # fmt: skip
