"""Measuring leaves the model and every random state exactly as they were."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leadline.measure import measure
from measure.nets import gpt2, normalised


class Branching(nn.Module):
    """Data-dependent control flow: no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Linear(32, 4)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.norm(self.first(x)))
        if h.sum() > 0:
            h = h * 2
        return self.last(h)


def everything(model: nn.Module, batch: Any) -> dict[str, Any]:
    """All that a measurement could have changed, as bytes or plain values."""
    out: dict[str, Any] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        out[f"{name} bytes"] = tensor.detach().numpy().tobytes()
        out[f"{name} place"] = (tensor.data_ptr(), tensor._version, tensor.requires_grad, id(tensor))
        out[f"{name} grad"] = None if tensor.grad is None else (id(tensor.grad), tensor.grad.numpy().tobytes())
    for name, module in model.named_modules():
        hooks = [len(v) for k, v in vars(module).items() if k.endswith("_hooks")]
        out[f"{name} mode"] = (module.training, hooks, sorted(vars(module)))
    for i, leaf in enumerate(batch.values() if isinstance(batch, dict) else [batch]):
        if isinstance(leaf, Tensor):
            out[f"batch {i}"] = (leaf.numpy().tobytes(), leaf._version, leaf.requires_grad, leaf.grad)
    out["torch"] = torch.get_rng_state().numpy().tobytes()
    out["numpy"] = np.random.get_state()[1].tobytes()  # noqa: NPY002
    out["python"] = random.getstate()
    out["grad mode"] = torch.is_grad_enabled()
    out["deterministic"] = torch.are_deterministic_algorithms_enabled()
    out["attention"] = torch.backends.cuda.flash_sdp_enabled()
    return out


def networks() -> dict[str, tuple[nn.Module, Any]]:
    with_grad = normalised()
    with_grad[0].weight.grad = torch.ones_like(with_grad[0].weight)
    with_grad[3].bias.requires_grad_(False)
    with_grad[0].register_forward_hook(lambda *a: None)
    return {
        "train": (with_grad.train(), torch.randn(8, 16)),
        "eval": (normalised().eval(), torch.randn(8, 16)),
        "transformer": gpt2(attn_pdrop=0.1, resid_pdrop=0.1),
        "no graph": (Branching(), torch.randn(8, 16)),
    }


@pytest.mark.parametrize("draws", [0, 3])
@pytest.mark.parametrize("name", ["train", "eval", "transformer", "no graph"])
def test_nothing_is_changed(name: str, draws: int) -> None:
    model, batch = networks()[name]
    if name == "transformer":
        model.train()
    before = everything(model, batch)
    found = measure(model, batch, draws=draws)
    after = everything(model, batch)
    assert before.keys() == after.keys()
    assert [k for k in before if before[k] != after[k]] == []
    assert (found.reason is None) == (name != "no graph")
    assert all("kernel" in r.values for r in found.rows)


def test_measuring_works_under_no_grad_and_changes_nothing_there() -> None:
    model, x = normalised(dropout=0.0).eval(), torch.randn(8, 16)
    with_grad = measure(model, x, draws=2)
    with torch.no_grad():
        without = measure(model, x, draws=2)
        assert not torch.is_grad_enabled()
    assert with_grad.to_dict() == without.to_dict()


def test_without_a_graph_submodules_are_measured() -> None:
    model, x = Branching().eval(), torch.randn(8, 16)
    found = measure(model, x, draws=0)
    assert found.program is None
    assert "data-dependent" in (found.reason or "")
    assert [(r.layer, r.op) for r in found.rows] == [
        ("first", "linear"), ("norm", "batchnorm1d"), ("drop", "dropout"), ("last", "linear")
    ]  # fmt: skip
    z = model.first(x).detach().double()
    assert found.rows[0].get("kernel") == pytest.approx(float(z.square().mean()))
    norm = z / z.square().mean(1, keepdim=True).sqrt()
    C = norm @ norm.T / 32
    assert found.rows[0].get("correlation") == pytest.approx(float((C.sum() - 8) / 56))
    many = measure(model, x, draws=12)
    kernel = many.rows[0].values["kernel"]
    assert kernel.error > 0
    exact = float(x.square().mean()) / 3 + 1 / 48
    assert abs(kernel.value - exact) < 4 * kernel.error
