"""Training dynamics in closed form.

:func:`linearized_training` gives the law of a trained wide network at any time and under any :class:`Rule`,
:func:`expected_error` its generalization error, :func:`kernel_matrices` and :func:`tangent_matrices` the kernels
that they start from. :class:`DeepLinear` has the learning curves of deep linear networks.
"""

from __future__ import annotations

from leadline.theory.dynamics.deep_linear import DeepLinear, mode_strength, time_to_learn
from leadline.theory.dynamics.generalization import ExpectedError, expected_error
from leadline.theory.dynamics.kernels import kernel_matrices, tangent_matrices
from leadline.theory.dynamics.linearized import TrainedEnsemble, linearized_training
from leadline.theory.dynamics.rules import GradientDescent, GradientFlow, Momentum, Newton, Rule

__all__ = [
    "DeepLinear",
    "ExpectedError",
    "GradientDescent",
    "GradientFlow",
    "Momentum",
    "Newton",
    "Rule",
    "TrainedEnsemble",
    "expected_error",
    "kernel_matrices",
    "linearized_training",
    "mode_strength",
    "tangent_matrices",
    "time_to_learn",
]
