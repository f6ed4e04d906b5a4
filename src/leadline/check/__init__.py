"""Verdicts: what a network's predictions and measurements mean for its training.

:func:`check` does all of it and returns a :class:`Report`. Each rule is one file in :mod:`leadline.check.rules`.
"""

from __future__ import annotations

from leadline.check.check import check, judge
from leadline.check.evidence import Evidence, InputFacts, LossFacts, Pair, Point
from leadline.check.report import Report
from leadline.check.verdict import RULES, Verdict, VerdictRule, rule

__all__ = [
    "RULES",
    "Evidence",
    "InputFacts",
    "LossFacts",
    "Pair",
    "Point",
    "Report",
    "Verdict",
    "VerdictRule",
    "check",
    "judge",
    "rule",
]
