"""Wraps around nonlinearities of a module tree: found, put in place, copied, compiled, and refused where they do not fit."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import leadline as ll
from leadline.program import UserError
from leadline.tune import Decision, ParameterLaw, Recipe, tune
from leadline.tune.graph_hooks import install, installed
from leadline.tune.graph_places import Place, find_places_of
from leadline.tune.recipe import Reshape
from leadline.tune.recipe_apply import fingerprint
from leadline.tune.recipe_file import from_dict, to_dict
from leadline.tune.reshape_wrap import Wrap

WRAP, LEAKY = Wrap(0.5, 0.1, 2.0, -0.3), Wrap(gamma=0.9, skip=0.2)
TANH, RELU = Place("1", "builtin_function_or_method.tanh"), Place("1", "function.relu")
ACT = Place("1.act")


class Mixed(nn.Module):
    """A module with parameters of its own, and two calls of functions, one of them in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.act(self.a(x)))
        return self.c(torch.tanh(self.b(F.relu(h, inplace=True))))


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 8), Mixed())


def batch(rows: int = 4) -> Tensor:
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(1))


def by_hand(net: nn.Sequential, x: Tensor) -> Tensor:
    inner: Mixed = net[1]  # type: ignore[assignment]
    h = inner.b(WRAP(inner.act, inner.a(net[0](x))))
    return inner.c(WRAP(torch.tanh, inner.b(LEAKY(F.relu, h))))


