"""One file an operator: how it moves a state forward (kernels) and a cotangent backward (gradients).

:func:`rule` registers a :class:`Rule` for an operator; dropping a file into this folder adds it. A step whose operator
has no rule is drawn: :mod:`leadline.rules.fallback`.
"""

from __future__ import annotations

import importlib
import pkgutil

from leadline.rules.base import RULES, NoRule, Rule, Value, argument, rule, rule_for
from leadline.rules.context import Context
from leadline.rules.moments import Moments
from leadline.rules.state import Cotangent, Fixed, Noise, State, Wave, Weight

__all__ = [
    "RULES",
    "Context",
    "Cotangent",
    "Fixed",
    "Moments",
    "NoRule",
    "Noise",
    "Rule",
    "State",
    "Value",
    "Wave",
    "Weight",
    "argument",
    "rule",
    "rule_for",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
