"""Training dynamics in closed form.

- ``generalization_profile``: expected test error against depth, on and off criticality; prints and plots itself.
- ``linearized_training``: the law of a trained wide network at any time and under any ``Rule``, from K and Theta;
  ``expected_error``: its squared bias and variance.
- ``DeepLinear``, ``mode_strength``, ``time_to_learn``: learning curves of deep linear networks.
"""

from __future__ import annotations

from leadline.theory.dynamics.deep_linear import DeepLinear, mode_strength, time_to_learn
from leadline.theory.dynamics.generalization import ExpectedError, expected_error
from leadline.theory.dynamics.linearized import TrainedEnsemble, linearized_training
from leadline.theory.dynamics.profile import GeneralizationProfile, generalization_profile
from leadline.theory.dynamics.rules import GradientDescent, GradientFlow, Momentum, Newton, Rule

__all__ = [
    "DeepLinear",
    "ExpectedError",
    "GeneralizationProfile",
    "GradientDescent",
    "GradientFlow",
    "Momentum",
    "Newton",
    "Rule",
    "TrainedEnsemble",
    "expected_error",
    "generalization_profile",
    "linearized_training",
    "mode_strength",
    "time_to_learn",
]
