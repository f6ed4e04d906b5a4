"""abc-parametrizations: the symmetry is exact over training, and the wide limit is what the theorem and experiments say."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor, nn

from leadline.program import UserError
from leadline.tune import PARAMETRIZATIONS, Exponents, Parametrization, Shift, parametrization, wide_limit

N = 16
OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1.0),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1.0),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1.0),
}


class Multiplied(nn.Module):
    """tanh network whose weights have multipliers n^-a; the test's own, the package never makes one."""

    def __init__(self, layers: tuple[Exponents, ...], draws: list[Tensor]) -> None:
        super().__init__()
        self.multipliers = [N**-e.a for e in layers]
        self.weights = nn.ParameterList(nn.Parameter(N**-e.b * d) for e, d in zip(layers, draws))

    def forward(self, x: Tensor) -> Tensor:
        for i, (m, w) in enumerate(zip(self.multipliers, self.weights)):
            x = (x if i == 0 else x.tanh()) @ (m * w).T
        return x


def trajectory(
    layers: tuple[Exponents, ...], optimizer: str, thetas: tuple[float, ...], eps: bool = True, decay: float = 0.02
) -> Tensor:
    """Outputs after each of six steps, with epsilon and weight decay of layers shifted by thetas."""
    g = torch.Generator().manual_seed(0)
    sizes = [5, *[N] * (len(layers) - 1), 3]
    draws = [torch.randn(b, a, generator=g, dtype=torch.float64) for a, b in itertools.pairwise(sizes)]
    x, y = (torch.randn(7, n, generator=g, dtype=torch.float64) for n in (5, 3))
    model = Multiplied(layers, draws)
    groups = []
    for w, e, theta in zip(model.weights, layers, thetas):
        shift = Shift.of(theta, optimizer)
        group = {"params": [w], "lr": 0.05 * N**-e.c, "weight_decay": decay * N**shift.decay}
        if optimizer.startswith("adam") and eps:
            group["eps"] = 1e-2 * N**shift.eps  # large enough to matter
        elif optimizer.startswith("adam"):
            group["eps"] = 1e-2
        groups.append(group)
    stepper = OPTIMIZERS[optimizer](groups)
    outputs = []
    for _ in range(6):
        stepper.zero_grad()
        out = model(x)
        outputs.append(out.detach())
        (out - y).square().mean().backward()
        stepper.step()
    return torch.stack(outputs)


