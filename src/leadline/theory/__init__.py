"""What theory says of a Program: :func:`predict` runs the rules forward and backward and gives one row a step."""

from __future__ import annotations

from leadline.theory.memory import predicted_memory
from leadline.theory.predict import Prediction, predict
from leadline.theory.rows import QUANTITIES, Estimate, Quantity, Row

__all__ = ["QUANTITIES", "Estimate", "Prediction", "Quantity", "Row", "predict", "predicted_memory"]