def recipe(model: nn.Module, **changes: object) -> Recipe:
    law = ParameterLaw("gaussian", 0.3, fan_in=8)
    given = {
        "target": "net",
        "fingerprint": fingerprint(model),
        "seed": 1,
        "laws": {"0.weight": law},
        "graph_laws": {"1.a.weight": law},
        "reshapes": (Reshape(ACT, "prelu", WRAP), Reshape(TANH, "tanh", WRAP), Reshape(RELU, "relu", LEAKY)),
        "decisions": (Decision("activation", "1.act", "prelu", "2 (prelu(0.5 x + 0.1) - 0.3)", "the worst path"),),
    }
    return Recipe(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def wrapped() -> nn.Module:
    return recipe(network(), graph_laws={}).apply(network(), graph=True)


def test_nonlinearities_are_found_in_the_module_tree() -> None:
    program = ll.trace(network(), batch())
    steps = [s for s in program.steps if s.op == "pointwise"]
    assert list(find_places_of(program, steps).values()) == [ACT, RELU, TANH]


def test_one_module_under_two_names_is_one_place() -> None:
    act = nn.Tanh()
    program = ll.trace(nn.Sequential(nn.Linear(8, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 2)), batch())
    steps = [s for s in program.steps if s.op == "pointwise"]
    assert set(find_places_of(program, steps).values()) == {Place("1")}


def test_what_has_no_place_says_why() -> None:
    class Inline(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.a(h * torch.sigmoid(h))

    class Called(Inline):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.a(x))

    block = Called()
    for model, why in ((Inline(), "module of their own"), (nn.Sequential(block, block), "runs several times")):
        program = ll.trace(model, batch())
        steps = [s for s in program.steps if s.op == "pointwise"]
        assert all(why in str(p) for p in find_places_of(program, steps).values())


def test_the_copy_is_the_wrapped_function_and_the_model_stays(wrapped: nn.Module) -> None:
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    made = recipe(model, graph_laws={}).apply(model, graph=True)
    assert torch.equal(made(batch()), by_hand(network(), batch()))
    assert not torch.allclose(made(batch()), network()(batch()), rtol=1e-2)
    assert list(made.state_dict()) == list(before)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not installed(model)
    assert installed(wrapped) == {ACT: WRAP, TANH: WRAP, RELU: LEAKY}


def test_laws_of_the_graph_are_drawn_in_the_copy_instead_of_the_others() -> None:
    model = network()
    made = recipe(model).apply(model, graph=True)
    changed = [n for n, p in made.state_dict().items() if not torch.equal(p, model.state_dict()[n])]
    assert changed == ["1.a.weight"]


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state", "functional", "double", "train"])
def test_the_copy_is_a_plain_module(wrapped: nn.Module, way: str) -> None:
    x, made = batch(7), wrapped
    expected = by_hand(network(), x)
    state = wrapped.state_dict()
    if way == "deepcopy":
        made = copy.deepcopy(wrapped)
        with torch.no_grad():
            next(wrapped.parameters()).zero_()  # the copy has weights and wraps of its own
    elif way == "pickle":
        made = pickle.loads(pickle.dumps(wrapped))  # noqa: S301
    elif way == "state":
        made = recipe(network(), graph_laws={}).apply(nn.Sequential(nn.Linear(8, 8), Mixed()), graph=True)
        made.load_state_dict(state)
    elif way == "functional":
        doubled = {n: 2 * t for n, t in state.items()}
        twice = network()
        twice.load_state_dict(doubled)
        made = nn.Sequential(nn.Linear(8, 8), Mixed())
        install(made, installed(wrapped))
        assert torch.allclose(functional_call(made, doubled, (x,)), by_hand(twice, x))
        return
    elif way == "double":
        made, x, expected = wrapped.double(), x.double(), by_hand(network().double(), x.double())
    else:
        made = wrapped.eval().train()
    assert torch.allclose(made(x), expected)
    made(x).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_the_copy_compiles_without_a_break_and_is_traced(wrapped: nn.Module) -> None:
    explained = torch._dynamo.explain(wrapped)(batch())
    assert explained.graph_break_count == 0
    fast = torch.compile(wrapped, backend="aot_eager")
    for rows in (4, 9):
        assert torch.allclose(fast(batch(rows)), wrapped(batch(rows)), atol=1e-6)
    steps = [s for s in ll.trace(wrapped, batch()).steps if s.op == "pointwise"]
    assert len(steps) == 3


def test_applying_again_changes_nothing(wrapped: nn.Module) -> None:
    again = recipe(network(), graph_laws={}).apply(wrapped, graph=True)
    assert torch.equal(again(batch()), wrapped(batch()))
    assert len(again[1].act._forward_hooks) == 1  # type: ignore[index]


def test_what_does_not_fit_is_refused(wrapped: nn.Module) -> None:
    model = network()
    other = recipe(model, reshapes=(Reshape(ACT, "prelu", LEAKY),))
    with pytest.raises(UserError, match="reshaped by another recipe"):
        other.apply(wrapped, graph=True)
    with pytest.raises(UserError, match="reshaped already"):
        recipe(model, scales={"0.weight": 2.0}).apply(wrapped)
    lost = recipe(model, reshapes=(Reshape(Place("1.gone"), "tanh", WRAP),))
    with pytest.raises(UserError, match=r"no submodule '1\.gone'"):
        lost.apply(model, graph=True)
    with pytest.raises(UserError, match="another network"):
        recipe(model).apply(nn.Linear(3, 3), graph=True)


def test_a_call_that_is_not_made_is_an_error() -> None:
    made = network()
    install(made, {Place("1", "function.relu", 1): LEAKY})
    with pytest.raises(UserError, match="made 0 of the 1 calls that are reshaped"):
        made(batch())


def test_the_file_keeps_reshapes_and_refuses_damaged_ones(tmp_path: object) -> None:
    given = recipe(network(), scales={"0.weight": 0.25})
    path = f"{tmp_path}/r.yaml"
    given.save(path)
    loaded = Recipe.load(path)
    assert loaded == given
    x = batch()
    assert torch.equal(loaded.apply(network(), graph=True)(x), given.apply(network(), graph=True)(x))
    plain = to_dict(recipe(network(), reshapes=(), graph_laws={}))
    assert not {"reshapes", "scales", "graph_laws"} & set(plain)
    for key, value in (("scales", {"0.weight": -1.0}), ("scales", {"no": 1.0}), ("reshapes", [{"module": "1.act"}])):
        with pytest.raises(UserError, match="damaged"):
            from_dict({**to_dict(given), key: value})


def test_tune_reshapes_a_deep_chain_and_leaves_a_shallow_one() -> None:
    def chain(depth: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [m for _ in range(depth) for m in (nn.Linear(8, 8), nn.Tanh())]
            return nn.Sequential(*layers, nn.Linear(8, 3))

    model = chain(4)
    made = tune(model, batch(), optimizer="adam", draws=2, reshape_activations=True)
    assert len(made.reshapes) == 4
    assert set(made.scales) == {n for n, _ in model.named_parameters()} - {"8.bias"}
    assert "without graph=True" in made.decisions[0].why
    assert from_dict(to_dict(made)) == made
    inside, around = made.apply(copy.deepcopy(model)), made.apply(model, graph=True)
    assert len(installed(around)) == 4
    assert not installed(inside)
    for net in (inside, around):
        assert float(net(batch()).square().mean()) == pytest.approx(1.0, rel=0.9)
    shallow = tune(chain(1), batch(), optimizer="adam", draws=2, reshape_activations=True)
    assert not shallow.reshapes
    assert not shallow.scales
    assert any("no activation is reshaped" in d.why for d in shallow.decisions)


def test_a_network_without_a_graph_is_told_so() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if x.sum().item() > 1e9 else 2 * self.a(x)

    made = tune(Branching(), batch(), draws=2, reshape_activations=True)
    assert "no activation is reshaped, since the network could not be predicted" in made.decisions[-1].why
