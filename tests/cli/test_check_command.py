"""`leadline check`: exit codes, one screen, JSON alone, and refusals of one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import leadline
from leadline.cli.app import app
from leadline.cli.laws import parse_laws
from refusals import assert_one_sentence, refused

MODEL = """
import torch
from torch import nn
print("noise from the user's file")

def healthy():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4)), torch.randn(8, 16)

def broken(depth=30):
    torch.manual_seed(0)
    layers = [m for _ in range(depth) for m in (nn.Linear(16, 16), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(16, 4)), torch.randn(8, 16)

def dropped():
    return nn.Sequential(nn.Linear(16, 64), nn.Dropout(0.5), nn.Linear(64, 4)).eval(), torch.randn(8, 16)

def odd_name():
    net, x = healthy()
    net.add_module("[bold red]x[/]", nn.Linear(4, 4))
    return net, x

def raises():
    raise ValueError("no such width")

def empty():
    return nn.Sequential(nn.ReLU()), torch.randn(2, 3)
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return str(path)


def run(*arguments: str, width: int = 120) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(width), "TERM": "dumb", "NO_COLOR": "1"})


def test_a_healthy_network_ends_with_0(file: str) -> None:
    result = run("check", f"{file}:healthy", "--draws", "2")
    assert result.exit_code == 0, result.output
    assert "healthy" in result.stdout
    assert "3 of 3 steps by rule" in result.stdout


def test_a_broken_network_ends_with_1_and_says_what_to_do(file: str) -> None:
    result = run("check", f"{file}:broken", "--draws", "2")
    assert result.exit_code == 1, result.output
    for part in ("unhealthy", "inputs collapse", "gradient vanishes", "predicted", "measured", "What to do"):
        assert part in result.stdout
    assert "⋮ 26 more" in result.stdout
    assert "\n28 " in run("check", f"{file}:broken", "--draws", "0", "--full").stdout


def test_json_is_alone_on_standard_output(file: str) -> None:
    result = run("check", f"{file}:broken", "--json", "--draws", "2", "--seed", "3", "--config", "depth=12")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["schema"], found["leadline"], found["seed"], found["draws"]) == (1, leadline.__version__, 3, 2)
    assert found["target"].endswith("model.py:broken")
    assert found["coverage"]["steps"] == 25


def test_batch_targets_loss_and_mode(file: str, tmp_path: Path) -> None:
    torch.save(torch.randn(6, 16), tmp_path / "x.pt")
    torch.save(torch.arange(6) % 4, tmp_path / "y.pt")
    more = ("--batch", str(tmp_path / "x.pt"), "--loss", "cross_entropy", "--targets", str(tmp_path / "y.pt"))
    result = run("check", f"{file}:dropped", "--draws", "0", "--train", *more)
    assert result.exit_code == 0, result.output
    assert "train mode" in result.stdout
    assert "initial loss (cross_entropy)" in result.stdout
    assert "blind guess 1.39" in result.stdout
    assert "eval mode" in run("check", f"{file}:dropped", "--draws", "0").stdout


def test_a_law_overrides_the_weights(file: str) -> None:
    found = json.loads(run("check", f"{file}:healthy", "--json", "--draws", "0", "--law", "2:C_W=5,C_b=0").stdout)
    other = json.loads(run("check", f"{file}:healthy", "--json", "--draws", "0", "--law", "2:C_W=10,C_b=0").stdout)
    kernels = [r["rows"][-1]["kernel"]["predicted"] for r in (found, other)]
    assert kernels[1] == pytest.approx(2 * kernels[0], rel=1e-6)


def test_names_of_the_user_are_printed_as_they_stand(file: str) -> None:
    result = run("check", f"{file}:odd_name", "--draws", "0")
    assert result.exit_code == 0, result.output
    assert "[bold red]x[/]" in result.stdout


def test_a_figure_is_written(file: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run("check", f"{file}:broken", "--draws", "0", "--plot", str(tmp_path / "a.png")).exit_code == 1
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["{}:raises"], "ValueError: no such width"),
        (["{}:nothing"], "has no attribute 'nothing'"),
        (["{}:empty"], "no parameters"),
        (["missing.py:build"], "there is no file"),
        ([], "no target was given"),
        (["{}:healthy", "--batch", "missing.pt"], "there is no batch file"),
        (["{}:healthy", "--device", "abacus"], "device 'abacus' is not there"),
        (["{}:healthy", "--plot", "a.txt"], "ends in '.txt'"),
        (["{}:healthy", "--plot", "/no/such/folder/a.png"], "no folder for the figure"),
        (["{}:healthy", "--law", "0:C_X=1"], "expected C_W or C_b"),
        (["{}:healthy", "--law", "zero:C_W=1"], "zero"),
        (["{}:healthy", "--loss", "mse"], "without targets"),
        (["{}:healthy", "--config", "width=3"], "takes no argument 'width'"),
    ],
)
def test_what_cannot_be_used_ends_with_2_and_one_sentence(file: str, arguments: list[str], part: str) -> None:
    result = run("check", *(a.format(file) for a in arguments))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    message = result.stderr.strip().splitlines()[-1]
    assert part in message
    assert_one_sentence(message)


def test_debug_lets_the_error_through(file: str) -> None:
    result = run("check", f"{file}:raises", "--debug")
    assert isinstance(result.exception, leadline.UserError)


def test_a_fault_of_ours_is_one_sentence_too(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from leadline.check import Report

    def fail(self: object) -> None:
        raise RuntimeError("surprise. second sentence")

    monkeypatch.setattr(Report, "to_dict", fail)
    result = run("check", f"{file}:healthy", "--draws", "0", "--json")
    assert result.exit_code == 2
    assert "RuntimeError: surprise" in result.stderr
    assert_one_sentence(result.stderr.strip().splitlines()[-1])


def test_rules_are_explained() -> None:
    from leadline.check import RULES

    result = run("check", "--explain")
    assert result.exit_code == 0
    for rule in RULES.values():
        assert f"\n{rule.name}\n" in "\n" + result.stdout
    assert "Source: Hanin & Rolnick (2018)" in result.stdout


def test_the_help_says_that_a_file_is_run() -> None:
    text = " ".join(run("check", "--help").stdout.split())
    assert "Naming FILE.py:NAME runs that file" in text
    assert "Exit code 0: healthy, 1: unhealthy, 2: could not run" in text.replace("\n", " ")


def test_laws_as_text() -> None:
    assert parse_laws(["a.0:C_W=2", "a.0:C_b=1", "b:C_W=1e-3"]) == {"a.0": {"C_W": 2.0, "C_b": 1.0}, "b": {"C_W": 1e-3}}
    for text, part in (("C_W=2", "names no module"), ("a:C_W=x", "expected a number"), ("a:", "names no module")):
        with refused(part):
            parse_laws([text])


def test_the_module_runs_as_a_command(file: str) -> None:
    source = str(Path(leadline.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": source, "COLUMNS": "100"}
    command = [sys.executable, "-m", "leadline", "check", f"{file}:broken", "--draws", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "unhealthy" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr.strip() == "noise from the user's file"
