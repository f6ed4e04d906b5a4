"""Wraps folded into weights: the same function, and the same training, to the last digits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

import leadline as ll
from leadline.program import Program, UserError
from leadline.theory import predict
from leadline.tune import Recipe
from leadline.tune.graph_hooks import install
from leadline.tune.groups import parameter_groups
from leadline.tune.init_places import find_places
from leadline.tune.recipe_apply import fingerprint
from leadline.tune.reshape_laws import Folded, folding_plan
from leadline.tune.reshape_survey import Survey, survey

WIDTH = 10


def batch(*shape: int) -> Tensor:
    return torch.randn(*(shape or (6, WIDTH)), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def chain(act: Callable[[], nn.Module], depth: int = 5, bias: bool = True, last: int = 4) -> nn.Sequential:
    layers = [m for _ in range(depth) for m in (nn.Linear(WIDTH, WIDTH, bias=bias), act())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, last)).double()


def image(act: Callable[[], nn.Module]) -> nn.Sequential:
    """Zero-padded convolutions, pooling and dropout between nonlinearities and what reads them."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), act(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, padding=1), act(), nn.Dropout(0.2),
        nn.Conv2d(6, 6, 3, padding=1), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 6), act(),
        nn.Linear(6, 3),
    ).double()  # fmt: skip


def folded(model: nn.Module, x: Tensor) -> tuple[Program, Survey, Folded]:
    program = ll.trace(model, x)
    found = survey(program, find_places(program))
    return program, found, folding_plan(program, predict(program), found)


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "tanh": (lambda: chain(nn.Tanh), batch()),
    "gelu": (lambda: chain(nn.GELU), batch()),
    "cnn": (lambda: image(nn.SiLU), batch(4, 1, 8, 8)),
}


@lru_cache
def case(name: str) -> tuple[nn.Module, Program, Survey, Folded]:
    make, x = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
    return model, *folded(model, x)


def pair(name: str, optimizer: str) -> tuple[Recipe, nn.Module, nn.Module, Folded]:
    """A network with wraps folded into its weights, and the same network in wraps."""
    model, program, found, fold = case(name)
    recipe = Recipe(
        "net", fingerprint(model), 1, laws=fold.plan.laws, scales=fold.scales, optimizer=optimizer,
        groups=parameter_groups(program, found.places, optimizer),
    )  # fmt: skip
    inside = recipe.apply(copy.deepcopy(model))
    around = copy.deepcopy(inside)
    places = found.places
    with torch.no_grad():
        parameters = dict(around.named_parameters())
        for name, wrap in fold.design.wraps.items():
            layer = places.feeding(places.steps[name])
            assert layer is not None
            parameters[f"{layer.layer}.bias"].sub_(wrap.b)
        for name, factor in fold.scales.items():
            parameters[name].div_(factor)
    install(around, {found.located[n]: w for n, w in fold.design.wraps.items()})  # type: ignore[misc]
    return recipe, inside, around, fold


