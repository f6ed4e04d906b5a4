"""A parametrization on a network: roles and ratios from traces, folds, rates, and what is refused."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leadline.program import UserError, trace
from leadline.tune import Recipe, param_scaled, param_tune, tune
from leadline.tune.groups import parameter_roles
from leadline.tune.init_places import find_places
from leadline.tune.param_scaled import scaled_recipe

TRACED: dict[tuple[int, ...], object] = {}
X = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))


def seeded(build: type[nn.Module] | object, *args: object, **kwargs: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(*args, **kwargs)  # type: ignore[operator]


@functools.cache
def mlp(width: int, depth: int = 2) -> nn.Module:
    """One a size: tests that change it take a copy."""

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(width if i else 12, width), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(width, 4))

    return seeded(build)


class Residual(nn.Module):
    def __init__(self, width: int, depth: int, factor: float | None = None) -> None:
        super().__init__()
        self.first, self.last, self.factor = nn.Linear(12, width), nn.Linear(width, 4), factor
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = h + (block(h) if self.factor is None else self.factor * block(h))
        return self.last(h)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, fused: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.heads, self.fused, self.scale = heads, fused, scale
        self.embed, self.head = nn.Linear(12, width), nn.Linear(width, 4)
        if fused:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        made = self.qkv(h).chunk(3, -1) if self.fused else (self.query(h), self.key(h), self.value(h))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in made)
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2)
        return self.head(out).mean(1)


class Language(nn.Module):
    """Tied embedding and output, with a norm before the output, or none."""

    def __init__(self, width: int, norm: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.out = nn.Linear(width, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.norm(self.hidden(self.embed(tokens)).tanh()))


@pytest.fixture(autouse=True)
def _one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that several tests share are traced once."""

    def remembered(model: nn.Module, x: object = None, *, args: tuple = (), **kwargs: object) -> object:
        if model not in (mlp(16), mlp(64)):
            return trace(model, x, args=args, **kwargs)
        key = (id(model), *(id(a) for a in args))
        if key not in TRACED:
            TRACED[key] = trace(model, x, args=args, **kwargs)
        return TRACED[key]

    monkeypatch.setattr(param_scaled, "trace", remembered)
    monkeypatch.setattr(param_tune, "trace", remembered)


def scaled(
    model: nn.Module, base: nn.Module | int, name: str | None = None, optimizer: str = "adam", x: Tensor = X
) -> Recipe:
    return scaled_recipe(model, base, name, optimizer, args=(x,))


def factors(recipe: Recipe) -> dict[str, float]:
    return {n: g.lr_factor for g in recipe.groups for n in g.parameters}


def test_roles_are_read_off_the_trace() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.first = nn.Parameter(torch.randn(6, 8)), nn.Linear(12, 8)
            self.attention, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x) + self.table
            return self.last((h + self.attention(h, h, h, need_weights=False)[0]).mean(1))

    model = Positions()
    program = trace(model, torch.randn(2, 6, 12))
    roles = parameter_roles(program, find_places(program))
    assert {n: r for n, r in roles.items() if "bias" not in n} == {
        "table": "vector", "first.weight": "input", "attention.in_proj_weight": "hidden",
        "attention.out_proj.weight": "hidden", "last.weight": "output",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [("sgd", {"0.weight": 4, "2.weight": 1, "4.weight": 0.25, "0.bias": 4, "4.bias": 1}),
     ("adam", {"0.weight": 1, "2.weight": 0.25, "4.weight": 0.25, "0.bias": 1, "4.bias": 1})],
)  # fmt: skip
def test_mup_rates_and_sizes(optimizer: str, expected: dict[str, float]) -> None:
    small, wide = mlp(16), mlp(64)
    recipe = scaled(wide, small, "mup", optimizer)
    assert {n: factors(recipe)[n] for n in expected} == expected
    assert list(recipe.laws) == ["4.weight"]  # hidden and input sizes are those of the base already
    size = float(small[4].weight.detach().square().mean().sqrt())
    assert recipe.laws["4.weight"].std == pytest.approx(size / 4, rel=1e-6)


