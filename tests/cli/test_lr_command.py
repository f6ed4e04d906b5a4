"""``leadline lr``: a screen, JSON, a picture, refusals in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from leadline.cli.app import app

RUN = CliRunner()
MODEL = """
from torch import nn
def build():
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
"""


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    (tmp_path / "my_model.py").write_text(MODEL)
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    torch.save(x, tmp_path / "b.pt")
    torch.save((x[:, 0] > 0).long(), tmp_path / "y.pt")
    return [
        "lr",
        f"{tmp_path / 'my_model.py'}:build",
        "--batch",
        str(tmp_path / "b.pt"),
        "--targets",
        str(tmp_path / "y.pt"),
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_json_holds_the_rate_and_what_it_rests_on(given: list[str], optimizer: str) -> None:
    ended = RUN.invoke(app, [*given, "--optimizer", optimizer, "--json"])
    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["rate"] <= 0.5 * found["smooth_edge"]["value"]
    assert found["loss_after"]["loss"] < 0.5 * found["loss_after"]["start"]
    assert found["stability"]["converged"]
    assert found["gradient_noise"]["critical_batch"] > 0
    assert found["batch"] == 32


def test_the_screen_names_the_rate_and_the_edge(given: list[str]) -> None:
    ended = RUN.invoke(app, [*given, "--optimizer", "momentum"])
    assert ended.exit_code == 0
    for word in ("learning rate", "stable rate", "smooth edge", "recommended", "warm-up", "batch"):
        assert word in ended.stdout


def test_without_trials_curvature_alone_decides(given: list[str]) -> None:
    found = json.loads(RUN.invoke(app, [*given, "--optimizer", "sgd", "--no-trial", "--json"]).stdout)
    assert "smooth_edge" not in found
    assert found["passes"] == 0
    assert found["rate"] == pytest.approx(1 / found["stability"]["curvature"])


def test_the_picture_is_written(given: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    place = tmp_path / "lr.png"
    ended = RUN.invoke(app, [*given, "--optimizer", "sgd", "--steps", "30", "-o", str(place), "--json"])
    assert ended.exit_code == 0, ended.stderr
    assert place.stat().st_size > 10_000
    found = json.loads(ended.stdout)
    assert found["edge"]["value"] > 0
    assert len(found["curve"]) == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--optimizer", "lion"], "no edge that follows from curvature"),
        (["--beta", "2"], "beta=2"),
        (["-o", "lr.txt"], "ends in '.txt'"),
        (["--loss", "mse"], "do not fit the output"),
    ],
)
def test_what_cannot_be_used_is_refused(given: list[str], change: list[str], said: str) -> None:
    ended = RUN.invoke(app, [*given, *change])
    assert ended.exit_code == 2
    assert said in " ".join(ended.stderr.split())


def test_targets_and_a_batch_are_needed(given: list[str]) -> None:
    ended = RUN.invoke(app, given[:4])
    assert ended.exit_code == 2
    assert "needs targets" in " ".join(ended.stderr.split())
    ended = RUN.invoke(app, [*given[:2], *given[4:]])
    assert ended.exit_code == 2
    assert "without a batch" in " ".join(ended.stderr.split())
