"""The coordinate check against what is known of the limits, its verdicts, and the first step of the integrable one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from leadline.program import UserError
from leadline.tune import CoordinateCheck, coordinate_check, first_step, parametrization
from leadline.tune.param_coordinate import Slope

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(16, 10, generator=G), torch.randint(0, 3, (16,), generator=G)
WIDTHS = (32, 64, 128, 256)


def build(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3))


@pytest.fixture(scope="module")
def found() -> dict[str, CoordinateCheck]:
    given = {"targets": Y, "seeds": 3, "steps": 3}
    return {
        "mup": coordinate_check(build, WIDTHS, X, parametrization="mup", optimizer="adam", lr=3e-3, **given),
        "ntk": coordinate_check(build, WIDTHS, X, parametrization="ntk", optimizer="sgd", lr=0.1, **given),
        "as built": coordinate_check(build, WIDTHS, X, optimizer="adam", lr=3e-3, **given),
    }


def test_slopes_are_those_of_the_limits(found: dict[str, CoordinateCheck]) -> None:
    for name, powers in (("mup", (0.0, 0.0, 0.0)), ("ntk", (-0.5, -0.5, 0.0))):
        for slope, power in zip(found[name].slopes.values(), powers):
            assert abs(slope.value - power) <= 0.1 + 3 * slope.error, name
    start = found["mup"].size_slopes
    assert abs(start["4"].value + 0.5) <= 0.1 + 3 * start["4"].error  # the output begins at n^-1/2
    # the control: one rate for all moves the second layer as n^1, less what tanh cuts off
    assert found["as built"].slopes["2"].value > 0.5


def test_verdicts(found: dict[str, CoordinateCheck]) -> None:
    assert found["mup"].ok
    assert found["mup"].verdict.startswith("feature learning")
    assert found["ntk"].verdict.startswith("kernel regime")
    assert found["as built"].verdict.startswith("unstable: updates grow with the width, fastest in '4'")
    assert "slope of the change" in str(found["mup"])


def _made(powers: tuple[float, ...], widths: tuple[int, ...] = WIDTHS) -> CoordinateCheck:
    n = torch.tensor(widths, dtype=torch.float64)
    updates = torch.stack([n**p for p in powers], -1)[:, None].repeat(1, 3, 1)
    names = tuple(f"layer {i}" for i in range(len(powers)))
    return CoordinateCheck(widths, names, torch.ones_like(updates), updates, 1, "made up")


def test_verdicts_of_given_powers() -> None:
    assert _made((0.0, 0.0, -0.3)).verdict.startswith("trivial")
    assert _made((0.0, -0.5, 0.0)).verdict.startswith("uneven: the updates of 1 of 2 hidden layers fade")
    assert _made((0.0, 0.2, 0.0)).verdict.startswith("unstable")
    assert _made((-0.05, 0.05, 0.0)).ok
    assert _made((0.0, math.nan, 0.0)).verdict.startswith("training diverges")
    assert _made((0.7,)).slopes["layer 0"].value == pytest.approx(0.7)
    assert Slope(0.3, 0.05).sign == 1
    assert Slope(0.3, 0.15).sign == 0


def test_the_picture(found: dict[str, CoordinateCheck]) -> None:
    pytest.importorskip("matplotlib")
    figure = found["mup"].plot()
    axes = figure.axes[0]
    assert len(axes.containers) == 3
    low, high = axes.get_ylim()
    assert high / low >= 10


def test_random_numbers_of_the_caller_stay_where_they_are() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = coordinate_check(build, (8, 16), X, targets=Y, seeds=2, steps=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.updates, coordinate_check(build, (8, 16), X, targets=Y, seeds=2, steps=1).updates)


@pytest.mark.parametrize(
    ("widths", "more", "message"),
    [
        ((8,), {}, "expected two or more that rise"),
        ((16, 8), {}, "expected two or more that rise"),
        ((8, 16), {"seeds": 1}, "errors come from seeds"),
        ((8, 16), {"optimizer": "lion"}, "there is no optimizer 'lion' here"),
    ],
)
def test_what_cannot_be_checked(widths: tuple[int, ...], more: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        coordinate_check(build, widths, X, targets=Y, **more)


def test_layers_must_be_the_same() -> None:
    def deeper(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(10, width), *(nn.Linear(width, width) for _ in range(width // 8)), nn.Linear(width, 3)
        )

    with pytest.raises(UserError, match="let the width alone change"):
        coordinate_check(deeper, (8, 16), X, targets=Y, seeds=2, steps=1)


def integrable(width: int, seed: int, hidden: int = 4, act: type[nn.Module] = nn.GELU) -> nn.Module:
    """Weights of size 1/n from the second layer on."""
    g = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(hidden):
        layers += [nn.Linear(width if i else 10, width), act()]
    model = nn.Sequential(*layers, nn.Linear(width, 3)).double()
    for i, layer in enumerate(m for m in model if isinstance(m, nn.Linear)):
        size = 10**-0.5 if i == 0 else 1 / width
        layer.weight.data = size * torch.randn(layer.weight.shape, generator=g, dtype=torch.float64)
        layer.bias.data.zero_()
    return model


def sizes(model: nn.Module, x: Tensor) -> list[float]:
    out = []
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            out.append(float(x.detach().square().mean().sqrt()))
    return out


def test_the_first_step_moves_every_layer_by_order_one() -> None:
    model = integrable(64, 0)
    assert sizes(model, X.double())[3] < 1e-2
    before = [m.weight.detach().clone() for m in model if isinstance(m, nn.Linear)]
    rates = first_step(model, X.double(), targets=Y)
    h, moved = X.double(), []
    for layer in model:
        if isinstance(layer, nn.Linear):
            change = h @ (layer.weight.detach() - before[len(moved)]).T
            moved.append(float(change.square().mean().sqrt()))
        h = layer(h).detach()
    assert moved == pytest.approx([1.0] * 4 + [0.1], rel=1e-9)
    assert min(sizes(model, X.double())[:4]) > 0.8
    assert list(rates) == [f"{i}.weight" for i in (0, 2, 4, 6, 8)]


def rate_powers(act: type[nn.Module], hidden: int) -> tuple[Tensor, Tensor]:
    """Log-log slopes of the first step's rates over widths, and their standard errors over seeds."""
    widths, seeds = (64, 128, 256, 512), 4
    logs = torch.tensor(
        [[[math.log(r) for r in first_step(integrable(n, s, hidden, act), X.double(), targets=Y).values()]
          for n in widths] for s in range(seeds)]
    )  # fmt: skip
    t = torch.tensor(widths).log()
    t = t - t.mean()
    each = (logs * t[:, None]).sum(1) / t.square().sum()
    return each.mean(0), each.std(0) / seeds**0.5


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [3, 4])
def test_the_first_steps_rates_grow_with_the_width_as_derived(hidden: int) -> None:
    chosen = parametrization("integrable", hidden=hidden).folded()
    powers = -torch.tensor([chosen.first[0], *[chosen.first[1]] * (hidden - 1), chosen.first[2]])
    L = hidden  # multipliers of 1/n from the second layer on fold away two powers
    assert powers.tolist() == [(L + 1) / 2, *[(L + 2) / 2 - 2] * (L - 1), (L + 1) / 2 - 2]
    slopes, errors = rate_powers(nn.ReLU, hidden)
    assert bool(((slopes - powers).abs() <= 0.1 + 3 * errors).all()), slopes
    # the controls: the rates of every later step, and a nonlinearity without a mean near zero
    steady = -torch.tensor([chosen.input.c, *[chosen.hidden.c] * (hidden - 1), chosen.output.c])
    assert not bool(((slopes - steady).abs() <= 0.1 + 3 * errors).all())
    slopes, errors = rate_powers(nn.Tanh, hidden)
    more = powers + torch.tensor([0.0, 0.0, *[0.5] * (hidden - 1)])
    assert bool(((slopes - more).abs() <= 0.1 + 3 * errors).all()), slopes
    assert not bool(((slopes - powers).abs() <= 0.1 + 3 * errors).all())