def test_ntk_mean_field_and_integrable_rates() -> None:
    small, wide = mlp(16, 1), mlp(64, 1)
    assert factors(scaled(wide, small, "mean_field", "sgd")) == factors(scaled(wide, small, "mup", "sgd"))
    ntk = factors(scaled(mlp(64), mlp(16), "ntk", "sgd"))
    assert [ntk[f"{i}.weight"] for i in (0, 2, 4)] == [1, 0.25, 0.25]
    recipe = scaled(mlp(64, 3), mlp(16, 3), "integrable", "sgd")
    assert recipe.laws["2.weight"].std == pytest.approx(
        float(mlp(16, 3)[2].weight.detach().square().mean().sqrt()) / 4, rel=1e-6
    )
    assert any("first_step" in d.why for d in recipe.decisions)
    assert set(factors(scaled(wide, small, "standard")).values()) == {1.0}


def test_fans_that_grow_apart() -> None:
    def build(width: int, inner: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(12, width), nn.Tanh(), nn.Linear(width, inner), nn.Tanh(), nn.Linear(inner, width), nn.Tanh(),
            nn.Linear(width, 4),
        )  # fmt: skip

    found = factors(scaled(seeded(build, 32, 64), seeded(build, 32, 16), "mup", "sgd"))
    # a bottleneck that grows alone: into it as an input layer, out of it as an output layer
    assert [found[f"{i}.weight"] for i in (0, 2, 4, 6)] == [1, 4, 0.25, 1]
    both = factors(scaled(seeded(build, 64, 64), seeded(build, 32, 16), "mup", "sgd"))
    assert [both[f"{i}.weight"] for i in (0, 2, 4, 6)] == [2, 4 / 2, 2 / 4, 0.5]


@pytest.mark.parametrize(("optimizer", "end", "inside"), [("sgd", 1 / 4, 1.0), ("adam", 1 / 4, 1 / 2)])
def test_depth_of_residual_networks(optimizer: str, end: float, inside: float) -> None:
    small, deep = seeded(Residual, 16, 2), seeded(Residual, 16, 8)
    recipe = scaled(deep, small, None, optimizer)
    found = factors(recipe)
    for i in range(8):
        assert found[f"blocks.{i}.3.weight"] == pytest.approx(end)
        assert found[f"blocks.{i}.3.bias"] == pytest.approx(end)
        assert found[f"blocks.{i}.1.weight"] == found[f"blocks.{i}.0.weight"] == pytest.approx(inside)
        assert f"blocks.{i}.3.weight" in recipe.laws
    assert found["first.weight"] == found["last.weight"] == 1
    ratio = recipe.laws["blocks.7.3.weight"].std / float(small.blocks[1][3].weight.detach().square().mean().sqrt())
    assert ratio == pytest.approx(0.5, rel=1e-6)


def test_a_factor_in_the_code_is_not_put_there_twice() -> None:
    small, deep = seeded(Residual, 16, 2, 2**-0.5), seeded(Residual, 16, 8, 8**-0.5)
    recipe = scaled(deep, small)
    assert not recipe.laws
    assert factors(recipe)["blocks.0.3.weight"] == factors(recipe)["blocks.0.1.weight"] == pytest.approx(0.5)


def test_plain_mup_says_that_it_knows_nothing_of_depth() -> None:
    recipe = scaled(seeded(Residual, 16, 4), seeded(Residual, 16, 2), "mup")
    assert set(factors(recipe).values()) == {1.0}
    assert any("says nothing of depth" in d.why for d in recipe.decisions)


