"""The report: its JSON is the documented one, and it prints well in a terminal and in a notebook."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

import leadline as ll
from check.networks import batch, mlp
from leadline.check import Evidence, InputFacts, Pair, Point, Report, Verdict
from leadline.theory import QUANTITIES

TOP = {"schema", "leadline", "target", "seed", "draws", "verdicts", "rows", "coverage"}
VERDICT = {"rule", "severity", "layer", "value", "threshold", "message", "remedy", "source"}
ROW = {
    "layer",
    "op",
    "kernel",
    "correlation",
    "chi_parallel",
    "chi_perp",
    "partial_jacobian",
    "tangent_kernel",
    "spread",
}


@pytest.fixture(scope="module")
def report() -> Report:
    torch.manual_seed(0)
    return ll.check(mlp(30, nn.Tanh, None), batch(), draws=3, target="a net")


def test_the_json_has_the_documented_fields(report: Report) -> None:
    found = report.to_dict()
    assert set(found) >= TOP
    assert (found["schema"], found["leadline"], found["target"], found["seed"], found["draws"]) == (
        1,
        "0.1.0",
        "a net",
        0,
        3,
    )
    assert found["verdicts"]
    for verdict in found["verdicts"]:
        assert set(verdict) == VERDICT
        assert verdict["severity"] in ("error", "warning", "note")
    for row in found["rows"]:
        assert set(row) >= ROW
        for q in QUANTITIES:
            assert set(row[q.name]) == {"predicted", "measured", "stderr"}
    assert set(found["coverage"]) >= {"steps", "with_rule", "without_rule"}
    assert found["coverage"]["steps"] == found["coverage"]["with_rule"] == 61


def test_the_rows_pair_both_sides(report: Report) -> None:
    first = report.to_dict()["rows"][0]
    assert (first["layer"], first["op"]) == ("0", "linear")
    kernel = first["kernel"]
    assert abs(kernel["measured"] - kernel["predicted"]) < 5 * kernel["stderr"]
    # the first layer starts no chain, and nothing is saturated there: null, not 0
    assert first["chi_perp"] == {"predicted": None, "measured": None, "stderr": None}


def test_what_is_not_finite_is_null() -> None:
    point = Point("s", "fc", "linear", {"kernel": Pair(math.inf, math.nan, 0.0)})
    verdict = Verdict("r", "error", "fc", math.inf, 1.0, "m.", "r.", "s")
    found = Report((verdict,), Evidence((point,))).to_dict()
    assert found["rows"][0]["kernel"] == {"predicted": None, "measured": None, "stderr": 0.0}
    assert found["verdicts"][0]["value"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("severities", "ok"), [((), True), (("note",), True), (("warning",), True), (("note", "error"), False)]
)
def test_ok_is_no_error(severities: tuple[str, ...], ok: bool) -> None:
    verdicts = tuple(Verdict("r", s, None, None, None, "m.", "r.", "s") for s in severities)
    assert Report(verdicts, Evidence(())).ok is ok


def test_it_prints_problems_table_and_remedies(report: Report) -> None:
    text = str(report)
    assert text.splitlines()[0].startswith("a net")
    for part in (
        "unhealthy",
        "signal vanishes",
        "kernel K",
        "predicted",
        "measured",
        "What to do",
        "61 of 61 steps by rule",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" not in text


def test_numbers_are_never_cut(report: Report) -> None:
    from rich.console import Console

    for width in (80, 100, 120, 160):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(report.screen(full=True))
        table = [line for line in console.export_text().splitlines() if " linear" in line or " pointwise" in line]
        assert len(table) == 61
        assert not any("…" in line[12:] for line in table)


def test_a_notebook_gets_html_that_escapes_names() -> None:
    name = "<script>alert(1)</script>"
    point = Point("s", name, "linear", {"kernel": Pair(1.0, None, None)})
    page = Report((), Evidence((point,)), target="[red]net")._repr_html_()
    assert "<pre" in page
    assert "<script>" not in page
    assert "[red]net" in page


def test_names_print_as_they_stand() -> None:
    point = Point("s", "[bold red]fc[/]\x1b[31m", "linear", {"kernel": Pair(1.0, None, None)})
    text = str(Report((), Evidence((point,)), target="x"))
    assert "[bold red]fc[/]\\x1b[31m" in text


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    before: dict[str, Any] = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    ll.check(model, batch(), draws=2, loss="cross_entropy", targets=torch.arange(8) % 4)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_input_facts_and_progress_are_given() -> None:
    seen: list[tuple[str, int, int]] = []
    found = ll.check(mlp(2, nn.ReLU, 2.0), batch(shift=1.0), draws=2, progress=lambda *a: seen.append(a))
    assert isinstance(found.evidence.inputs[0], InputFacts)
    assert found.evidence.inputs[0].mean == pytest.approx(1.0, abs=0.2)
    assert list(dict.fromkeys(s[0] for s in seen)) == ["reading the network", "predicting", "measuring"]
    assert all(0 <= done <= total for _, done, total in seen)


def test_preview_is_the_prediction_alone_and_comes_before_the_measurement() -> None:
    seen: list[str] = []
    first: list[ll.Report] = []

    def preview(report: ll.Report) -> None:
        seen.append("preview")
        first.append(report)

    net = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    report = ll.check(net, x, preview=preview, progress=lambda what, done, total: seen.append(what))
    assert seen.index("predicting") < seen.index("preview") < seen.index("measuring")
    assert seen.count("preview") == 1
    assert "being measured" in str(first[0])
    assert "being measured" not in str(report)
    kernel = [p.values["kernel"] for p in first[0].evidence.points]
    assert all(k.predicted is not None and k.measured is None for k in kernel)