@pytest.mark.slow
def test_the_integrable_one_trains_after_its_first_step_and_not_without() -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.data)
    x, y = (x - x.mean(0)) / x.std(), torch.tensor(data.target)
    hidden, width = 4, 256
    chosen = parametrization("integrable", hidden=hidden).folded()
    accuracy, loss = {}, {}
    for large in (True, False):
        g = torch.Generator().manual_seed(0)
        layers: list[nn.Module] = []
        for i in range(hidden):
            layers += [nn.Linear(width if i else 64, width, bias=False), nn.Tanh()]
        model = nn.Sequential(*layers, nn.Linear(width, 10, bias=False)).double()
        matrices = [m.weight for m in model if isinstance(m, nn.Linear)]
        for i, w in enumerate(matrices):
            w.data = torch.randn(w.shape, generator=g, dtype=torch.float64) * (64**-0.5 if i == 0 else 1 / width)
        if large:
            first_step(model, x[:256], targets=y[:256])
        rates = [0.1 * width**-e.c for e in chosen.layers(hidden)]
        stepper = torch.optim.SGD([{"params": [w], "lr": r} for w, r in zip(matrices, rates)])
        for _ in range(60):
            stepper.zero_grad()
            index = torch.randint(0, 1200, (256,), generator=g)
            nn.functional.cross_entropy(model(x[index]), y[index]).backward()
            stepper.step()
        out = model(x[1200:]).detach()
        accuracy[large] = float((out.argmax(-1) == y[1200:]).double().mean())
        loss[large] = float(nn.functional.cross_entropy(out, y[1200:]))
    assert accuracy[True] > 0.8, accuracy
    assert abs(loss[False] - math.log(10)) < 1e-3, loss  # it stands where it stood


def test_what_the_first_step_refuses() -> None:
    with pytest.raises(UserError, match="expected positive numbers"):
        first_step(integrable(8, 0), X.double(), targets=Y, size=0.0)
    dead = integrable(8, 0)
    dead[2].weight.data.zero_()
    with pytest.raises(UserError, match=r"vanishes, expected one that does not|may be zero"):
        first_step(dead, X.double(), targets=Y)
    shared = nn.Linear(10, 10)
    with pytest.raises(UserError, match="runs more than once"):
        first_step(nn.Sequential(shared, nn.Tanh(), shared), X, targets=Y)
