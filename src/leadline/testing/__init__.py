"""The conformance side of the package: networks declared as data, and the tests that hold predictions and verdicts to them.

``check_rule`` is the conformance suite that a rule of your own can run. ``assert_agree`` compares any prediction with any
measurement. ``python -m leadline.testing.truth`` makes the table of
predictions against measurements, ``python -m leadline.testing.confusion`` that of training against verdicts.
"""

from __future__ import annotations

from leadline.testing.agreement import Comparison, TooFewDraws, assert_agree, comparisons, worst
from leadline.testing.cases import Case, Control
from leadline.testing.conformance import ConformanceError, Finding, check_rule

__all__ = [
    "Case",
    "Comparison",
    "ConformanceError",
    "Control",
    "Finding",
    "TooFewDraws",
    "assert_agree",
    "check_rule",
    "comparisons",
    "worst",
]
