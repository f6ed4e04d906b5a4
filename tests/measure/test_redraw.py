"""Fresh draws: the right law for every tensor, the user's model untouched."""

from __future__ import annotations

import math
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrizations

from leadline.measure.redraw import Redrawer, redraw, redraw_many
from leadline.program.laws import fan_in, read_law, stated_law

transformers = pytest.importorskip("transformers")


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 1))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=128, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config)


def second(tensor: torch.Tensor) -> float:
    return float(tensor.double().square().mean())


def fingerprint(model: nn.Module) -> dict:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {
        "values": {name: t.detach().clone() for name, t in named},
        "objects": {name: (id(t), t.data_ptr(), t._version, t.requires_grad, t.grad is None) for name, t in named},
        "flags": {name: getattr(t, "_is_hf_initialized", None) for name, t in [*named, *model.named_modules()]},
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
    }


def assert_same(before: dict, after: dict) -> None:
    assert before.keys() == after.keys()
    for name, value in before["values"].items():
        assert torch.equal(value, after["values"][name]), name
    for key in before.keys() - {"values"}:
        assert before[key] == after[key], key


@pytest.mark.parametrize(
    "build",
    [mlp, gpt2, lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 2)],
)
def test_the_users_model_and_random_state_are_untouched(build):
    model = build()
    list(model.modules())[1].eval()
    list(model.modules())[-1].register_forward_hook(lambda *_: None)
    next(iter(model.parameters())).requires_grad_(False)
    before = fingerprint(model)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    redraw_many(model, [0, 1])
    assert_same(before, fingerprint(model))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # noqa: NPY002
    with torch.no_grad():  # negative control: the comparison sees a change of one entry
        list(model.parameters())[-1].view(-1)[0] += 1
    with pytest.raises(AssertionError):
        assert_same(before, fingerprint(model))


def test_a_seed_gives_one_state_whatever_was_drawn_before():
    model = gpt2()
    drawer = Redrawer(model)
    first = drawer.draw(5)
    other = drawer.draw(6)
    again = drawer.draw(5)
    many = redraw_many(model, [6, 5])
    for name in first:
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name], many[name][1])
        assert torch.equal(other[name], many[name][0])
    random_names = [n for n, route in drawer.report.routes.items() if route.way in {"initializer", "law"}]
    assert len(random_names) == 10
    assert not any(torch.equal(first[n], other[n]) for n in random_names)


def test_gpt2_goes_by_its_own_initializer_with_scaled_projections_and_ties():
    model = gpt2()
    drawer = Redrawer(model)
    assert drawer.report.count() == {"initializer": 10, "kept": 18, "tied": 1}
    state = drawer.draw(0)
    assert state["lm_head.weight"] is state["transformer.wte.weight"]
    assert set(state) == {
        *dict(model.named_parameters(remove_duplicate=False)),
        *dict(model.named_buffers(remove_duplicate=False)),
    }
    for name, std in (("attn.c_attn", 0.02), ("attn.c_proj", 0.01), ("mlp.c_proj", 0.01)):
        value = state[f"transformer.h.1.{name}.weight"]
        assert second(value) == pytest.approx(std**2, rel=5 * math.sqrt(2 / value.numel()))
    out = functional_call(model, state, kwargs={"input_ids": torch.randint(128, (2, 7)), "use_cache": False})
    assert not torch.equal(out.logits, model(input_ids=torch.randint(128, (2, 7)), use_cache=False).logits)


