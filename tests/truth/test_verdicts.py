"""The check calls broken networks broken where they are, and leaves healthy ones alone; training says the same."""

from __future__ import annotations

import pytest

from leadline.testing.confusion import judge_case
from leadline.testing.training import Trained, train
from leadline.testing.verdict_cases import BROKEN, HEALTHY, VerdictCase

CASES = [*BROKEN, *HEALTHY]
# forty-eight blocks take most of a minute: with the full grid
LONG = ("gpt2-unscaled-residual", "gpt2-scaled-residual")


@pytest.mark.parametrize("case", [c for c in CASES if c.id not in LONG], ids=lambda c: c.id)
def test_the_verdict_is_right(case: VerdictCase) -> None:
    outcome = judge_case(case, training=False)
    found = [(v.severity, v.rule, v.layer) for v in outcome.loud]
    if case.healthy:
        assert found == []
    else:
        assert any(case.wants(rule, layer or "") for _, rule, layer in found), found
        assert outcome.called_broken, found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_training_agrees_with_the_verdict(case: VerdictCase) -> None:
    outcome = judge_case(case)
    assert outcome.said, outcome.loud
    assert outcome.trains == case.healthy, outcome.trained


def test_training_is_told_apart() -> None:
    """The yardstick itself: a plain network trains, a network whose output is constant does not."""
    cases = {c.id: c for c in CASES}
    healthy, dead = cases["mlp-3-torch-default"], cases["dead-relu"]
    assert train(healthy.build(), healthy.task).ok
    assert not train(dead.build(), dead.task, rates=(1e-3,), steps=40).ok


def test_a_loss_that_is_not_finite_did_not_fall() -> None:
    assert not Trained(float("inf"), float("inf"), 1e-3, 200).ok
    assert not Trained(float("nan"), float("nan"), 1e-3, 200).ok
    assert Trained(2.0, 1.0, 1e-3, 200).ok


def test_there_are_enough_cases_with_names_of_their_own() -> None:
    assert len(BROKEN) >= 12
    assert len(HEALTHY) >= 12
    assert len({c.id for c in CASES}) == len(CASES)
    assert not any(c.healthy for c in BROKEN)
    assert all(c.healthy for c in HEALTHY)
