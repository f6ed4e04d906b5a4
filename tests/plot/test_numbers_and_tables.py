"""Numbers and tables read well and never lose a digit."""

from __future__ import annotations

import io

import hypothesis
import pytest
from hypothesis import strategies as st
from rich.console import Console

from leadline.plot import Column, Gap, number, two_sided_table, with_error


@hypothesis.given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_keeps_three_digits_and_is_short(value: float) -> None:
    text = number(value)
    assert len(text) <= 9  # -1.2e+308
    assert abs(float(text) - value) <= 0.051 * abs(value)
    if 1e-3 <= abs(value) < 1e4:
        assert abs(float(text) - value) <= 0.0051 * abs(value)


@pytest.mark.parametrize(
    ("value", "error", "relative", "text"),
    [
        (None, 0.1, False, "—"),
        (0.12345, None, False, "0.123"),
        (0.12345, float("nan"), False, "0.123"),
        (0.12345, 0.01, False, "0.12±0.01"),
        (-0.002, 0.03, False, "-0.00±0.03"),
        (0.12345, 0.01, True, "0.123±8%"),
        (0.12345, 0.0005, True, "0.123±0.4%"),
        (5e-20, 1e-20, True, "5.0e-20±20%"),
        (5e-20, 1e-20, False, "5e-20±1e-20"),
    ],
)
def test_a_number_with_its_error(value: float | None, error: float | None, relative: bool, text: str) -> None:
    assert with_error(value, error, relative=relative) == text


def render(width: int, **more: object) -> list[str]:
    columns = [
        Column("kernel K", [1.0, 2e-20, None], [1.1, 2.1e-20, None], [0.1, 1e-21, None]),
        Column("correlation", [0.5, None, 0.1], [None] * 3, [None] * 3),
    ]
    labels = [("a.very.long.name.of.a.layer.fc", "linear"), ("[red]b[/]", "tanh"), ("c", "linear")]
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(two_sided_table(labels, ("layer", "step"), columns, width=width, **more))  # type: ignore[arg-type]
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_a_side_that_nobody_has_is_left_out() -> None:
    lines = render(100)
    assert lines[1].split() == ["layer", "step", "predicted", "measured"]
    assert lines[3].split() == ["a.very.long.name.of.a.layer.fc", "linear", "1.00", "1.10±9%", "0.500"]
    assert lines[4].split() == ["[red]b[/]", "tanh", "2.0e-20", "2.1e-20±5%", "—"]


@pytest.mark.parametrize("width", [60, 70, 100])
def test_labels_give_way_before_numbers(width: int) -> None:
    lines = render(width)
    assert all(len(line) <= width for line in lines)
    assert "1.10±9%" in lines[3]
    assert lines[3].split()[0].endswith("layer.fc")


def test_gaps_stand_where_rows_are_left_out() -> None:
    lines = render(100, gaps=[Gap(1, "  ⋮ 5 more")])
    assert "⋮ 5 more" in lines[4]
    assert lines[5].startswith("[red]b[/]")