def test_stacked_states_run_under_vmap_with_ties():
    model = gpt2().eval()
    ids = torch.randint(128, (2, 7))

    def logits(state: dict) -> torch.Tensor:
        kwargs = {"input_ids": ids, "use_cache": False}
        return functional_call(model, state, kwargs=kwargs, tie_weights=False).logits

    states = redraw_many(model, [0, 1, 2])
    together = vmap(logits)(states)
    for index in range(3):
        alone = logits({name: value[index] for name, value in states.items()})
        assert torch.allclose(together[index], alone, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_flags_of_a_loaded_model_do_not_stop_the_draw(tmp_path):
    gpt2().save_pretrained(tmp_path)
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert all(getattr(p, "_is_hf_initialized", False) for p in model.parameters())
    before = fingerprint(model)
    drawer = Redrawer(model)
    assert drawer.report.count() == {"initializer": 10, "kept": 18, "tied": 1}
    assert_same(before, fingerprint(model))
    wrapped = nn.Sequential(model, nn.Linear(128, 64))
    assert Redrawer(wrapped).report.count() == {"initializer": 12, "kept": 18, "tied": 1}


def kaiming(model: nn.Module) -> nn.Module:
    nn.init.kaiming_normal_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    return model


def test_an_init_by_hand_is_not_replaced_by_the_modules_own():
    model = kaiming(mlp())
    drawer = Redrawer(model)
    routes = drawer.report.routes
    assert routes["0.weight"].way == "law"
    assert "draws 0.1" in routes["0.weight"].reason  # 1/3 of fan-in's inverse against 2
    assert routes["0.bias"].way == "kept"
    assert routes["3.weight"].way == "initializer"
    draws = drawer.draw_many(range(40))
    assert not draws["0.bias"].any()
    exact = second(model[0].weight.detach())
    assert second(draws["0.weight"]) == pytest.approx(exact, rel=5 * math.sqrt(2 / draws["0.weight"].numel()))
    default = Redrawer(mlp()).draw_many(range(40))["0.weight"]  # negative control: torch's own law, C_W = 1/3
    assert second(default) == pytest.approx(1 / 3 / 48, rel=0.02)


@pytest.mark.parametrize(
    ("init", "kind"),
    [
        (nn.init.orthogonal_, "orthogonal"),
        (lambda w: nn.init.uniform_(w, -0.02, 0.02), "uniform"),
        (lambda w: nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04), "truncated"),
        (
            lambda w: nn.init.normal_(w, std=1 / math.sqrt(3 * 128)),
            "gaussian",
        ),  # the second moment of the default
    ],
    ids=["orthogonal", "uniform", "truncated", "same-moment"],
)
def test_the_shape_of_the_law_is_kept(init, kind):
    layer = nn.Linear(128, 96)
    init(layer.weight)
    drawer = Redrawer(layer)
    assert drawer.report.routes["weight"].way == "law"
    state = drawer.draw(1)
    law, new = (read_law(w.detach(), fan_in=1) for w in (layer.weight, state["weight"]))
    assert law.kind == new.kind == kind
    assert new.second_moment == pytest.approx(law.second_moment, rel=5 * math.sqrt(4 / 128 / 96))


