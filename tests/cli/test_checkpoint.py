"""Checkpoints: all of it goes into the model, or nothing does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from leadline.cli.checkpoint import load_checkpoint
from refusals import refused


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("mask", torch.ones(2), persistent=False)


def net(seed: int, width: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in state.items()}


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt", "safetensors"])
def test_every_file(tmp_path: Path, suffix: str) -> None:
    source, model = net(1), net(2)
    path = tmp_path / f"step.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(source.state_dict(), path)
    parameters = list(model.parameters())
    report = load_checkpoint(model, path)
    assert same(model, source)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert (report.tensors, report.container, report.stripped, report.cast) == (9, None, (), ())


@pytest.mark.parametrize("container", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_containers_and_wrappers(tmp_path: Path, container: str, prefix: str) -> None:
    source, model = net(1), net(2)
    torch.save({container: prefixed(source.state_dict(), prefix), "epoch": 3}, tmp_path / "a.pt")
    report = load_checkpoint(model, tmp_path / "a.pt")
    assert same(model, source)
    assert report.container == container
    assert set(report.stripped) == {w for w in ("module.", "_orig_mod.") if w in prefix}


def test_a_model_that_has_the_names_of_a_wrapper_keeps_them(tmp_path: Path) -> None:
    source, model = nn.Module(), nn.Module()
    source.module, model.module = net(1), net(2)
    source.model, model.model = net(3), net(4)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    assert load_checkpoint(model, tmp_path / "a.pt").stripped == ()
    assert same(model, source)


def test_compiled_submodule(tmp_path: Path) -> None:
    source, model = net(1), net(2)
    state = {k.replace("0.", "0._orig_mod."): v for k, v in source.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    assert load_checkpoint(model, tmp_path / "a.pt").stripped == ("_orig_mod.",)
    assert same(model, source)


def test_tied_weights_need_one_name_and_private_buffers_none(tmp_path: Path) -> None:
    source, model = Tied(), Tied()
    save_file({"head.weight": source.head.weight.data, "mask": torch.zeros(2)}, tmp_path / "a.safetensors")
    report = load_checkpoint(model, tmp_path / "a.safetensors")
    assert same(model, source)
    assert model.table.weight is model.head.weight
    assert report.ignored == ("mask",)
    assert model.mask.tolist() == [1, 1]


def test_half_precision_is_cast_and_said(tmp_path: Path) -> None:
    model = net(2)
    torch.save(net(1).bfloat16().state_dict(), tmp_path / "a.pt")
    report = load_checkpoint(model, tmp_path / "a.pt")
    assert model[0].weight.dtype == torch.float32
    assert "0.weight" in report.cast
    assert torch.equal(model[0].weight, net(1)[0].weight.bfloat16().float())


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    model, before = net(2), net(2)
    path = tmp_path / "a.pt"
    torch.save(net(1, width=6).state_dict(), path)
    with refused("checkpoint 'a.pt' has shapes", "'0.weight' got (6, 4), expected (8, 4)", "and 4 more"):
        load_checkpoint(model, path)
    torch.save(prefixed(net(1).state_dict(), "encoder."), path)
    with refused("lacks 9 of the model's 9 names ('0.weight', '0.bias', '1.weight', …)", "has 9", "'encoder.0.weight'"):
        load_checkpoint(model, path)
    state = dict(net(1).state_dict())
    del state["2.bias"]
    torch.save(state, path)
    with refused("lacks 1 of the model's 9 names ('2.bias')"):
        load_checkpoint(model, path)
    torch.save({**net(1).state_dict(), "\x1b[31mextra": torch.ones(1)}, path)
    with refused("has 1 that the model has not ('\\x1b[31mextra')"):
        load_checkpoint(model, path)
    torch.save({**net(1).state_dict(), "0.weight": torch.ones(8, 4, dtype=torch.int8)}, path)
    with refused("has '0.weight' as torch.int8, expected torch.float32"):
        load_checkpoint(model, path)
    torch.save({**net(1).state_dict(), "module.0.weight": torch.ones(8, 4)}, path)
    with refused("names '0.weight' twice"):
        load_checkpoint(model, path)
    assert same(model, before)


def test_refused_files(tmp_path: Path) -> None:
    model, path = net(2), tmp_path / "a.pt"
    with refused("there is no checkpoint file"):
        load_checkpoint(model, path)
    torch.save(net(1), path)
    with refused("checkpoint file 'a.pt' needs unpickling of torch.nn.modules.container.Sequential", "state_dict()"):
        load_checkpoint(model, path)
    torch.save(torch.ones(3), path)
    with refused("checkpoint 'a.pt' holds a Tensor, expected a state dict"):
        load_checkpoint(model, path)
    torch.save({"weights": {"0.weight": torch.ones(1)}, "epoch": 1}, path)
    with refused("checkpoint 'a.pt' holds a dict with 'weights', 'epoch', expected a state dict"):
        load_checkpoint(model, path)
    torch.save({}, path)
    with refused("checkpoint 'a.pt' holds a dict with nothing"):
        load_checkpoint(model, path)
    torch.save({"0.weight": torch.ones(1), "epoch": 3}, path)
    with refused("checkpoint 'a.pt' has 'epoch' of type int among its tensors"):
        load_checkpoint(model, path)
    (tmp_path / "a.npy").write_bytes(b"")
    with refused("ends in '.npy', expected .safetensors, .pt"):
        load_checkpoint(model, tmp_path / "a.npy")
