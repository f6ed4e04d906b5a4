"""``leadline tune``: the recipe on the screen, as JSON and as a file; what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from leadline.cli.app import app
from leadline.tune import Recipe

MODEL = """
import torch
from torch import nn

def build(depth=3):
    torch.manual_seed(0)
    layers = [nn.Linear(16, 32), nn.Tanh()]
    for _ in range(depth):
        layers += [nn.Linear(32, 32), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(32, 4)), torch.randn(4, 16)

def deep():
    return build(18)
"""


@pytest.fixture
def target(tmp_path: Path) -> str:
    path = tmp_path / "my_model.py"
    path.write_text(MODEL)
    return str(path)


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["tune", *words])
    return result.exit_code, result.stdout, result.stderr


def test_a_healthy_network_is_left_alone_and_the_recipe_written(target: str, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    code, text, _ = run(f"{target}:build", "--optimizer", "momentum", "-o", str(out), "--draws", "2")
    assert code == 0
    assert "left alone" in text
    assert f"from leadline.tune import Recipe\nrecipe = Recipe.load({str(out)!r}); recipe.apply(model); " in text
    assert "optimizer = torch.optim.SGD(recipe.param_groups(model), momentum=0.9)" in text
    assert Recipe.load(out).optimizer == "momentum"


def test_a_deep_one_gets_laws_and_the_lines_do_what_they_say(target: str, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    code, text, _ = run(f"{target}:deep", "--optimizer", "adamw", "-o", str(out), "--draws", "2")
    assert code == 0
    assert "orthogonal, C_W" in text
    names: dict[str, Any] = {"torch": torch}
    exec(MODEL, names)  # noqa: S102 (a user would type it)
    model = names["model"] = names["deep"]()[0]
    old = model[4].weight.detach().clone()
    exec("\n".join(text.splitlines()[-2:]), names)  # noqa: S102
    assert not torch.equal(model[4].weight, old)
    assert sum(len(g["params"]) for g in names["optimizer"].param_groups) == len(list(model.parameters()))


def test_json_is_the_file(target: str, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    code, text, _ = run(f"{target}:build", "-o", str(out), "--draws", "2", "--json")
    assert code == 0
    assert json.loads(text) == Recipe.load(out).to_dict()


def test_what_cannot_be_used_gets_one_sentence(target: str, tmp_path: Path) -> None:
    code, _, said = run(f"{target}:build", "-o", str(tmp_path / "r.json"))
    assert (code, said.count("\n")) == (2, 1)
    assert "does not end in .yaml" in said
    code, _, said = run(f"{target}:build", "--optimizer", "adagrad")
    assert code == 2
    assert "there is no optimizer 'adagrad'" in said


def test_activations_are_reshaped_on_request(target: str, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    words = (f"{target}:build", "--reshape-activations", "--optimizer", "adam", "-o", str(out), "--draws", "2")
    code, text, _ = run(*words)
    assert code == 0
    assert "with graph=True (4 activations reshaped" in text
    assert "recipe.apply(model); optimizer = torch.optim.Adam(recipe.param_groups(model, lr=1e-3))" in text
    assert len(Recipe.load(out).reshapes) == 4
    code, text, _ = run(*words, "--graph")
    assert code == 0
    assert "model = recipe.apply(model, graph=True); optimizer = torch.optim.Adam(recipe.param_groups(model))" in text
    code, _, errors = run(f"{target}:build", "--graph")
    assert code == 2
    assert "expected --reshape-activations" in errors


def test_a_parametrization_counts_rates_against_a_small_network(target: str, tmp_path: Path) -> None:
    Path(target).write_text(MODEL + "\ndef wide(width=64):\n    return nn.Sequential(nn.Linear(16, width), nn.Tanh(), "
                            "nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4)), torch.randn(4, 16)\n")  # fmt: skip
    out, words = tmp_path / "r.yaml", ("--base", f"{target}:wide", "--base-config", "width=16", "--draws", "2")
    code, text, _ = run(f"{target}:wide", *words, "--optimizer", "adam", "-o", str(out))
    assert code == 0
    assert "hidden: learning rate 0.25 times the base rate" in text
    assert "recipe.param_groups(model, lr=" in text
    recipe = Recipe.load(out)
    assert {g.name: g.lr_factor for g in recipe.groups} == {"input": 1.0, "hidden": 0.25, "output": 0.25, "vector": 1.0}
    code, _, error = run(f"{target}:wide", *words)
    assert (code, error.count("\n")) == (2, 1)
    assert "without an optimizer" in error