class Bare(nn.Module):
    """A module with parameters that no initializer of its own draws, a tie and a padding row."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((8,), 0.1))
        self.queries = nn.Parameter(0.3 * torch.randn(64, 32))
        self.emb = nn.Embedding(90, 32, padding_idx=4)
        self.head = nn.Linear(32, 90, bias=False)
        self.head.weight = self.emb.weight
        self.temperature = nn.Parameter(torch.tensor(2.6592600))
        self.register_buffer("table", torch.arange(5))


def test_bare_parameters_ties_padding_and_buffers():
    model = Bare()
    drawer = Redrawer(model)
    ways = {name: route.way for name, route in drawer.report.routes.items()}
    assert ways == {
        "scale": "kept", "queries": "law", "emb.weight": "law", "head.weight": "tied", "temperature": "kept",
        "table": "kept",
    }  # fmt: skip
    state = drawer.draw(2)
    assert second(state["queries"]) == pytest.approx(0.09, rel=5 * math.sqrt(4 / 2048))
    assert second(state["emb.weight"]) == pytest.approx(1.0, rel=0.15)  # not .01, which its last owner would draw
    assert not state["emb.weight"][4].any()
    assert state["emb.weight"][5].any()
    assert state["head.weight"] is state["emb.weight"]
    stacked = drawer.draw_many([1, 2])
    assert stacked["head.weight"] is stacked["emb.weight"]
    assert stacked["table"].shape == (2, 5)


def test_attention_keeps_its_zero_bias_and_encoder_layers_part_ways():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 2)
    assert torch.equal(encoder.layers[0].linear1.weight, encoder.layers[1].linear1.weight)
    drawer = Redrawer(encoder)
    assert drawer.report.count() == {"initializer": 12, "kept": 12}
    state = drawer.draw(0)
    assert not state["layers.0.self_attn.out_proj.bias"].any()
    assert not torch.equal(state["layers.0.linear1.weight"], state["layers.1.linear1.weight"])


def test_trained_weights_become_gaussians_of_their_second_moment():
    model = mlp()
    with torch.no_grad():
        model[0].weight += 3 * torch.outer(torch.randn(64) / 8, torch.randn(48) / 7)
    drawer = Redrawer(model)
    route = drawer.report.routes["0.weight"]
    assert route.way == "law"
    assert "no init law explains it" in route.reason
    draws = drawer.draw_many(range(20))["0.weight"]
    exact = second(model[0].weight.detach())
    assert second(draws) == pytest.approx(exact, rel=5 * math.sqrt(2 / draws.numel()))
    assert not read_law(draws[0], fan_in=48).trained


def test_a_stated_law_is_drawn_from():
    model = mlp()
    read = read_law(model[0].weight, fan_in=fan_in(model[0].weight.shape, op="linear"), name="0.weight")
    bias = read_law(model[0].bias, fan_in=1, name="0.bias")
    laws = {"0.weight": stated_law(read, C_W=2.0), "0.bias": stated_law(bias, C_W=0.5)}
    draws = redraw_many(model, range(30), laws=laws)
    assert second(draws["0.weight"]) == pytest.approx(2 / 48, rel=5 * math.sqrt(2 / draws["0.weight"].numel()))
    assert second(draws["0.bias"]) == pytest.approx(0.5, rel=5 * math.sqrt(2 / draws["0.bias"].numel()))


def test_parametrized_weights_are_drawn_consistently():
    with warnings.catch_warnings(action="ignore"):  # deprecated, and still met
        old = nn.utils.weight_norm(nn.Linear(24, 40))
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(24, 40)),
        parametrizations.spectral_norm(nn.Linear(40, 24)),
        parametrizations.orthogonal(nn.Linear(24, 24)),
        old,
    ).eval()
    taken = {}
    for index in range(4):
        model[index].register_forward_hook(lambda m, *_, i=index: taken.__setitem__(i, m.weight.detach().clone()))
    model(torch.randn(2, 24))
    before = dict(taken)
    state = Redrawer(model).draw(3)
    functional_call(model, state, torch.randn(2, 24))
    for index, weight in taken.items():
        assert not torch.allclose(weight, before[index])
        assert second(weight) == pytest.approx(second(before[index]), rel=0.3)
    norms = torch.linalg.vector_norm(state["0.parametrizations.weight.original1"], dim=1, keepdim=True)
    assert torch.allclose(norms, state["0.parametrizations.weight.original0"])
    assert float(torch.linalg.matrix_norm(taken[1], 2)) == pytest.approx(1.0, rel=1e-3)
    assert torch.allclose(taken[2] @ taken[2].T, torch.eye(24), atol=1e-5)


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 32))

    def reset_parameters(self):
        raise RuntimeError("needs a scale")


def test_an_initializer_that_raises_is_named_and_passed_over():
    drawer = Redrawer(nn.Sequential(Broken()))
    assert drawer.report.failed == {"0": "RuntimeError: needs a scale"}
    assert drawer.report.routes["0.weight"].way == "law"
    assert not torch.equal(drawer.draw(0)["0.weight"], drawer.draw(1)["0.weight"])


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("no copies")


def test_bad_models_are_named():
    with pytest.raises(ValueError, match=r"parameter 'weight' is on the meta device: build the model"):
        redraw(nn.Linear(2, 2, device="meta"), 0)
    with pytest.raises(ValueError, match=r"parameter 'weight' is not initialized: run the model once"):
        redraw(nn.LazyLinear(2), 0)
    with pytest.raises(ValueError, match=r"Uncopyable cannot be copied \(TypeError: no copies\)"):
        redraw(Uncopyable(2, 2), 0)
    with pytest.raises(ValueError, match=r"got the seed -1: give an integer"):
        redraw(nn.Linear(2, 2), -1)
    with pytest.raises(ValueError, match="got no seed"):
        redraw_many(nn.Linear(2, 2), [])


def test_draws_of_the_default_law_are_unbiased_and_independent():
    layer = nn.Linear(32, 32)
    draws = redraw_many(layer, range(200))
    weight = draws["weight"].double()
    assert second(weight) == pytest.approx(1 / 96, rel=5 * math.sqrt(0.8 / weight.numel()))
    z = weight.flatten(1) * math.sqrt(96 / 1024)
    gram = z @ z.T - torch.diag((z * z).sum(1))
    assert float(gram.square().sum() / (200 * 199)) == pytest.approx(1 / 1024, rel=0.1)
    assert float(draws["bias"].double().square().mean()) == pytest.approx(1 / 96, rel=0.1)
