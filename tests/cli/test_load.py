"""Targets `FILE.py:NAME`: what is built, what is left alone and what is refused."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from leadline.cli.load import load_target
from refusals import refused

SOURCE = """
import random
import sys
import numpy as np
import torch
from torch import nn
from blocks import WIDTH

print("a user's own output")
BATCH = torch.ones(3, WIDTH)
drawn = (random.random(), float(np.random.rand()))

class Net(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 2)
        self.drawn = (random.random(), float(np.random.rand()))
    def forward(self, x):
        return self.fc(x)

class Hungry(Net):
    def __init__(self, width, depth):
        super().__init__(width)

instance = Net()
number = 3

def build(width=WIDTH):
    return Net(width)

def with_batch():
    return Net(), BATCH

def with_pair():
    return Net(), (BATCH, torch.zeros(3, dtype=torch.long))

def with_dict():
    return Net().eval(), {"x": BATCH}

def anything(**settings):
    return Net(settings["width"])

def returns_text():
    return "a model"

def returns_triple():
    return Net(), BATCH, 3

def bad_batch():
    return Net(), 3

def fails():
    depth = 3
    raise ValueError("bad width\\x1b[31m [red]\\nsecond line. third")

def fails_deep():
    return nn.Linear(4, -1)

def leaves():
    sys.exit("enough")

class Deep:
    build = staticmethod(build)
"""
FAILS_AT = SOURCE.splitlines().index('    raise ValueError("bad width\\x1b[31m [red]\\nsecond line. third")') + 1


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "model.py").write_text(SOURCE)
    (tmp_path / "blocks.py").write_text("WIDTH = 4\n")
    return str(tmp_path / "model.py")


@pytest.mark.parametrize("name", ["Net", "instance", "build", "Deep.build", "with_batch"])
def test_every_form_of_a_model(file: str, name: str) -> None:
    loaded = load_target(f"{file}:{name}")
    assert type(loaded.model).__name__ == "Net"
    assert loaded.name.endswith(f"model.py:{name}")
    assert loaded.kwargs == {}
    assert len(loaded.args) == (name == "with_batch")
    assert loaded.model(torch.ones(1, 4)).shape == (1, 2)


def test_batches_of_a_builder(file: str) -> None:
    assert load_target(f"{file}:with_batch").args[0].shape == (3, 4)
    pair = load_target(f"{file}:with_pair")
    assert len(pair.args) == 1
    assert pair.targets is not None
    assert pair.targets.dtype == torch.int64
    keywords = load_target(f"{file}:with_dict")
    assert keywords.args == ()
    assert list(keywords.kwargs) == ["x"]
    assert not keywords.model.training


def test_config_reaches_the_builder(file: str) -> None:
    assert load_target(f"{file}:build", config={"width": 7}).model.fc.in_features == 7
    assert load_target(f"{file}:anything", config={"width": 5}).model.fc.in_features == 5
    with refused("builder 'build' of 'model.py' takes no argument 'widht'", "did you mean 'width'"):
        load_target(f"{file}:build", config={"widht": 7})
    with refused("'instance' of 'model.py' is a model already and cannot take the config 'width'"):
        load_target(f"{file}:instance", config={"width": 7})


def test_the_seed_decides_and_nothing_else_is_touched(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    path, bytecode = list(sys.path), sys.dont_write_bytecode
    first, again, other = (load_target(f"{file}:build", seed=s) for s in (1, 1, 2))
    assert torch.equal(first.model.fc.weight, again.model.fc.weight)
    assert first.model.drawn == again.model.drawn
    assert not torch.equal(first.model.fc.weight, other.model.fc.weight)
    assert first.model.drawn != other.model.drawn
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002
    assert sys.path == path
    assert sys.dont_write_bytecode == bytecode
    assert not (Path(file).parent / "__pycache__").exists()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a user's own output" in printed.err


def test_two_targets_in_two_folders_each_get_their_own_neighbours(file: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.py").write_text(SOURCE)
    (other / "blocks.py").write_text("WIDTH = 6\n")
    first, second = load_target(f"{file}:build"), load_target(f"{other / 'model.py'}:build")
    assert (first.model.fc.in_features, second.model.fc.in_features) == (4, 6)
    assert type(first.model) is not type(second.model)
    assert load_target(f"{file}:build").model.fc.in_features == 4


def test_no_such_file_or_name(file: str, tmp_path: Path) -> None:
    with refused("there is no file", "modle.py", "did you mean 'model.py'"):
        load_target(str(tmp_path / "modle.py") + ":build")
    with refused("there is no file", "check the path"):
        load_target(str(tmp_path / "nowhere" / "model.py") + ":build")
    with refused("is a folder, expected a Python file"):
        load_target(f"{tmp_path}:build")
    (tmp_path / "notes.txt").write_text("x")
    with refused("is not a Python file", ".py"):
        load_target(f"{tmp_path}/notes.txt:build")
    with refused("'model.py' has no attribute 'biuld'", "did you mean 'build'"):
        load_target(f"{file}:biuld")
    with refused("'model.py' has no attribute 'Deep.build2'"):
        load_target(f"{file}:Deep.build2")
    with refused("names no attribute", ":NAME"):
        load_target(file)
    for target in ("", "model", ":", ":build", f"{file}:"):
        with refused("is neither a file with a name nor a model type"):
            load_target(target)
    with refused("is a URL"):
        load_target("https://example.org/model.py:build")
    with refused("is no path"):
        load_target("a\x00b.py:build")


def test_files_and_builders_that_raise(file: str, tmp_path: Path) -> None:
    shown = "ValueError: bad width\\x1b[31m [red] (line "
    with refused("builder 'fails' of 'model.py' raised", shown + f"{FAILS_AT})"):
        load_target(f"{file}:fails")
    with refused("builder 'fails_deep' of 'model.py' raised RuntimeError", "(line "):
        load_target(f"{file}:fails_deep")
    with refused("builder 'leaves' of 'model.py' raised SystemExit: enough"):
        load_target(f"{file}:leaves")
    broken = tmp_path / "broken.py"
    for source, said in (
        ("def build(:\n", "SyntaxError: invalid syntax (line 1)"),
        ("x = 1\nimport no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' (line 2)"),
        ("x = '\x00'\n", "file 'broken.py' raised"),
        ("1 / 0\n", "ZeroDivisionError: division by zero (line 1)"),
    ):
        broken.write_text(source)
        with refused("the file 'broken.py' raised" if "file" not in said else "", said):
            load_target(f"{broken}:build")
    assert not any(getattr(m, "__file__", None) == str(broken) for m in sys.modules.values())


def test_what_is_no_model(file: str) -> None:
    with refused("'number' of 'model.py' is of type int, expected a torch.nn.Module"):
        load_target(f"{file}:number")
    with refused("builder 'returns_text' of 'model.py' returned str, expected a torch.nn.Module or (module, batch)"):
        load_target(f"{file}:returns_text")
    with refused("returned a tuple of (Net, Tensor, int)"):
        load_target(f"{file}:returns_triple")
    with refused("batch is of type int"):
        load_target(f"{file}:bad_batch")
    with refused("builder 'Hungry' of 'model.py' needs 'width', 'depth'", "--config width=VALUE"):
        load_target(f"{file}:Hungry")


def test_options_that_belong_to_model_types(file: str) -> None:
    with refused("seq=64 was given with", "only with transformers:TYPE"):
        load_target(f"{file}:build", seq=64)
    with refused("device 'cuda:99' is not there"):
        load_target(f"{file}:build", device="cuda:99")
