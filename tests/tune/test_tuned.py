"""A recipe made and applied: what it repairs, what it leaves alone, what measurement corrects."""

from __future__ import annotations

import copy
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

import leadline as ll
from leadline.measure import measure
from leadline.program import UserError
from leadline.theory import predict
from leadline.tune import tune
from leadline.tune.init_choose import verdict_counts
from leadline.tune.init_correct import correct
from leadline.tune.init_design import Plan
from leadline.tune.init_places import find_places
from leadline.tune.recipe import ParameterLaw
from leadline.tune.recipe_apply import draw
from tune.planned import FEATURES, batch, chain, rows


@lru_cache(maxsize=1)
def tuned_tanh() -> tuple[nn.Module, Tensor, ll.tune.Recipe]:  # type: ignore[name-defined]
    model, x = chain("tanh", 16), batch(6, FEATURES)
    return model, x, tune(model, x, optimizer="adamw", draws=4)


def test_an_unhealthy_chain_is_made_healthy_and_only_read() -> None:
    model, x, recipe = tuned_tanh()
    fresh = chain("tanh", 16)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
    before, after = ll.check(model, x, draws=4), recipe.summary["after"]
    assert verdict_counts(before.verdicts) != (0, 0)
    assert after["ok"]
    assert not after["warnings"]
    applied = recipe.apply(copy.deepcopy(model))
    assert not [v for v in ll.check(applied, x, draws=4).verdicts if v.severity != "note"]
    assert [len(g.parameters) for g in recipe.groups] == [1, 15, 1, 17]
    assert [g.weight_decay for g in recipe.groups] == [None, None, None, 0.0]


def test_both_sides_are_in_the_recipe() -> None:
    recipe = tuned_tanh()[2]
    for row in recipe.summary["layers"]:
        predicted, measured, error = row["kernel"]
        assert abs(measured / predicted - 1) < 0.12 + 4 * error / predicted, row
    assert "predicted | measured on drawn networks" in str(recipe)
    assert "comes back from tanh" in " ".join(str(recipe).split())


def test_a_tuned_network_is_left_alone() -> None:
    model, x, recipe = tuned_tanh()
    again = tune(recipe.apply(copy.deepcopy(model)), x, draws=4)
    assert again.laws == {}
    assert again.ok
    assert "left alone" in str(again)


def test_the_draws_of_a_recipe_have_the_laws_that_were_predicted() -> None:
    """Kernels of networks that the recipe itself draws, seed by seed, against the prediction; and against a wrong one."""
    model, x, recipe = tuned_tanh()
    program = ll.trace(model, x)
    plan = Plan("full", dict(recipe.laws))
    wrong = Plan("full", {n: law if law.kind == "constant" else ParameterLaw(law.kind, 1.1 * law.std, fan_in=law.fan_in)
                          for n, law in recipe.laws.items()})  # fmt: skip
    right, off = (rows(predict(p.stated(program))) for p in (plan, wrong))
    shapes = dict(model.named_parameters())
    drawn = []
    for seed in range(48):
        twin = copy.deepcopy(model)
        state = {n: draw(seed, n, law, shapes[n]) for n, law in recipe.laws.items()}
        twin.load_state_dict({**twin.state_dict(), **state})
        drawn.append(torch.tensor(rows_of(twin, x), dtype=torch.float64))
    stacked = torch.stack(drawn)
    mean, error = stacked.mean(0), stacked.std(0) / len(drawn) ** 0.5

    # width 32: the correction to the mean at layer l is of relative order l/n times a third
    def misses(kernels: list[float]) -> int:
        return sum(abs(float(m) - k) > 4 * float(e) + 0.05 * k for k, m, e in zip(kernels, mean, error, strict=True))

    assert misses(right) == 0
    assert misses(off) >= 6


def rows_of(model: nn.Module, x: Tensor) -> list[float]:
    found = []
    for module in model:  # type: ignore[attr-defined]
        x = module(x)
        if isinstance(module, nn.Linear):
            found.append(float(x.detach().square().mean()))
    return found


def test_a_layer_that_theory_has_wrong_is_corrected_by_measurement() -> None:
    """A prediction that believes one layer to be four times as strong as it is drawn; nothing else is touched."""
    model, x, recipe = tuned_tanh()
    program = ll.trace(model, x)
    places = find_places(program)
    plan = Plan("full", dict(recipe.laws))
    law = plan.laws["0.weight"]
    weak = Plan("full", {**plan.laws, "0.weight": ParameterLaw(law.kind, law.std / 2, fan_in=law.fan_in)})
    candidate = weak.stated(program)
    measured = measure(model, program=candidate, draws=8, seed=0)
    corrected = correct(weak, candidate, places, predict(plan.stated(program)), measured)
    assert corrected.laws["0.weight"].std == pytest.approx(law.std, rel=0.1)
    assert next(d.layer for d in corrected.decisions if d.what == "measured correction") == "0.weight"
    held = correct(weak, candidate, places, predict(candidate), measured)
    assert held is weak


def test_what_cannot_be_tuned_is_said() -> None:
    model = chain("tanh", 3)
    with pytest.raises(UserError, match="there is no optimizer 'adagrad', expected one of sgd"):
        tune(model, batch(), optimizer="adagrad")
    with pytest.raises(UserError, match="draws is 1, expected 2 or more"):
        tune(model, batch(), draws=1)

    class Branching(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.inner = chain("tanh", 3)
            with torch.no_grad():
                self.inner.get_submodule("4").weight.mul_(factor)
                self.inner.get_submodule("6").weight.mul_(factor)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x if x.sum() > 1e9 else 2 * x)

    assert tune(Branching(1.0), batch(), draws=2).ok
    with pytest.raises(UserError, match=r"is unhealthy and could not be predicted .*data-dependent control flow"):
        tune(Branching(1e6), batch(), draws=2)
