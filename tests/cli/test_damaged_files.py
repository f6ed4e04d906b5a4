"""Whatever bytes a file holds, reading it gives tensors or one sentence, and runs nothing."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from leadline.cli.batch import load_batch, load_targets
from leadline.cli.checkpoint import load_checkpoint
from leadline.program.errors import UserError
from refusals import assert_one_sentence

X = torch.arange(6.0).reshape(2, 3)


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


GOOD = {
    ".pt": written(lambda f: torch.save({"weight": X, "bias": X[:, 0].clone()}, f)),
    ".pth": written(lambda f: torch.save({"weight": X}, f, _use_new_zipfile_serialization=False)),
    ".npy": written(lambda f: np.save(f, X.numpy())),
    ".npz": written(lambda f: np.savez(f, X.numpy(), y=X.numpy())),
    ".safetensors": save({"weight": X, "bias": X[:, 0].clone()}),
}
PICKLES = (b"\x80\x02", b"\x80\x04\x95", b"cos\nsystem\n(")
OPENINGS = (b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", (40).to_bytes(8, "little") + b'{"a":', *PICKLES)
LEAVES = st.none() | st.integers() | st.text(max_size=5) | st.floats() | st.binary(max_size=5)


def grown(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    named = st.dictionaries(st.text(max_size=3), inner, max_size=3)
    return st.lists(inner, max_size=3) | named | st.tuples(inner, inner)


VALUES = st.recursive(LEAVES, grown)


def read_all(path: Path) -> None:
    """Read a file in every way there is; `UserError` is the only error that may come."""
    for read in (load_batch, load_targets, lambda p: load_checkpoint(nn.Linear(3, 2), p)):
        try:
            read(path)
        except UserError as error:
            assert_one_sentence(str(error))


@pytest.mark.parametrize("suffix", list(GOOD))
@given(data=st.data())
@settings(max_examples=40)
def test_damaged_files(suffix: str, data: st.DataObject) -> None:
    good = GOOD[suffix]
    kind = data.draw(st.sampled_from(["noise", "cut", "changed", "spliced"]))
    if kind == "noise":
        content = data.draw(st.sampled_from(OPENINGS)) + data.draw(st.binary(max_size=200))
    elif kind == "cut":
        content = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        new = data.draw(st.binary(min_size=1, max_size=8))
        content = good[:at] + new + good[at + (len(new) if kind == "changed" else 0) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        read_all(path)


@pytest.mark.parametrize("suffix", list(GOOD))
@given(value=VALUES)
@settings(max_examples=25)
def test_pickles_of_plain_values(suffix: str, value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(pickle.dumps(value, protocol=2))
        read_all(path)
        if suffix == ".pt":
            torch.save({"weight": X, "other": value}, path)
            read_all(path)


def test_the_undamaged_files_are_read() -> None:
    """The test above could not fail if nothing could be read at all."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix, content in GOOD.items():
            path = Path(folder) / f"file{suffix}"
            path.write_bytes(content)
            args, kwargs = load_batch(path)
            assert any(torch.equal(t, X) for t in [*args, *kwargs.values()])
