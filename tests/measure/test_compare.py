"""Predicted beside measured: standard scores, tables, plain numbers."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from rich.console import Console

from leadline.measure import compare, measure
from leadline.measure.compare import Compared, Comparison
from leadline.plot import number
from leadline.program import trace
from leadline.theory import QUANTITIES, Estimate, predict
from measure.nets import dense


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    torch.manual_seed(0)
    program = trace(dense(width=64, depth=2), torch.randn(2, 32))
    return compare(predict(program), measure(program.model, program=program, draws=16))


def test_the_standard_score_adds_both_errors() -> None:
    found = Compared(Estimate(1.0, 0.3), Estimate(2.0, 0.4))
    assert found.z == pytest.approx(2.0, rel=1e-6)
    assert found.relative == pytest.approx(1.0)
    assert Compared(Estimate(1.0), Estimate(1.0)).z == 0.0
    assert Compared(Estimate(0.0), Estimate(0.0)).z == 0.0
    assert abs(Compared(Estimate(1.0), Estimate(1.001)).z or 0) > 50


@pytest.mark.parametrize(
    ("predicted", "measured"),
    [
        (None, Estimate(1.0, 0.1)),
        (Estimate(1.0), None),
        (Estimate(1.0), Estimate(1.0, math.nan)),
        (Estimate(math.inf), Estimate(1.0, 0.1)),
    ],
)
def test_there_is_no_score_without_two_sides(predicted: Estimate | None, measured: Estimate | None) -> None:
    assert Compared(predicted, measured).z is None


def test_rows_are_matched_by_their_steps(comparison: Comparison) -> None:
    assert [row.step for row in comparison.rows] == ["linear", "tanh", "linear_1", "tanh_1", "linear_2"]
    for row, name, value in comparison:
        assert value.predicted is not None or value.measured is not None, (row, name)
    first = comparison.rows[0].values["kernel"]
    assert first.z is not None
    assert abs(first.z) < 5


def test_a_single_network_has_no_score_but_a_relative_difference() -> None:
    program = trace(dense(width=64, depth=2), torch.randn(2, 32))
    found = compare(predict(program), measure(program.model, program=program, draws=0))
    assert all(value.z is None for _, _, value in found)
    worst = found.worst(3)
    relatives = [abs(value.relative or 0) for _, _, value in worst]
    assert len(worst) == 3
    assert relatives == sorted(relatives, reverse=True)
    assert relatives[0] > 0


def test_the_worst_come_first(comparison: Comparison) -> None:
    scores = [abs(value.z or 0) for _, _, value in comparison.worst(100)]
    assert scores == sorted(scores, reverse=True)
    assert {name for _, name, _ in comparison.worst(100, ["kernel"])} == {"kernel"}
    assert len(comparison.worst(2)) == 2


def test_plain_numbers_have_every_quantity(comparison: Comparison) -> None:
    plain = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    names = {q.name for q in QUANTITIES}
    for row in plain["rows"]:
        assert row.keys() == {"layer", "op", *names}
        assert all(row[n].keys() == {"predicted", "measured", "stderr"} for n in names)
    assert plain["rows"][0]["chi_perp"] == {"predicted": None, "measured": None, "stderr": None}
    assert plain["rows"][0]["kernel"]["predicted"] == comparison.rows[0].values["kernel"].predicted.value
    alone = json.loads(json.dumps(measure(dense(width=16), torch.randn(2, 32), draws=2).to_dict(), allow_nan=False))
    assert alone["rows"][0].keys() == {"layer", "op", *names}
    assert alone["rows"][0]["kernel"].keys() == {"measured", "stderr"}


def test_the_table_has_four_columns_a_quantity(comparison: Comparison) -> None:
    headings, lines = comparison.table(["kernel", "chi_perp"])
    assert headings[:4] == ["step", "layer", "op", "kernel.predicted"]
    assert len(headings) == 3 + 8
    assert all(len(line) == len(headings) for line in lines)
    assert lines[0][headings.index("chi_perp.measured")] is None
    every, _ = comparison.table()
    assert "spread.z" in every


def test_a_comparison_prints_a_line_a_step_with_both_sides_and_the_largest_score(comparison: Comparison) -> None:
    text = str(comparison)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "kernel" in lines[0]
    assert "max |z|" in lines[0]
    for row in comparison.rows:
        line = next(found for found in lines[2:] if found.split()[:2] == [row.layer or row.step, row.op])
        kernel = row.values["kernel"]
        assert number(kernel.predicted.value) in line
        assert number(kernel.measured.value)[:4] in line
        scores = [abs(v.z) for v in row.values.values() if v.z is not None]
        assert line.split()[-1] == number(max(scores))
    row, name, value = comparison.worst(1)[0]
    assert f"{name} of {row.layer}" in lines[-1]
    assert lines[-1].endswith(f"z = {number(value.z)}.")


def test_the_table_takes_the_terminals_width(comparison: Comparison) -> None:
    widths = []
    for width in (60, 100, 140):
        text = io.StringIO()
        Console(file=text, width=width).print(comparison)
        widths.append(max(map(len, text.getvalue().splitlines())))
        assert ("V/nK²" in text.getvalue()) == (width == 140)
    assert widths[0] <= 60
    assert widths[0] < widths[1] < widths[2]


def test_a_single_network_is_printed_with_relative_differences() -> None:
    program = trace(dense(width=64, depth=1), torch.randn(2, 32))
    text = str(compare(predict(program), measure(program.model, program=program, draws=0)))
    assert "max |m/p - 1|" in text
    assert "this very network" in text


def test_the_picture_shows_what_was_compared(comparison: Comparison) -> None:
    pytest.importorskip("matplotlib")
    figure = comparison.plot()
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["kernel K", "correlation", "partial Jacobian", "V/nK²"]
    line = figure.axes[0].get_lines()[0]
    expected = [row.values["kernel"].predicted.value for row in comparison.rows]
    assert list(line.get_ydata()) == pytest.approx(expected)
    points = figure.axes[0].containers[0].lines[0]
    assert list(points.get_ydata()) == pytest.approx([r.values["kernel"].measured.value for r in comparison.rows])
    assert [ax.get_title(loc="left") for ax in comparison.plot(["chi_perp"], title="x").axes] == ["χ⊥"]
    with pytest.raises(ValueError, match="no quantity 'kernels'"):
        comparison.plot(["kernels"])
