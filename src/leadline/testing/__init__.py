"""The conformance side of the package: networks declared as data, and the tests that hold predictions and verdicts to them.

``assert_agree`` compares any prediction with any measurement. ``python -m leadline.testing.truth`` makes the table of
predictions against measurements, ``python -m leadline.testing.confusion`` that of training against verdicts.
"""

from __future__ import annotations

from leadline.testing.agreement import Comparison, TooFewDraws, assert_agree, comparisons, worst
from leadline.testing.cases import Case, Control

__all__ = ["Case", "Comparison", "Control", "TooFewDraws", "assert_agree", "comparisons", "worst"]
