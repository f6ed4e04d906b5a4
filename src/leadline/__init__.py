"""Leadline: predict and measure, layer by layer, how deep a network can go before it is trained.

:func:`trace` reads a module, :func:`predict` says what theory expects of it, :func:`measure` measures the same,
:func:`compare` puts the two side by side, and :func:`check` does all of it and gives verdicts. :func:`critical_point`,
:func:`phase_diagram` and :func:`flow` are the theory of an activation on its own; :func:`tune` writes a recipe
of initial weights, :func:`learning_rate` says which rate, :func:`coordinate_check` whether it carries over to other
widths, and :class:`Monitor` watches a network train.
"""

from __future__ import annotations

import sys as _sys
from types import ModuleType as _ModuleType
from typing import Any as _Any

__version__ = "0.1.0"  # before the rooms, which may ask for it

from leadline.activations import Activation as Activation
from leadline.activations import activation as activation
from leadline.check import Report as Report
from leadline.check import Verdict as Verdict
from leadline.check import check as check
from leadline.flow import Flow as Flow
from leadline.flow import flow as flow
from leadline.measure import Comparison as Comparison
from leadline.measure import Measurement as Measurement
from leadline.measure import compare as compare
from leadline.measure import measure as measure
from leadline.measure.curvature import top_curvature as top_curvature
from leadline.program import Program as Program
from leadline.program import UserError as UserError
from leadline.program import trace as trace
from leadline.theory import Prediction as Prediction
from leadline.theory import predict as predict
from leadline.theory.criticality import CriticalPoint as CriticalPoint
from leadline.theory.criticality import PhaseDiagram as PhaseDiagram
from leadline.theory.criticality import critical_point as critical_point
from leadline.theory.criticality import phase_diagram as phase_diagram
from leadline.tune import CoordinateCheck as CoordinateCheck
from leadline.tune import Monitor as Monitor
from leadline.tune import Recipe as Recipe
from leadline.tune import coordinate_check as coordinate_check
from leadline.tune import learning_rate as learning_rate
from leadline.tune import tune as tune

__all__ = [
    "Activation", "Comparison", "CoordinateCheck", "CriticalPoint", "Flow", "Measurement", "Monitor", "PhaseDiagram",
    "Prediction", "Program", "Recipe", "Report", "UserError", "Verdict", "__version__", "activation", "check", "compare",
    "coordinate_check", "critical_point", "flow", "learning_rate", "measure", "phase_diagram", "predict", "top_curvature",
    "trace", "tune",
]  # fmt: skip


class _Front(_ModuleType):
    """A package whose verbs keep their names: importing the room of a verb would put the room in its place."""

    def __setattr__(self, name: str, value: _Any) -> None:
        if not (isinstance(value, _ModuleType) and name in __all__):
            super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Front
