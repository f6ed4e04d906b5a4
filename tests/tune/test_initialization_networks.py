"""Whole networks: sick ones are found and cured, healthy ones left alone, and a cured one trains."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import leadline as ll
from leadline.testing.networks import mlp
from leadline.testing.stock import image_batch, stock, token_batch
from leadline.testing.tasks import digits
from leadline.tune import Recipe, tune

pytestmark = pytest.mark.slow


def seeded(sizes: list[int], act: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return mlp(sizes, act)


@pytest.mark.parametrize("act", ["gelu", "silu", "sin"])
def test_deep_chains_are_cured(act: str) -> None:
    model = seeded([32, *[48] * 20, 10], act)
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    recipe = tune(model, x, draws=4)
    assert recipe.summary["before"]["errors"]
    assert recipe.ok
    applied = recipe.apply(copy.deepcopy(model))
    assert ll.check(applied, x, draws=4).ok


def without_depth_scale(seed: int = 3) -> nn.Module:
    model = stock("gpt2", n_embd=64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("c_proj.weight"):
                parameter.normal_(0.0, 0.02, generator=generator)
    return model


def test_gpt2_without_its_depth_scale_is_repaired_and_nothing_else() -> None:
    model, x = without_depth_scale(), token_batch(tokens=8)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    keys = list(model.state_dict())
    recipe = tune(model, x, optimizer="adamw", draws=2)
    assert [e["rule"] for e in recipe.summary["before"]["errors"]] == ["residual-growth"]
    assert recipe.ok
    recipe.apply(model)
    assert list(model.state_dict()) == keys
    assert model.lm_head.weight is model.transformer.wte.weight  # type: ignore[union-attr]
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if n.endswith("c_proj.weight")}
    for name in changed:
        assert abs(float(model.get_parameter(name).detach().std()) / (0.02 / 8**0.5) - 1) < 0.05
    assert ll.check(model, x, draws=2).ok
    names = [n for g in recipe.groups for n in g.parameters]
    assert sorted(names) == sorted(before)
    assert {g.name: len(g.parameters) for g in recipe.groups} == {"embedding": 2, "hidden": 16, "vector": 34}


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit", "resnet", "convnext"])
def test_healthy_networks_are_left_alone(name: str) -> None:
    model = stock(name)
    recipe = tune(model, token_batch() if name in ("gpt2", "llama") else image_batch(), draws=2)
    assert recipe.laws == {}
    assert recipe.ok
    state = {n: t.clone() for n, t in model.state_dict().items()}
    recipe.apply(model)
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def losses(model: nn.Module, rate: float, steps: int) -> Iterator[float]:
    task, generator = digits(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        x, y = task.draw(generator)
        loss = task.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield float(loss.detach())


def test_a_hundred_layers_of_tanh_train_on_digits() -> None:
    model = seeded([64, *[64] * 100, 10], "tanh")
    x: Tensor = digits().draw(torch.Generator().manual_seed(0))[0][:4]
    recipe = tune(model, x, optimizer="adam", draws=2)
    assert recipe.ok
    final = {}
    for name, network in (("default", model), ("tuned", recipe.apply(copy.deepcopy(model)))):
        runs = [list(losses(copy.deepcopy(network), rate, 100)) for rate in (1e-4, 3e-4)]
        final[name] = min(sum(run[-10:]) / 10 for run in runs)
    assert final["default"] > 2.2  # ln 10 = 2.303: it has learned nothing
    assert final["tuned"] < 1.0, final


def test_the_recipe_survives_a_file_and_fits_a_fresh_build(tmp_path: object) -> None:
    model, x = without_depth_scale(), token_batch(tokens=8)
    recipe = tune(model, x, draws=2)
    path = f"{tmp_path}/r.yaml"
    recipe.save(path)
    fresh = without_depth_scale(seed=11)
    Recipe.load(path).apply(fresh)
    recipe.apply(model)
    name = "transformer.h.2.mlp.c_proj.weight"
    assert torch.equal(fresh.get_parameter(name), model.get_parameter(name))
    with pytest.raises(ll.UserError, match="made for another network"):
        recipe.apply(stock("gpt2", n_layer=3, n_embd=64))
