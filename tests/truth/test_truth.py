"""Predictions are true on every operator, and the test that says so rejects a wrong account of the same network."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from leadline.testing import Case, assert_agree
from leadline.testing.truth import examine, measured, predicted
from leadline.testing.truth_cases import TRUTH

QUICK_DRAWS = 24
QUICK = [case for case in TRUTH if case.quick]


@functools.lru_cache(maxsize=1)
def both_sides(case: Case):
    prediction = predicted(case)
    return prediction, measured(case, prediction, QUICK_DRAWS, networks=2000)


@pytest.mark.parametrize("case", QUICK, ids=lambda c: c.id)
def test_prediction_agrees(case: Case) -> None:
    """Few draws: the allowance is four of the larger standard errors; the full grid below asks for 1 %."""
    assert_agree(*both_sides(case), precise=False)


@pytest.mark.parametrize("case", QUICK, ids=lambda c: c.id)
def test_a_wrong_account_is_rejected(case: Case) -> None:
    _, found = both_sides(case)
    for control in case.controls[:2]:  # the full grid below takes all
        # few draws cannot see five per cent: three times as much here, the five per cent in the full grid below
        louder = replace(control, C_W=1 + 3 * (control.C_W - 1))
        with pytest.raises(AssertionError, match="values disagree"):
            assert_agree(predicted(case, louder), found, common=True, precise=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRUTH, ids=lambda c: c.id)
def test_prediction_is_true_to_one_percent(case: Case) -> None:
    finding = examine(case)
    assert finding.standard_error <= 0.01
    assert {q: str(c) for q, c in finding.worst.items() if c.excess > 1.0} == {}
    assert {what: str(c) for what, c in finding.controls.items() if c.excess <= 1.0} == {}


def test_every_case_has_a_control_and_a_name_of_its_own() -> None:
    assert all(case.controls for case in TRUTH)
    assert len({case.id for case in TRUTH}) == len(TRUTH)
