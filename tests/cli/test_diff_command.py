"""`leadline diff`: what is gone, what is new, which rows changed most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from leadline.cli.app import app
from leadline.cli.diff import changes
from refusals import assert_one_sentence

NOTHING = {"predicted": None, "measured": None, "stderr": None}


def row(layer: str, kernel: float | None, correlation: float = 0.5, measured: float | None = None) -> dict[str, Any]:
    return {
        "layer": layer, "op": "linear",
        "kernel": {"predicted": kernel, "measured": measured, "stderr": None},
        "correlation": {"predicted": correlation, "measured": None, "stderr": None}, "spread": NOTHING,
    }  # fmt: skip


def report(rows: list[dict[str, Any]], *rules: str, schema: object = 1) -> dict[str, Any]:
    verdicts = [
        {"rule": r, "severity": "error", "layer": "[b]fc[/]", "value": 1.0, "threshold": 1.0, "message": f"{r} is bad.",
         "remedy": "", "source": ""} for r in rules
    ]  # fmt: skip
    return {"schema": schema, "target": "m.py:[i]f", "verdicts": verdicts, "rows": rows, "coverage": {}}


def run(tmp_path: Path, a: object, b: object, *more: str) -> Result:
    for name, content in (("a.json", a), ("b.json", b)):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    env = {"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}
    return CliRunner().invoke(app, ["diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"), *more], env=env)


A = report([row("fc0", 1.0), row("fc1", 1.0), row("fc2", None, measured=2.0)], "vanishing-signal", "chaos")
B = report([row("fc0", 1.01, 0.9), row("fc1", 8.0), row("fc2", None, measured=1.0)], "chaos", "saturation")


def test_verdicts_that_are_gone_and_new_are_named(tmp_path: Path) -> None:
    result = run(tmp_path, A, B)
    assert result.exit_code == 0, result.output
    assert "gone  vanishing-signal (error) at [b]fc[/]" in result.stdout
    assert "new  saturation (error) at [b]fc[/]" in result.stdout
    assert "chaos" not in result.stdout
    assert "m.py:[i]f" in result.stdout


def test_the_largest_changes_come_first() -> None:
    found = changes(A, B)
    assert [(c.layer, c.quantity, c.side) for c in found] == [
        ("fc1", "kernel", "predicted"), ("fc2", "kernel", "measured"), ("fc0", "correlation", "predicted"),
    ]  # fmt: skip
    assert (found[0].before, found[0].after) == (1.0, 8.0)


def test_the_table_says_by_how_much(tmp_path: Path) -> None:
    lines = run(tmp_path, A, B).stdout.splitlines()
    first = next(line for line in lines if line.startswith("fc1"))
    assert first.split() == ["fc1", "linear", "kernel,", "predicted", "1.00", "8.00", "×", "8.00"]
    assert any("+0.400" in line for line in lines)
    assert sum(line.startswith("fc") for line in run(tmp_path, A, B, "--rows", "1").stdout.splitlines()) == 1


def test_the_same_report_has_no_change(tmp_path: Path) -> None:
    result = run(tmp_path, A, A)
    assert "the same verdicts" in result.stdout
    assert "no row changed" in result.stdout


def test_json(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, A, B, "--json").stdout)
    assert [v["rule"] for v in found["gone"]] == ["vanishing-signal"]
    assert found["changes"][0]["layer"] == "fc1"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no report"),
        ({"a": 1}, "is no report"),
        (report([], schema=2), "has schema 2, expected 1"),
        ({"schema": 1, "verdicts": 3, "rows": []}, "is damaged"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, content: object, part: str) -> None:
    result = run(tmp_path, A, content)
    assert result.exit_code == 2, result.output
    assert part in result.stderr
    assert_one_sentence(result.stderr.strip())
    assert result.stdout == ""


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["diff", str(tmp_path / "x.json"), str(tmp_path / "y.json")])
    assert result.exit_code == 2
    assert "there is no report file" in result.stderr
