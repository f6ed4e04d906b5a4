"""Decisions about training: the learning rate.

:func:`learning_rate` recommends one and says what it rests on; :func:`measure_edge` finds the largest that works by
training, :func:`predict_edge` from short runs, :func:`stability` from curvature, :func:`gradient_noise` says how it
changes with the batch.
"""

from __future__ import annotations

from leadline.tune.rate import learning_rate
from leadline.tune.rate_batch import GradientNoise, gradient_noise, rate_at_batch
from leadline.tune.rate_edge import Edge, Run, measure_edge
from leadline.tune.rate_layers import LayerRate, layer_rates
from leadline.tune.rate_predict import Stability, predict_edge, stability
from leadline.tune.rate_result import LearningRate
from leadline.tune.rate_rules import UpdateRule, catapult_window, stable_rate

__all__ = [
    "Edge",
    "GradientNoise",
    "LayerRate",
    "LearningRate",
    "Run",
    "Stability",
    "UpdateRule",
    "catapult_window",
    "gradient_noise",
    "layer_rates",
    "learning_rate",
    "measure_edge",
    "predict_edge",
    "rate_at_batch",
    "stability",
    "stable_rate",
]
