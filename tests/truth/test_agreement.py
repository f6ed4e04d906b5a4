"""The agreement test itself: what it allows, what it rejects, what it refuses to judge."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from leadline.testing import TooFewDraws, assert_agree, comparisons, worst
from leadline.theory import Estimate, Row


@dataclass
class Side:
    rows: list[Row] = field(default_factory=list)


def side(layer: str = "a", op: str = "linear", **values: tuple[float, float]) -> Side:
    return Side([Row("s", layer, op, {name: Estimate(*v) for name, v in values.items()})])


def test_the_floor_is_three_percent() -> None:
    assert_agree(side(kernel=(1.029, 0.0)), side(kernel=(1.0, 0.001)))
    with pytest.raises(
        AssertionError, match=r"1 of 1 values disagree.*\n  a \[linear\] kernel: predicted 1.031, measured 1"
    ):
        assert_agree(side(kernel=(1.031, 0.0)), side(kernel=(1.0, 0.001)))


def test_four_standard_errors_and_the_predictions_own_error_are_allowed() -> None:
    assert_agree(side(kernel=(1.039, 0.0)), side(kernel=(1.0, 0.01)))
    with pytest.raises(AssertionError):
        assert_agree(side(kernel=(1.039, 0.0)), side(kernel=(1.0, 0.01)), sigmas=3.5)
    assert_agree(side(kernel=(1.05, 0.02)), side(kernel=(1.0, 0.01)))


def test_errors_are_relative_to_kernels_and_absolute_for_correlations() -> None:
    with pytest.raises(AssertionError):
        assert_agree(side(kernel=(1.1e-9, 0.0)), side(kernel=(1e-9, 0.0)))
    assert_agree(side(correlation=(0.02, 0.0)), side(correlation=(0.0, 0.001)))
    with pytest.raises(AssertionError):
        assert_agree(side(correlation=(0.04, 0.0)), side(correlation=(0.0, 0.001)))


def test_a_gradient_that_does_not_flow_must_be_predicted_as_zero() -> None:
    assert_agree(side(partial_jacobian=(0.0, 0.0)), side(partial_jacobian=(0.0, 0.0)))
    with pytest.raises(AssertionError):
        assert_agree(side(partial_jacobian=(1e-30, 0.0)), side(partial_jacobian=(0.0, 0.0)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_disagrees(value: float) -> None:
    with pytest.raises(AssertionError):
        assert_agree(side(kernel=(value, 0.0)), side(kernel=(1.0, 0.001)))
    with pytest.raises((AssertionError, TooFewDraws)):
        assert_agree(side(kernel=(1.0, 0.0)), side(kernel=(value, 0.001)))


def test_a_coarse_measurement_cannot_say() -> None:
    with pytest.raises(
        TooFewDraws,
        match=r"standard error of kernel at a \[linear\] is 2.00%, expected at most 1%: take 4.8 times the draws",
    ):
        assert_agree(side(kernel=(1.0, 0.0)), side(kernel=(1.0, 0.02)))
    assert_agree(side(kernel=(1.0, 0.0)), side(kernel=(1.0, 0.02)), precise=False)
    assert_agree(side(partial_jacobian=(1.0, 0.0)), side(partial_jacobian=(1.0, 0.02)))


def test_an_undefined_standard_error_cannot_say() -> None:
    with pytest.raises(TooFewDraws):
        assert_agree(side(kernel=(1.0, 0.0)), side(kernel=(1.0, float("nan"))))


def test_rows_that_only_one_side_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a \[linear\] is only predicted"):
        assert_agree(side(kernel=(1.0, 0.0)), Side())
    with pytest.raises(ValueError, match=r"kernel of a \[linear\] is only measured"):
        assert_agree(side(correlation=(1.0, 0.0)), side(kernel=(1.0, 0.0), correlation=(1.0, 0.0)))
    with pytest.raises(ValueError, match="nothing to compare"):
        assert_agree(side(spread=(1.0, 0.0)), side(spread=(1.0, 0.0)))


def test_repeated_rows_of_a_layer_are_told_apart() -> None:
    twice = Side(side(kernel=(1.0, 0.0)).rows + side(kernel=(2.0, 0.0)).rows)
    assert [c.predicted for c in comparisons(twice, twice)] == [1.0, 2.0]
    assert worst(twice, twice).error == 0.0
