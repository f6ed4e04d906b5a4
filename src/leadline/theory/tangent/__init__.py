"""The neural tangent kernel of deep networks at large finite width.

- ``tangent_flow``: everything for one input at a time, to any depth.
- ``tangent_tensors``: the same between several inputs.
- ``tangent_matrices``: the mean alone, of every layer over many inputs.
"""

from __future__ import annotations

from leadline.theory.tangent.matrices import tangent_matrices
from leadline.theory.tangent.one import TangentFlow, tangent_flow
from leadline.theory.tangent.several import TangentTensors, tangent_tensors

__all__ = ["TangentFlow", "TangentTensors", "tangent_flow", "tangent_matrices", "tangent_tensors"]
