"""Representation group flow: how every tensor of a network's law moves from layer to layer, with an ensemble beside it.

:func:`flow` computes the tensors that the theory has of a chain of dense layers, draws networks of the same law, fits
the powers of depth, and returns an object that prints and plots itself.
"""

from __future__ import annotations

from leadline.flow.exponents import Power
from leadline.flow.flow import FIELDS, Flow, flow

__all__ = ["FIELDS", "Flow", "Power", "flow"]
