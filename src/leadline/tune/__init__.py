"""Decisions about training: the initialization and the learning rate.

:func:`tune` makes a :class:`Recipe` of a network and a batch: what to draw anew, and why.

:func:`learning_rate` recommends one and says what it rests on; :func:`measure_edge` finds the largest that works by
training, :func:`predict_edge` from short runs, :func:`stability` from curvature, :func:`gradient_noise` says how it
changes with the batch.

:func:`parametrization` gives the exponents of a way to scale with width, :func:`wide_limit` says what they lead to,
:func:`coordinate_check` measures it, and :func:`tune` with a base network puts one on a network.

:func:`width_for_depth` says whether a network is wide enough for its depth, and :class:`Monitor` watches one while it trains.
"""

from __future__ import annotations

from leadline.tune.monitor import Monitor
from leadline.tune.monitor_reading import Reading
from leadline.tune.param_abc import PARAMETRIZATIONS, Exponents, Parametrization, Shift, parametrization
from leadline.tune.param_coordinate import CoordinateCheck, coordinate_check
from leadline.tune.param_first_step import first_step
from leadline.tune.param_limit import LayerLimit, WideLimit, wide_limit
from leadline.tune.rate import learning_rate
from leadline.tune.rate_batch import GradientNoise, gradient_noise, rate_at_batch
from leadline.tune.rate_edge import Edge, Run, measure_edge
from leadline.tune.rate_initial import PowerLaw, fit_power_law, maximal_initial_rate
from leadline.tune.rate_layers import LayerRate, layer_rates
from leadline.tune.rate_predict import Stability, predict_edge, stability
from leadline.tune.rate_result import LearningRate
from leadline.tune.rate_rules import UpdateRule, catapult_window, stable_curvature, stable_rate
from leadline.tune.recipe import Decision, Group, ParameterLaw, Recipe, Reshape
from leadline.tune.tune import OPTIMIZERS, tune
from leadline.tune.width import WidthForDepth, width_for_depth

__all__ = [
    "OPTIMIZERS",
    "PARAMETRIZATIONS",
    "CoordinateCheck",
    "Exponents",
    "LayerLimit",
    "Parametrization",
    "Shift",
    "WideLimit",
    "coordinate_check",
    "first_step",
    "parametrization",
    "wide_limit",
    "Decision",
    "Monitor",
    "Reading",
    "Group",
    "ParameterLaw",
    "Recipe",
    "Reshape",
    "tune",
    "WidthForDepth",
    "width_for_depth",
    "Edge",
    "GradientNoise",
    "LayerRate",
    "LearningRate",
    "PowerLaw",
    "Run",
    "Stability",
    "UpdateRule",
    "catapult_window",
    "fit_power_law",
    "gradient_noise",
    "layer_rates",
    "learning_rate",
    "maximal_initial_rate",
    "measure_edge",
    "predict_edge",
    "rate_at_batch",
    "stability",
    "stable_curvature",
    "stable_rate",
]
