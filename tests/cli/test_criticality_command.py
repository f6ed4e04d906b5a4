"""`leadline criticality` and `leadline phase-diagram`: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from leadline.cli.app import app
from refusals import assert_one_sentence

ENV = {"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=ENV)


def test_a_critical_point_on_one_screen() -> None:
    result = run("criticality", "gelu")
    assert result.exit_code == 0, result.output
    for part in (
        "half-stable",
        "1.98305826",
        "0.172922391",
        "3.56155281",
        "depth scale is 166 layers",
        "Rescale the inputs",
    ):
        assert part in result.stdout, part


def test_no_critical_point_and_what_is_near() -> None:
    result = run("criticality", "softplus")
    assert result.exit_code == 0, result.output
    for part in ("no critical point", "nearest useful point", "C_W = 1.99626", "12 layers"):
        assert part in result.stdout, part
    assert "0.5 subtracted" in run("criticality", "sigmoid").stdout


def test_json_alone_on_standard_output() -> None:
    found = json.loads(run("criticality", "silu", "--json").stdout)
    assert (found["schema"], found["exists"], found["universality_class"]) == (1, True, "half-stable")
    assert found["K"] == pytest.approx(14.32017362)
    assert found["a1"] is None  # what does not exist is null
    assert json.loads(run("criticality", "relu", "--json").stdout)["K"] is None
    line = json.loads(run("criticality", "tanh", "--norm", "layer_norm_before", "--json").stdout)
    assert line["kind"] == "line"
    assert line["slope"] == pytest.approx(0.0701084121)
    assert len(line["C_W"]) == len(line["C_b"]) == len(line["K"])


def test_norms_and_skips() -> None:
    result = run("criticality", "tanh", "--norm", "layer_norm_before")
    assert "a critical line" in result.stdout
    assert "C_b = 0.0701084 C_W" in result.stdout
    result = run("criticality", "tanh", "--norm", "layer_norm_before", "--residual", "1")
    assert "critical everywhere" in result.stdout
    assert "0.51" in run("criticality", "tanh", "--residual", "0.7").stdout


def test_classes_of_torch_and_files_of_the_user(tmp_path: Path) -> None:
    assert "half-stable" in run("criticality", "Hardswish").stdout
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n\nclass Mine(torch.nn.Module):\n    def forward(self, z):\n        return z * torch.sigmoid(2 * z)\n"
    )
    result = run("criticality", f"{file}:Mine")
    assert result.exit_code == 0, result.output
    assert "K*             3.5800434" in result.stdout
    file.write_text("import torch\n\ndef swish(z):\n    return z * torch.sigmoid(2 * z)\n")
    for verb in ("criticality", "phase-diagram"):
        result = run(verb, f"{file}:swish")
        assert result.exit_code == 0, result.output
    assert "K*             3.5800434" in run("criticality", f"{file}:swish").stdout


@pytest.mark.parametrize(("body", "said"), [
    ("raise RuntimeError('no luck')", "no luck"), ("return z.sum()", "entry"), ("return torch.log(z)", "not finite"),
    ("return 'z'", "to str"),
])  # fmt: skip
def test_functions_that_are_no_activations(tmp_path: Path, body: str, said: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"import torch\n\ndef f(z):\n    {body}\n")
    result = run("criticality", f"{file}:f")
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert_one_sentence(result.stderr.strip())


def test_a_phase_diagram_as_a_table_a_picture_and_json(tmp_path: Path) -> None:
    table = run("phase-diagram", "tanh")
    assert table.exit_code == 0, table.output
    assert "depth scale" in table.stdout
    assert table.stdout.count("\n") > 12
    picture = tmp_path / "silu.png"
    result = run("phase-diagram", "silu", "-o", str(picture), "--points", "31")
    assert result.exit_code == 0, result.output
    assert picture.read_bytes()[:4] == b"\x89PNG"
    found = json.loads(
        run("phase-diagram", "tanh", "--json", "--C_W", "0.5:2", "--C_b", "0:0.2", "--points", "5").stdout
    )
    assert found["C_W"] == [0.5, 0.875, 1.25, 1.625, 2.0]
    assert found["phase"][4][0] == "ordered"
    assert found["phase"][0][4] == "chaotic"
    assert found["critical_point"]["C_W"] == 1.0


@pytest.mark.parametrize(("arguments", "said"), [
    (["criticality", "gelul"], "did you mean 'gelu' or 'elu'"),
    (["criticality", "[red]x"], "'[red]x'"),
    (["criticality", "gelu", "--norm", "batch"], "no norm called 'batch'"),
    (["criticality", "gelu", "--residual", "-1"], "must be a number >= 0, got -1"),
    (["criticality", "Softmax"], "must act on each entry alone"),
    (["criticality", "MultiheadAttention"], "cannot be built without arguments"),
    (["criticality", "nowhere.py:f"], "there is no file 'nowhere.py'"),
    (["phase-diagram", "step"], "step jumps"),
    (["phase-diagram", "tanh", "--C_W", "3"], "--C_W '3' is no range"),
    (["phase-diagram", "tanh", "--C_b", "2:1"], "--C_b '2:1' is no range"),
    (["phase-diagram", "tanh", "--start", "0"], "start from a kernel > 0, got 0"),
    (["phase-diagram", "tanh", "-o", "x.txt"], "ends in '.txt'"),
    (["phase-diagram", "tanh", "-o", "nowhere/x.png"], "there is no folder"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_refusals_are_one_sentence_with_exit_code_2(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert said in result.stderr
    assert_one_sentence(result.stderr.strip())