def layers_of(optimizer: str) -> tuple[Exponents, ...]:
    return parametrization("ntk", optimizer).layers(2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("thetas", [(0.5, 0.5, 0.5), (-0.25, 0.75, 1.0)], ids=str)
def test_a_shift_leaves_training_as_it_is(optimizer: str, thetas: tuple[float, ...]) -> None:
    layers = layers_of(optimizer)
    moved = tuple(e.shifted(t, optimizer) for e, t in zip(layers, thetas))
    one, two = trajectory(layers, optimizer, (0.0,) * 3), trajectory(moved, optimizer, thetas)
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
    assert float((one[-1] - one[0]).abs().max()) > 1e-3  # something was trained


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_other_optimizers_shift_is_refused_by_the_same_test(optimizer: str) -> None:
    other = "adam" if optimizer in ("sgd", "momentum") else "sgd"
    layers = layers_of(optimizer)
    moved = tuple(e.shifted(0.5, other) for e in layers)
    one, two = trajectory(layers, optimizer, (0.0,) * 3), trajectory(moved, optimizer, (0.5,) * 3)
    assert float((one - two).abs().max()) > 1e-3


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_epsilon_must_follow_the_gradient(optimizer: str) -> None:
    layers = layers_of(optimizer)
    moved = tuple(e.shifted(0.5, optimizer) for e in layers)
    one = trajectory(layers, optimizer, (0.0,) * 3)
    assert float((one - trajectory(moved, optimizer, (0.5,) * 3, eps=False)).abs().max()) > 1e-4


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", [n for n in PARAMETRIZATIONS if n != "mean_field"])
def test_folding_leaves_training_as_it_is(name: str, optimizer: str) -> None:
    whole = parametrization(name, optimizer, 2)
    layers, low = whole.layers(2), whole.folded().layers(2)
    assert all(e.a == 0 for e in low)
    one = trajectory(layers, optimizer, (0.0,) * 3)
    torch.testing.assert_close(one, trajectory(low, optimizer, tuple(-e.a for e in layers)), rtol=1e-8, atol=1e-11)


def test_mean_field_and_mup_are_one_for_one_hidden_layer() -> None:
    for optimizer in ("sgd", "adam"):
        one, two = parametrization("mean_field", optimizer, 1), parametrization("mup", optimizer, 1)
        assert one.same_as(two, hidden=1)
        assert not one.same_as(parametrization("ntk", optimizer, 1), hidden=1)
    assert not parametrization("integrable", "sgd", 3).same_as(parametrization("mup", "sgd", 3), hidden=3)


def test_lamb_has_no_parametrization_and_unknown_names_are_told() -> None:
    with pytest.raises(UserError, match="share of each weight"):
        parametrization("mup", "lamb")
    with pytest.raises(UserError, match="there is no parametrization 'mupp'"):
        parametrization("mupp")
    with pytest.raises(UserError, match="there is no optimizer 'adagrad'"):
        parametrization("mup", "adagrad")
    with pytest.raises(UserError, match="one hidden layer and this network has 3"):
        parametrization("mean_field", "sgd", 3)


def theorem(layers: list[Exponents]) -> tuple[str, float]:
    """Yang & Hu's conditions with one rate, written down on their own."""
    low = [e.shifted(e.c / 2, "sgd") for e in layers]
    a, b, L = [e.a for e in low], [e.b for e in low], len(low) - 1
    r = min(a[L] + b[L], 2 * a[L]) - 1 + min(2 * a[i] + (i == 0) for i in range(L))
    inner = a[0] + b[0] == 0 and all(a[i] + b[i] == 0.5 for i in range(1, L)) and a[L] + b[L] >= 0.5
    if not (inner and r >= 0 and 2 * a[L] >= 1 and a[L] + b[L] + r >= 1):
        return "unstable", r
    if a[L] + b[L] + r != 1 and 2 * a[L] != 1:
        return "trivial", r
    return ("feature learning" if r == 0 else "kernel"), r


def test_following_the_powers_finds_what_the_theorem_says() -> None:
    rng = random.Random(0)
    seen: dict[str, int] = {}
    for _ in range(6000):
        L = rng.choice((1, 2, 3))
        layers = []
        for i in range(L + 1):
            a, size = rng.randint(-4, 4) / 4, 0.0 if i == 0 else 0.5 if i < L else rng.choice((0.5, 0.75, 1.0, 1.25))
            layers.append(Exponents(a, size - a, rng.randint(-4, 8) / 4))
        regime, r = theorem(layers)
        found = wide_limit(layers)
        assert found.regime == regime, layers
        if regime in ("kernel", "feature learning"):
            assert found.r == pytest.approx(r), layers
        seen[regime] = seen.get(regime, 0) + 1
    assert min(seen.get(k, 0) for k in ("unstable", "trivial", "kernel", "feature learning")) >= 20, seen


def test_the_table() -> None:
    def regime(name: str, hidden: int, optimizer: str = "sgd") -> str:
        return wide_limit(parametrization(name, optimizer, hidden), hidden=hidden).regime

    assert [regime("standard", h) for h in (1, 2)] == ["unstable"] * 2
    assert [regime("ntk", h) for h in (1, 2, 4)] == ["kernel"] * 3
    assert [regime("mup", h) for h in (1, 2, 4)] == ["feature learning"] * 3
    assert regime("mean_field", 1) == "feature learning"
    assert [regime("integrable", h) for h in (1, 2, 3, 4)] == ["feature learning"] * 2 + ["trivial"] * 2
    assert [regime(n, 2, "adam") for n in ("standard", "ntk", "mup")] == ["unstable", "kernel", "feature learning"]
    lazy = wide_limit([Exponents(0, 0, 1), Exponents(0, 0.5, 1), Exponents(0, 0.5, 1)])
    assert (lazy.regime, lazy.r) == ("kernel", 0.5)  # the standard one at a rate of 1/n


def test_the_family_between_kernel_and_mean_field() -> None:
    for t in (0.5, 0.6, 0.75, 1.0):
        found = wide_limit([Exponents(0, 0, 1 - 2 * t), Exponents(t, 0, 1 - 2 * t)])
        assert found.r == pytest.approx(1 - t)
        assert found.regime == ("feature learning" if t == 1 else "kernel")


def test_the_verdict_names_the_layer() -> None:
    found = wide_limit(parametrization("standard"), hidden=2)
    assert "layer 2 (hidden) diverge" in found.reason
    powers = [(found.layers[i].update, found.layers[i].moved) for i in range(3)]
    assert powers == [(0.5, 0.5), (-0.5, -0.5), (-1.0, -1.5)]
    assert "start at n^-0.5" in wide_limit(parametrization("integrable", hidden=3), hidden=3).reason
    assert found.layers[0].verdict == "vanishes as n^-0.5"
    with pytest.raises(ValueError, match="an input and an output"):
        wide_limit([Exponents(0, 0, 0)])


def values(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    """What each layer of a tanh network gives out."""
    out: list[Tensor] = []
    for layer in net:
        out.append(layer(out[-1].tanh() if out else x))
    return out


def measured_powers(layers: tuple[Exponents, ...], optimizer: str, steps: int) -> list[tuple[float, float]]:
    """Log-log slope of the change of each layer's values over widths, with its standard error over seeds; MLP of tanh."""
    widths, seeds, hidden = (64, 128, 256, 512), 4, len(layers) - 1
    logs = torch.zeros(seeds, len(widths), len(layers), dtype=torch.float64)
    for s in range(seeds):
        g = torch.Generator().manual_seed(s)
        x = nn.functional.normalize(torch.randn(8, 6, generator=g, dtype=torch.float64), dim=1) * 6**0.5
        y = torch.randn(8, 1, generator=g, dtype=torch.float64)
        for k, n in enumerate(widths):
            sizes = [6, *[n] * hidden, 1]
            model = nn.Sequential(
                *(nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in itertools.pairwise(sizes))
            )
            for layer, e in zip(model, layers):
                scale = 6**-0.5 if layer is model[0] else 1.0
                layer.weight.data = torch.randn(layer.weight.shape, generator=g, dtype=torch.float64) * scale * n**-e.b

            groups = [{"params": [m.weight], "lr": 0.02 * n**-e.c} for m, e in zip(model, layers)]
            stepper = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](groups, lr=1.0)
            before = [v.detach() for v in values(model, x)]
            for _ in range(steps):
                stepper.zero_grad()
                (values(model, x)[-1] - y).square().mean().backward()
                stepper.step()
            logs[s, k] = torch.stack(
                [(a - b).detach().square().mean().log() / 2 for a, b in zip(values(model, x), before)]
            )
    t = torch.tensor(widths, dtype=torch.float64).log()
    t = t - t.mean()
    each = (logs * t[:, None]).sum(1) / t.square().sum()
    return [(float(e.mean()), float(e.std()) / seeds**0.5) for e in each.unbind(1)]


def agrees(chosen: Parametrization, hidden: int, steps: int, prediction: Parametrization | None = None) -> bool:
    """Whether measured slopes are the predicted powers within 0.1 and three standard errors.

    What comes after the first layer that diverges need only grow: its power holds where the nonlinearity has no bound.
    """
    found = wide_limit(prediction or chosen, hidden=hidden, steps=steps)
    slopes = measured_powers(chosen.folded().layers(hidden), chosen.optimizer, steps)
    broken = False
    for (slope, error), layer in zip(slopes, found.layers):
        margin = 0.1 + 3 * error
        if slope < margin if broken else abs(slope + layer.moved) > margin:
            return False
        broken = broken or layer.moved < 0
    return True


@pytest.mark.parametrize(
    ("name", "optimizer", "hidden", "steps"),
    [("standard", "sgd", 2, 1), ("ntk", "sgd", 2, 3), ("mup", "sgd", 2, 3), ("mean_field", "sgd", 1, 3),
     ("mup", "adam", 2, 3), ("ntk", "adam", 2, 3), ("standard", "adam", 2, 1)],
)  # fmt: skip
def test_networks_move_as_the_wide_limit_says(name: str, optimizer: str, hidden: int, steps: int) -> None:
    assert agrees(parametrization(name, optimizer, hidden), hidden, steps)


def test_another_parametrizations_powers_are_refused_by_the_same_test() -> None:
    assert not agrees(parametrization("ntk"), 2, 3, prediction=parametrization("mup"))
    assert not agrees(parametrization("mup", "adam"), 2, 3, prediction=parametrization("ntk", "adam"))
