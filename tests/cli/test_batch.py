"""Batch and target files: every format, and what is refused without being run."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from leadline.cli.batch import load_batch, load_targets
from refusals import refused

X = torch.arange(6.0).reshape(2, 3)
IDS = torch.tensor([[1, 2], [3, 4]])
RAN: list[str] = []


class Trap:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return RAN.append, ("ran",)


@pytest.mark.parametrize("suffix", ["pt", "pth", "PT"])
def test_torch_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"batch.{suffix}"
    for saved in (X, (X, IDS), [X, IDS], {"x": X, "flag": True}, OrderedDict(x=X)):
        torch.save(saved, path)
        args, kwargs = load_batch(str(path))
        if isinstance(saved, dict):
            assert args == ()
            assert list(kwargs) == list(saved)
            assert torch.equal(kwargs["x"], X)
        else:
            expected = [saved] if isinstance(saved, torch.Tensor) else saved
            assert kwargs == {}
            assert all(torch.equal(a, b) for a, b in zip(args, expected, strict=True))


def test_other_files(tmp_path: Path) -> None:
    save_file({"x": X, "ids": IDS}, tmp_path / "a.safetensors")
    np.save(tmp_path / "b.npy", X.numpy())
    np.savez(tmp_path / "c.npz", X.numpy(), IDS.numpy())
    np.savez(tmp_path / "d.npz", x=X.numpy())
    np.save(tmp_path / "e.npy", X.numpy().astype(">f8"))
    np.save(tmp_path / "f.npy", np.asfortranarray(X.numpy()))
    args, kwargs = load_batch(tmp_path / "a.safetensors")
    assert args == ()
    assert torch.equal(kwargs["x"], X)
    assert torch.equal(kwargs["ids"], IDS)
    assert torch.equal(load_batch(tmp_path / "b.npy")[0][0], X)
    args, kwargs = load_batch(tmp_path / "c.npz")
    assert kwargs == {}
    assert torch.equal(args[0], X)
    assert torch.equal(args[1], IDS)
    assert torch.equal(load_batch(tmp_path / "d.npz")[1]["x"], X)
    assert torch.equal(load_batch(tmp_path / "e.npy")[0][0], X.double())
    assert torch.equal(load_batch(tmp_path / "f.npy")[0][0], X)


def test_targets(tmp_path: Path) -> None:
    path = tmp_path / "y.pt"
    for saved in (IDS, (IDS,), {"labels": IDS}):
        torch.save(saved, path)
        assert torch.equal(load_targets(path), IDS)
    torch.save({"a": IDS, "b": IDS}, path)
    with refused("targets file 'y.pt' holds 2 tensors, expected one"):
        load_targets(path)
    torch.save(IDS[:0], path)
    with refused("targets file 'y.pt' holds an empty tensor of shape (0, 2)"):
        load_targets(path)
    torch.save(X / 0, path)
    with refused("targets file 'y.pt' ((2, 3) float32) holds NaN or infinite values"):
        load_targets(path)


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    path = tmp_path / "batch.pt"
    torch.save({"x": X, "trap": Trap()}, path)
    with refused("batch file 'batch.pt' needs unpickling", "can run code", "safetensors"):
        load_batch(path)
    torch.save(nn.Linear(2, 2), path)
    with refused("batch file 'batch.pt' needs unpickling of torch.nn.modules.linear.Linear"):
        load_batch(path)
    path.write_bytes(pickle.dumps(Trap()))
    with refused("batch file 'batch.pt'", "safetensors"):
        load_batch(path)
    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([Trap()], dtype=object))
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npy", "b.npz", "c.npy"):
        with refused(f"batch file '{name}' needs unpickling, which can run code"):
            load_batch(tmp_path / name)
    assert RAN == []


def test_refused_files(tmp_path: Path) -> None:
    with refused("there is no batch file 'nowhere.pt'"):
        load_batch("nowhere.pt")
    with refused("is a folder"):
        load_batch(tmp_path)
    with refused("is a URL"):
        load_batch("https://example.org/batch.pt")
    with refused("batch file 'a\\x00b'"):
        load_batch("a\x00b")
    with refused("batch ", "aaa…aaa"):
        load_batch("a" * 5000)
    (tmp_path / "batch.csv").write_text("1,2")
    with refused("ends in '.csv', expected .pt, .pth, .safetensors, .npy, .npz"):
        load_batch(tmp_path / "batch.csv")
    for suffix in ("pt", "safetensors", "npy", "npz"):
        path = tmp_path / f"[red]\x1b.{suffix}"
        path.write_bytes(b"")
        with refused(f"batch file '[red]\\x1b.{suffix}' cannot be read"):
            load_batch(path)
    torch.save({"a": 1, "b": "text"}, tmp_path / "none.pt")
    with refused("entry 'b' is a str"):
        load_batch(tmp_path / "none.pt")
    torch.save({"a": 1}, tmp_path / "none.pt")
    with refused("batch file 'none.pt' holds a dict with 1 entries, expected at least one tensor"):
        load_batch(tmp_path / "none.pt")
    torch.save(3, tmp_path / "none.pt")
    with refused("batch is of type int"):
        load_batch(tmp_path / "none.pt")
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    with refused("array of dtype <U1"):
        load_batch(tmp_path / "text.npy")
    endless: list[object] = [X]
    endless.append(endless)
    torch.save(endless, tmp_path / "endless.pt")
    with refused("nested 7 deep"):
        load_batch(tmp_path / "endless.pt")