OPTIMIZERS: dict[str, Callable[[list[dict[str, object]]], torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups),
    "momentum": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "adam": lambda groups: torch.optim.Adam(groups, eps=1e-40),
    "adamw": lambda groups: torch.optim.AdamW(groups, eps=1e-40),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int = 5) -> None:
    torch.manual_seed(3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", CASES)
def test_folded_weights_are_the_same_function(name: str) -> None:
    x = CASES[name][1]
    _, inside, around, fold = pair(name, "adam")
    assert len(fold.design.wraps) == (4 if name == "cnn" else 5)
    torch.testing.assert_close(inside.eval()(x), around.eval()(x), rtol=1e-10, atol=1e-12)
    # the constants matter: without what comes behind the activations it is another function
    for module in around.modules():
        module._forward_hooks.clear()
    assert not torch.allclose(inside(x), around(x), rtol=1e-2)


@pytest.mark.parametrize(
    ("name", "optimizer"), [("gelu", "sgd"), ("tanh", "momentum"), ("gelu", "adam"), ("gelu", "adamw"), ("cnn", "sgd")]
)
def test_folded_weights_train_the_same(name: str, optimizer: str) -> None:
    x, rate = CASES[name][1], 0.02
    recipe, inside, around, fold = pair(name, optimizer)
    groups, plain = recipe.param_groups(inside, lr=rate), recipe.param_groups(around, lr=rate)
    assert {g["lr"] for g in plain} == {rate}
    if optimizer in ("adamw", "momentum"):  # tanh has no shifts, which a decay of biases would pull at
        groups, plain = (recipe.param_groups(net, lr=rate, weight_decay=0.1) for net in (inside, around))
        assert 0.1 in {g["weight_decay"] for g in plain}
    train(inside, OPTIMIZERS[optimizer](groups), x)
    train(around, OPTIMIZERS[optimizer](plain), x)
    torch.testing.assert_close(inside.eval()(x), around.eval()(x), rtol=1e-8, atol=1e-10)
    last = max(fold.scales, key=lambda n: (n.endswith("weight"), n))
    ratio = dict(inside.named_parameters())[last] / dict(around.named_parameters())[last]
    torch.testing.assert_close(ratio, torch.full_like(ratio, fold.scales[last]), rtol=1e-7, atol=0)
    # one rate for all parameters trains another network
    same = pair(name, optimizer)[1]
    train(same, OPTIMIZERS[optimizer]([{"params": list(same.parameters()), "lr": rate}]), x)
    assert not torch.allclose(same.eval()(x), around(x), rtol=1e-3)


class Woven(nn.Module):
    """One matrix in several layers, or nonlinearities that a sum reads."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.tied = tied

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        if self.tied:
            return self.d(torch.tanh(self.b(torch.tanh(self.b(torch.tanh(self.b(h)))))))
        return self.d(torch.tanh(self.c(torch.tanh(self.b(h)))) + h)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (chain(nn.Softplus), "softplus has no scale and shift"),
        (chain(nn.GELU, bias=False), "the layer before it has no bias"),
        (chain(nn.ReLU, 14), "no weight can add a share of its input behind it"),
        (nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(WIDTH, WIDTH), nn.Dropout(), nn.GELU())],
                       nn.Linear(WIDTH, 3)).double(), "passes on no shift"),
        (Woven(True).double(), "frozen, tied or used twice"),
        (Woven(False).double(), "something other than layers with weights reads it"),
        (nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Tanh())],
                       nn.Linear(WIDTH, 3)).double(), "no layer with weights comes right before it"),
    ],
)  # fmt: skip
def test_what_does_not_fold_says_why(model: nn.Module, why: str) -> None:
    _, _, fold = folded(model, batch())
    assert any(why in said for said in fold.design.kept.values()), fold.design.kept
    assert not fold.plan.laws or len(fold.design.wraps) < 3


def test_rates_need_an_optimizer_and_a_rate() -> None:
    recipe, inside, around, _ = pair("tanh", "adam")
    with pytest.raises(UserError, match="no learning rate: pass lr"):
        recipe.param_groups(inside)
    with pytest.raises(UserError, match="names no optimizer"):
        recipe.replace(optimizer=None).param_groups(inside, lr=0.1)
    assert all("lr" not in g for g in recipe.param_groups(around))


def test_applying_twice_changes_nothing_and_reverting_restores() -> None:
    original, _, _, fold = case("tanh")
    model = copy.deepcopy(original)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    recipe = Recipe("net", fingerprint(model), 1, laws=fold.plan.laws, scales=fold.scales, optimizer="adam")
    once = {n: t.clone() for n, t in recipe.apply(model).state_dict().items()}
    twice = recipe.apply(model).state_dict()
    assert all(torch.equal(once[n], twice[n]) for n in once)
    recipe.revert(model)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_odd_functions_need_no_bias() -> None:
    model = chain(nn.Tanh, bias=False)
    _, _, fold = folded(model, batch())
    assert len(fold.design.wraps) == 5