def test_attention_takes_one_over_its_dimension_into_the_queries() -> None:
    x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1))
    small, wide = seeded(Attention, 16, 2), seeded(Attention, 64, 2)
    recipe = scaled(wide, small, "mup", "adam", x)
    found = factors(recipe)
    assert found["query.weight"] == pytest.approx(found["key.weight"] / 2) == pytest.approx(1 / 8)
    assert found["query.bias"] == pytest.approx(found["key.bias"] / 2)
    expected = float(small.query.weight.detach().square().mean().sqrt()) / 2 / 2
    assert recipe.laws["query.weight"].std == pytest.approx(expected, rel=1e-6)
    assert "key.weight" not in recipe.laws
    # more heads of one size: nothing to do; a code that has 1/dimension itself: nothing either
    for other in (seeded(Attention, 32, 4), seeded(Attention, 32, 2, scale=8**-0.5 / 2)):
        assert "query.weight" not in scaled(other, small, "mup", "adam", x).laws
    fused = scaled(seeded(Attention, 64, 2, fused=True), seeded(Attention, 16, 2, fused=True), "mup", "adam", x)
    assert recipe.summary["parametrization"]["folded"] == {"query.weight": 0.5, "query.bias": 0.5}
    assert any("does not fold: one matrix makes queries, keys and values" in d.why for d in fused.decisions)
    assert "qkv.weight" not in fused.laws


def test_a_tied_output_gives_its_factor_to_the_norm_before_it() -> None:
    tokens = torch.randint(0, 20, (3, 5), generator=torch.Generator().manual_seed(2))
    small, wide = seeded(Language, 16), seeded(Language, 64)
    recipe = scaled(wide, small, "mup", "adam", tokens)
    assert (recipe.laws["norm.weight"].kind, recipe.laws["norm.weight"].mean) == ("constant", 0.25)
    assert (factors(recipe)["norm.weight"], factors(recipe)["norm.bias"], factors(recipe)["embed.weight"]) == (
        0.25,
        0.25,
        1,
    )
    before = wide(tokens)
    recipe.apply(wide)
    assert wide.out.weight is wide.embed.weight
    torch.testing.assert_close(wide(tokens), before / 4)
    bare = scaled(seeded(Language, 64, False), seeded(Language, 16, False), "mup", "adam", tokens)
    assert any("does not fold: no norm comes before it" in d.why for d in bare.decisions)


def test_the_module_stays_a_plain_one() -> None:
    wide = copy.deepcopy(mlp(64))
    recipe = scaled(wide, mlp(16), "mup", "adam")
    keys, before = list(wide.state_dict()), set(vars(wide)) | {n for m in wide.modules() for n in vars(m)}
    recipe.apply(wide)
    assert list(wide.state_dict()) == keys
    assert set(vars(wide)) | {n for m in wide.modules() for n in vars(m)} == before
    assert all(not vars(p) for p in wide.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in wide.modules())
    assert not scaled(wide, mlp(16), "mup", "adam").laws  # it is as it should be
    out = wide(X)
    twin = copy.deepcopy(wide)
    fresh = copy.deepcopy(mlp(64))
    fresh.load_state_dict(wide.state_dict())
    for other in (twin(X), fresh(X), torch.func.functional_call(wide, dict(wide.named_parameters()), (X,))):
        assert torch.equal(other, out)
    # the same groups fit the copy and the reloaded one, and train them alike
    results = []
    for model in (wide, twin, fresh):
        stepper = torch.optim.Adam(recipe.param_groups(model, lr=0.01))
        for _ in range(3):
            stepper.zero_grad()
            model(X).square().mean().backward()
            stepper.step()
        results.append(model(X).detach())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_it_compiles() -> None:
    wide = copy.deepcopy(mlp(64))
    recipe = scaled(wide, mlp(16), "mup", "adam")
    compiled = torch.compile(wide, backend="eager")
    recipe.apply(compiled)
    torch.testing.assert_close(compiled(X), wide(X))
    members = [p for g in recipe.param_groups(compiled, lr=0.01) for p in g["params"]]
    assert {id(p) for p in members} == {id(p) for p in wide.parameters()}


