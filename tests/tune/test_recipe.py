"""Recipes as data: what apply changes and refuses, what revert restores, what a file must hold."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from leadline.program import UserError, read_law
from leadline.tune import Decision, Group, ParameterLaw, Recipe
from leadline.tune.recipe_apply import fingerprint


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(24, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 5)).to(dtype)


def recipe(model: nn.Module | None = None, **changes: object) -> Recipe:
    laws = {
        "0.weight": ParameterLaw("gaussian", 0.3, fan_in=24),
        "0.bias": ParameterLaw("constant", 0.0),
        "2.weight": ParameterLaw("orthogonal", 48**-0.5, fan_in=48),
        "2.bias": ParameterLaw("gaussian", 0.1),
    }
    given = {
        "target": "net",
        "fingerprint": fingerprint(model or network()),
        "seed": 3,
        "laws": laws,
        "decisions": (Decision("weights", "0.weight", "uniform", "gaussian", "it reads the batch", "a book"),),
        "groups": (
            Group("hidden", ("0.weight", "2.weight"), lr=0.01),
            Group("vector", ("0.bias", "2.bias"), weight_decay=0.0),
        ),
        "optimizer": "adamw",
        "summary": {"before": {"ok": False, "errors": []}, "after": {"ok": True, "errors": []}},
        "leadline": "0.1.0",
    }
    return Recipe(**{**given, **changes})  # type: ignore[arg-type]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[n], two[n]) for n in one)


def trained(weight: torch.Tensor) -> torch.Tensor:
    """A matrix with one direction that no init law has."""
    g = torch.Generator().manual_seed(1)
    u, v = (torch.randn(n, 1, generator=g, dtype=weight.dtype) for n in weight.shape)
    return weight + 0.5 * u @ v.T


def test_apply_draws_the_laws_and_leaves_the_rest() -> None:
    model = network()
    before = state(model)
    assert recipe().apply(model) is model
    after = state(model)
    assert list(after) == list(before)
    assert [n for n in after if torch.equal(after[n], before[n])] == ["4.weight", "4.bias"]
    assert not model[0].bias.any()
    W = model[2].weight.detach()
    torch.testing.assert_close(W @ W.T, torch.eye(48), atol=1e-5, rtol=0)
    # 1152 entries: the root mean square is known to 2 %
    assert abs(float(model[0].weight.detach().square().mean()) ** 0.5 / 0.3 - 1) < 0.08
    assert read_law(model[0].weight, fan_in=24).kind == "gaussian"


def test_apply_is_reproducible_and_idempotent() -> None:
    one, two = network(), network(seed=1)
    made = recipe()
    made.apply(one)
    first = state(one)
    made.apply(one)
    made.apply(two)
    assert same(state(one), first)
    assert all(torch.equal(state(two)[n], first[n]) for n in made.laws)
    other = network()
    made.replace(seed=4).apply(other)
    assert not torch.equal(other[0].weight, one[0].weight)
    # each parameter has its own generator: leaving one out moves no other
    fewer = network()
    made.replace(laws={n: law for n, law in made.laws.items() if n != "0.weight"}).apply(fewer)
    assert torch.equal(fewer[2].weight, one[2].weight)


def test_apply_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    recipe().apply(network())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_kept_and_a_second_call_changes_nothing(dtype: torch.dtype) -> None:
    model = network(dtype=dtype)
    made = recipe()
    made.apply(model)
    first = state(model)
    assert {t.dtype for t in first.values()} == {dtype}
    made.apply(model)
    assert same(state(model), first)


def test_revert_restores_the_bytes_once() -> None:
    model, made = network(), recipe()
    before = state(model)
    made.apply(model)
    made.apply(model)
    made.revert(model)
    assert same(state(model), before)
    with pytest.raises(UserError, match="has not changed this Sequential, expected the very module"):
        made.revert(model)


def test_a_copy_has_the_values_and_no_memory() -> None:
    model, made = network(), recipe()
    made.apply(model)
    twin = copy.deepcopy(model)
    assert same(state(twin), state(model))
    with pytest.raises(UserError, match="has not changed this"):
        made.revert(twin)
    assert copy.deepcopy(made) == made
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 (our own bytes)
    assert not any(vars(p) for p in model.parameters()), "nothing hangs on the parameters"


def test_applied_weights_work_functionally() -> None:
    model, made = network(), recipe()
    made.apply(model)
    x = torch.ones(2, 24)
    called = torch.func.functional_call(network(seed=5), dict(model.named_parameters()), (x,))
    torch.testing.assert_close(called, model(x))


def test_trained_weights_are_refused_by_name_and_nothing_is_changed() -> None:
    model = network()
    with torch.no_grad():
        model[2].weight.copy_(trained(model[2].weight))
    before = state(model)
    with pytest.raises(
        UserError, match=r"no init law explains them: '2\.weight'.*nothing was changed.*redraw=\['2\.weight'\]"
    ):
        recipe().apply(model)
    assert same(state(model), before)
    recipe().apply(model, redraw=["2"])
    assert not same(state(model), before)


def test_frozen_weights_are_refused() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    with pytest.raises(UserError, match=r"frozen: '0\.weight'"):
        recipe().apply(model)
    recipe().apply(model, redraw=["0.weight"])
    assert not model[0].weight.requires_grad
    assert [len(g["params"]) for g in recipe().param_groups(model)] == [1, 2]


def test_tied_weights_are_refused_and_stay_tied() -> None:
    model = network()
    model.append(nn.Tanh()).append(nn.Linear(5, 48)).append(nn.Linear(48, 48))
    model[7].weight = model[2].weight
    made = recipe(model)
    with pytest.raises(UserError, match=r"tied: '2\.weight'"):
        made.apply(model)
    made.apply(model, redraw=["7.weight"])
    assert model[7].weight is model[2].weight


def test_redraw_must_name_something() -> None:
    with pytest.raises(UserError, match=r"no parameter or submodule '2\.wieght'; did you mean '2\.weight'"):
        recipe().apply(network(), redraw=["2.wieght"])


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: nn.Sequential(nn.Linear(24, 48)), r"it lacks '2\.weight', '2\.bias', '4\.weight', '4\.bias'"),
        (lambda: network().append(nn.Linear(5, 5, bias=False)), r"it has '5\.weight' besides"),
        (
            lambda: network().__setitem__(4, nn.Linear(48, 6)),
            r"'4\.weight' has shape \(6, 48\) where the recipe's has \(5, 48\)",
        ),
    ],
)
def test_another_network_is_refused_and_the_difference_named(build: object, said: str) -> None:
    model = network()
    built = build()  # type: ignore[operator]
    if built is None:
        model[4] = nn.Linear(48, 6)
        built = model
    for call in (recipe().apply, recipe().param_groups):
        with pytest.raises(UserError, match=f"made for another network than this Sequential.*{said}"):
            call(built)


def test_wrappers_are_taken_off() -> None:
    model, made = network(), recipe()
    made.apply(nn.DataParallel(torch.compile(model)))
    expected = network()
    recipe().apply(expected)
    assert same(state(model), state(expected))
    made.revert(torch.compile(model))
    assert same(state(model), state(network()))


def test_split_parameters_are_refused() -> None:
    class FullyShardedDataParallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

    with pytest.raises(UserError, match="split over processes, expected whole ones: apply the recipe before"):
        recipe().apply(FullyShardedDataParallel())
    with pytest.raises(UserError, match=r"expected a torch\.nn\.Module"):
        recipe().apply("model")  # type: ignore[arg-type]


def test_padding_rows_stay_zero() -> None:
    model = nn.Embedding(20, 8, padding_idx=0)
    made = Recipe("e", fingerprint(model), 0, laws={"weight": ParameterLaw("gaussian", 1.0)})
    made.apply(model)
    assert not model.weight[0].any()
    assert bool(model.weight[1:].ne(0).all())


def test_groups_are_what_torch_takes() -> None:
    model = network()
    groups = recipe().param_groups(model)
    assert [(g["name"], g.get("lr"), g.get("weight_decay")) for g in groups] == [
        ("hidden", 0.01, None),
        ("vector", None, 0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.5, weight_decay=0.2)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.01, 0.2), (0.5, 0.0)]


def test_a_file_holds_all_of_it(tmp_path: Path) -> None:
    made, path = recipe(), tmp_path / "r.yaml"
    made.save(path)
    found = Recipe.load(path)
    assert found == made
    one, two = network(), network()
    made.apply(one)
    found.apply(two)
    assert same(state(one), state(two))
    assert found.ok
    assert "Recipe for net, adamw: 4 parameters drawn anew (seed 3)." in str(found)
    assert "it reads the batch" in str(found)


def good(tmp_path: Path) -> str:
    recipe().save(tmp_path / "good.yaml")
    return (tmp_path / "good.yaml").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t[:-40] + "{", "is not readable as YAML"),
        (lambda t: "- 1\n- 2\n", "is not a recipe, expected 'format: leadline recipe'"),
        (lambda t: "", "is not a recipe"),
        (
            lambda t: t.replace("schema: 1", "schema: 2"),
            "has schema 2, written by leadline 0.1.0, and this version reads up to 1",
        ),
        (lambda t: t.replace("schema: 1", "schema: one"), "has the schema 'one', expected a number"),
        (lambda t: t.replace("seed: 3", "seed: -3"), "is damaged"),
        (lambda t: t.replace("kind: orthogonal", "kind: cauchy"), "there is no law 'cauchy'"),
        (lambda t: t.replace("std: 0.3", "std: .nan"), "nan is no finite number"),
        (lambda t: t.replace("std: 0.3", "std: big"), "'big' is no finite number"),
        (lambda t: t.replace("  2.bias: {kind", "  9.bias: {kind"), "'9.bias' is not among the parameters"),
        (
            lambda t: t.replace("[2.bias]", "[2.bias]").replace("0.bias, 2.bias", "0.weight, 2.bias"),
            "stands in two groups",
        ),
        (lambda t: "a: !!python/object/apply:os.system ['true']\n", "is not readable as YAML"),
        (lambda t: "a: &x [1]\nb: [*x, *x]\n", "it has aliases"),
        (lambda t: "[" * 1500, "is not readable as YAML"),
    ],
)
def test_a_damaged_file_gets_one_sentence(tmp_path: Path, change: object, said: str) -> None:
    text = change(good(tmp_path))  # type: ignore[operator]
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        Recipe.load(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Recipe.load(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a text file"):
        Recipe.load(tmp_path / "b.yaml")
    with pytest.raises(UserError, match="cannot be written"):
        recipe().save(tmp_path / "no" / "r.yaml")


def test_without_pyyaml_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(UserError, match=r"PyYAML is not installed.*pip install 'leadline\[tune\]'"):
        recipe().save(tmp_path / "r.yaml")
