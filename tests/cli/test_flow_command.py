"""``leadline flow``: defaults that make sense, JSON, a picture, refusals in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leadline.cli.app import app

RUN = CliRunner()


def test_by_default_the_network_is_critical() -> None:
    ended = RUN.invoke(app, ["flow", "--activation", "gelu", "--depth", "6", "--networks", "0", "--json"])
    assert ended.exit_code == 0
    found = json.loads(ended.stdout)
    assert found["C_W"][-1] == pytest.approx(1.98305826, abs=1e-6)
    assert found["C_b"][-1] == pytest.approx(0.17292239, abs=1e-6)
    K = found["tensors"]["K"]
    assert K[0] == pytest.approx(3.56155281, abs=1e-6)
    assert K[-1] == pytest.approx(K[0], abs=1e-6)


def test_the_size_of_the_input_is_given_as_in_python() -> None:
    ended = RUN.invoke(app, ["flow", "--depth", "3", "--C_W", "1", "--input", "0.25", "--networks", "0", "--json"])
    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["tensors"]["K"][0] == pytest.approx(0.25)
    # a norm is a layer in every other verb on activations
    assert RUN.invoke(app, ["flow", "--depth", "3", "--norm", "0.25"]).exit_code == 2


def test_the_picture_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    place = tmp_path / "flow.png"
    ended = RUN.invoke(app, ["flow", "--depth", "5", "--width", "16", "--networks", "100", "-o", str(place)])
    assert ended.exit_code == 0
    assert place.stat().st_size > 10_000
    assert "Θ+H1/n" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--activation", "foo"], "no activation is called 'foo'"),
        (["--C_W", "-1"], "not negative"),
        (["--networks", "1"], "at least 2"),
        (["-o", "flow.txt"], "ends in '.txt'"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: list[str], said: str) -> None:
    ended = RUN.invoke(app, ["flow", "--depth", "3", *arguments])
    assert ended.exit_code == 2
    assert said in " ".join(ended.stderr.split())