def test_rates_come_from_a_number_a_recipe_or_later() -> None:
    wide, small = mlp(64), mlp(16)
    relative = tune(wide, X, base=small, optimizer="adamw", draws=2)
    with pytest.raises(UserError, match=r"trains at 0\.25 times the base rate, and the recipe has none: pass lr="):
        relative.param_groups(wide)
    later = {g["name"]: g for g in relative.param_groups(wide, lr=0.02, weight_decay=0.1)}
    assert later["hidden"]["lr"] == pytest.approx(0.005)
    assert later["hidden"]["weight_decay"] * later["hidden"]["lr"] == pytest.approx(0.1 * 0.02)
    assert later["vector"]["weight_decay"] == 0
    rates = {n: g["lr"] for n, g in later.items()}
    now = scaled_recipe(wide, small, "mup", "adamw", args=(X,), base_lr=0.02)
    assert {g["name"]: g["lr"] for g in now.param_groups(wide)} == rates
    # the base's own recipe, in which rates are known or are not
    of_base = scaled_recipe(small, small, "mup", "adamw", args=(X,), base_lr=0.02)
    again = scaled_recipe(wide, small, "mup", "adamw", args=(X,), base_lr=of_base)
    assert {g["name"]: g["lr"] for g in again.param_groups(wide)} == rates
    with pytest.raises(UserError, match=r"no learning rate for '0\.weight'"):
        scaled_recipe(wide, small, "mup", "adamw", args=(X,), base_lr=relative)


def test_a_recipe_with_factors_is_the_same_from_its_file(tmp_path: Path) -> None:
    recipe = scaled(seeded(Residual, 16, 3), seeded(Residual, 16, 2))
    recipe.save(tmp_path / "r.yaml")
    again = Recipe.load(tmp_path / "r.yaml")
    assert again.groups == recipe.groups
    assert again.laws == recipe.laws
    assert "in a branch" in str(again)


def test_a_width_counts_as_the_base_too() -> None:
    wide = mlp(256)
    recipe = tune(wide, X, parametrization="mup", optimizer="adam", draws=2)
    assert factors(recipe)["2.weight"] == 0.5  # against 128
    assert any("a width of 128" in d.why for d in recipe.decisions)
    ratio = recipe.laws["4.weight"].std / float(wide[4].weight.detach().square().mean().sqrt())
    assert ratio == pytest.approx(math.sqrt(0.5), rel=1e-6)


def test_convolutions_of_each_channel_by_itself_read_one_at_any_width() -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3, groups=width), nn.ReLU(),
            nn.Conv2d(width, width, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 3),
        )  # fmt: skip

    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    by_base = factors(scaled(seeded(build, 32), seeded(build, 8), "mup", "adam", x))
    assert [by_base[f"{i}.weight"] for i in (0, 2, 4, 7)] == [1, 1, 0.25, 0.25]
    by_width = factors(scaled(seeded(build, 32), 8, "mup", "adam", x))
    assert [by_width[f"{i}.weight"] for i in (0, 2, 4)] == [1, 1, 0.25]


def test_an_orthogonal_base_makes_orthogonal_wide_ones() -> None:
    small = copy.deepcopy(mlp(16))
    nn.init.orthogonal_(small[2].weight)
    law = scaled(mlp(64), small).laws["2.weight"]
    assert (law.kind, law.C_W) == ("orthogonal", pytest.approx(1.0, rel=1e-6))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (mlp(16, 3), "the base network has 4 layers with weights and this one 3"),
        (seeded(Residual, 16, 2), "the base network has 6 layers with weights and this one 3"),
        (nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4, bias=False)),
         r"of another architecture: for '4\.bias' it has no such parameter"),
        (nn.Linear(7, 4), "the base network cannot be written as a graph on this batch"),
    ],
)  # fmt: skip
def test_a_base_of_another_architecture(base: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scaled(mlp(64), base)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": mlp(16), "optimizer": None}, "without an optimizer"),
        ({"base": mlp(16), "parametrization": "mupp"}, "there is no parametrization"),
        ({"base": 0}, "the base is 0, expected a module or a width"),
        ({"base": mlp(16), "base_lr": -1.0}, r"base_lr is -1\.0"),
        ({"base_lr": 0.1}, "without a base network"),
        ({"parametrization": "depth_mup"}, "depth is counted against a base network"),
        ({"base": mlp(16), "reshape_activations": True}, "at once, expected one of them"),
    ],
)
def test_one_sentence_for_what_cannot_be_asked(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tune(mlp(64), X, **{"optimizer": "adam", "draws": 2, **arguments})
