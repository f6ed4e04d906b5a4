"""Leadline: predict and measure, layer by layer, how deep a network can go before it is trained.

:func:`trace` reads a module, :func:`predict` says what theory expects of it, :func:`measure` measures the same,
:func:`compare` puts the two side by side, and :func:`check` does all of it and gives verdicts.
"""

from __future__ import annotations

__version__ = "0.1.0"  # before the rooms, which may ask for it

from leadline.activations import Activation as Activation
from leadline.activations import activation as activation
from leadline.check import Report as Report
from leadline.check import Verdict as Verdict
from leadline.check import check as check
from leadline.measure import Comparison as Comparison
from leadline.measure import Measurement as Measurement
from leadline.measure import compare as compare
from leadline.measure import measure as measure
from leadline.program import Program as Program
from leadline.program import UserError as UserError
from leadline.program import trace as trace
from leadline.theory import Prediction as Prediction
from leadline.theory import predict as predict

# The verbs `check` and `measure` stand in front of the rooms of the same name, which is why these are no lazy imports:
# a room that is loaded later would take its name back.
__all__ = [
    "Activation", "Comparison", "Measurement", "Prediction", "Program", "Report", "UserError", "Verdict", "__version__",
    "activation", "check", "compare", "measure", "predict", "trace",
]  # fmt: skip
