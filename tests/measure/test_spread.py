"""The predicted seed-to-seed spread of every row against ensembles, reference values and real modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import nn

from leadline.measure.ensemble import EnsembleMoments, chain_from, chain_inputs, ensemble
from leadline.measure.entry_moments import EntrySums
from leadline.program import Program, trace
from leadline.rules.elementwise import Elementwise
from leadline.rules.state import Noise
from leadline.theory import Prediction, predict
from measure.drawn import Pointwise

NETWORKS = 20_000
TOLERANCE = 0.10


ACTIVATIONS = {
    "relu": torch.relu, "tanh": torch.tanh, "gelu": nn.functional.gelu,
    "silu": nn.functional.silu, "erf": torch.erf, "sin": torch.sin,
}  # fmt: skip
# Critical (C_b, C_W), and growth nu of the spread with depth over width there.
CRITICAL = {
    "relu": (0.0, 2.0, 5.0),
    "tanh": (0.0, 1.0, 2 / 3),
    "gelu": (0.17292239, 1.98305826, 4.904226),
    "silu": (0.55514317, 1.98800468, 4.923187),
    "erf": (0.0, math.pi / 4, 2 / 3),
    "sin": (0.0, 1.0, 2 / 3),
}


def law(activation: str, phase: str) -> tuple[float, float]:
    C_b, C_W, _ = CRITICAL[activation]
    return {"critical": (C_b, C_W), "ordered": (0.1, 0.8 * C_W), "chaotic": (0.05, 1.3 * C_W)}[phase]


def gaussian_linear(n_in: int, n: int) -> nn.Linear:
    """A layer whose kind of law is read as Gaussian; its strength is stated."""
    layer = nn.Linear(n_in, n, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def mlp(widths: Sequence[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n in pairwise(widths):
        layers += [gaussian_linear(n_in, n), Pointwise(ACTIVATIONS[activation])]
    return nn.Sequential(*layers[:-1])


def program(widths: Sequence[int], activation: str, C_b, C_W, x: torch.Tensor) -> Program:
    depth = len(widths) - 1
    C_b, C_W = ([v] * depth if isinstance(v, float) else v for v in (C_b, C_W))
    stated = {str(2 * i): {"C_b": C_b[i], "C_W": C_W[i]} for i in range(depth)}
    return trace(mlp(widths, activation), x, law=stated)


def two_inputs(n_0: int = 8) -> torch.Tensor:
    return torch.randn(2, n_0, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def shaped(activation: str, scale: float, shape: Sequence[float]) -> list[int]:
    """Widths in the proportions of ``shape`` at which nu times the sum of 1/n is just below ``scale``."""
    factor = CRITICAL[activation][2] * sum(1 / s for s in shape) / scale
    return [8, *(math.ceil(factor * s) for s in shape), 2]


EQUAL = (1.0,) * 5
UNEQUAL = (1.6, 0.7, 1.3, 0.8, 0.9)
SHORT = (1.6, 0.7, 1.1)


@dataclass
class Compared:
    """Rows of one network: predicted over measured, and the error of that."""

    steps: list[str]
    ratio: list[float]
    error: list[float]

    @property
    def worst(self) -> float:
        return max(abs(r - 1) for r in self.ratio)


def compare(prediction: Prediction, found: EnsembleMoments) -> Compared:
    out = Compared([], [], [])
    for row in prediction.rows[1:]:  # the first layer's scale does not vary
        measured = found.step(row.step).mean_spread
        out.steps.append(row.step)
        out.ratio.append(row.values["spread"].value / measured.value)
        out.error.append(measured.error / measured.value)
    return out


def without_last_sampling(monkeypatch: pytest.MonkeyPatch, hidden: int) -> None:
    """Leave out, in the last activation only, what its own finite number of channels adds."""
    right, calls = Elementwise._noise, []

    def wrong(self, state, ctx):
        noise = right(self, state, ctx)
        calls.append(1)
        return Noise(dict(list(noise.parts.items())[:-1]), sampled=True) if len(calls) == hidden else noise

    monkeypatch.setattr(Elementwise, "_noise", wrong)


@pytest.mark.parametrize("phase", ["critical", "ordered", "chaotic"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_spread_and_kernel_of_every_row(activation, phase, monkeypatch):
    C_b, C_W = law(activation, phase)
    widths = shaped(activation, min(0.1, 0.05 * CRITICAL[activation][2]), SHORT)
    net = program(widths, activation, C_b, C_W, two_inputs())
    found = ensemble(chain_from(net)[0], chain_inputs(net), NETWORKS, seed=0)
    prediction = predict(net)
    compared = compare(prediction, found)
    assert len(compared.ratio) == 2 * len(SHORT)
    assert compared.worst < TOLERANCE, compared
    assert max(compared.error) < 0.02  # the ensemble resolves what is asked of it
    assert kernel_excess(prediction, found) <= 1
    # negative controls, which the same two comparisons reject
    assert kernel_excess(predict(program(widths, activation, C_b, 1.05 * C_W, two_inputs())), found) > 1
    without_last_sampling(monkeypatch, len(SHORT))
    assert compare(predict(net), found).worst > TOLERANCE


def kernel_excess(prediction: Prediction, found: EnsembleMoments) -> float:
    """Largest error of a row's kernel, in units of 3 % or of 4 standard errors where these are more."""
    worst = 0.0
    for row in prediction.rows:
        entries = found.step(row.step)
        K, errors = entries.mean.diagonal(), entries.mean_error.diagonal()
        allowed = max(0.03 * float(K.mean()), 4 * float(errors.mean()))
        worst = max(worst, abs(row.values["kernel"].value - float(K.mean())) / allowed)
    return worst


PHASES = [(a, p) for a in ACTIVATIONS for p in ("critical", "ordered", "chaotic")]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize(("activation", "phase"), PHASES)
def test_spread_where_the_first_order_in_one_over_width_ends(activation, phase, shape):
    widths = shaped(activation, 0.2, shape)
    net = program(widths, activation, *law(activation, phase), two_inputs())
    found = ensemble(chain_from(net)[0], chain_inputs(net), NETWORKS, seed=0)
    compared = compare(predict(net), found)
    assert compared.worst < TOLERANCE, compared


@pytest.mark.parametrize(("activation", "C_W", "nu"), [("relu", 2.0, 5.0), ("relu", 1.4, 5.0)])
def test_bias_free_relu_is_the_exact_product(activation, C_W, nu):
    widths = [8, 30, 77, 12, 40, 3]
    prediction = predict(program(widths, activation, 0.0, C_W, two_inputs()))
    growth = [1 + nu / n for n in widths[1:-1]]
    expected = [0.0, *(math.prod(growth[: i // 2 + 1]) - 1 for i in range(8))]
    assert [r.values["spread"].value for r in prediction.rows] == pytest.approx(expected, rel=1e-9)


def test_linear_layers_without_activation_are_the_exact_product():
    widths = [8, 30, 77, 12, 3]
    model = nn.Sequential(*(gaussian_linear(a, b) for a, b in pairwise(widths)))
    for layer in model:
        layer.bias = None
    prediction = predict(trace(model, two_inputs(), law={str(i): {"C_W": 1.3} for i in range(4)}))
    expected = [math.prod(1 + 2 / n for n in widths[1 : i + 1]) - 1 for i in range(4)]
    assert [r.values["spread"].value for r in prediction.rows] == pytest.approx(expected, rel=1e-6)


LAYERS = ((0.1, 0.2, 0.05, 0.1), (1.2, 1.4, 1.1, 1.3))
REFERENCE = [
    ("tanh", [4, 12, 18, 12, 2], 0.42013500, 0.11371388, -0.043996439),
    ("gelu", [4, 16, 24, 16, 2], 0.27487603, 0.47814167, 0.16708364),
]


def one_input() -> torch.Tensor:
    x = torch.tensor([[0.7, -0.4, 1.1, 0.9]], dtype=torch.float64)
    return x * (0.6675 * 4 / x.square().sum()).sqrt()


def coefficients(
    widths: Sequence[int], activation: str, C_b, C_W, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """V and G1 of the last layer by input: n times variance and shift, extrapolated from two scales of the widths."""
    found = []
    for factor in (20, 40):
        scaled = [widths[0], *(factor * n for n in widths[1:-1]), widths[-1]]
        net = program(scaled, activation, C_b, C_W, x)
        noise = predict(net).context.values[net.steps[-1].name].noise
        variance, shift = noise.variance(), noise.shift
        found.append(scaled[-2] * torch.stack([variance, torch.zeros_like(variance) if shift is None else shift]))
    return tuple(2 * found[1] - found[0])


@pytest.mark.parametrize(("activation", "widths", "K", "V", "G1"), REFERENCE)
def test_one_input_reference_values(activation, widths, K, V, G1):
    last = predict(program(widths, activation, *LAYERS, one_input())).rows[-1]
    assert last.values["kernel"].value == pytest.approx(K, abs=1e-8)
    vertex, shift = coefficients(widths, activation, *LAYERS, one_input())
    assert float(vertex) == pytest.approx(V, rel=1e-3)
    assert float(shift) == pytest.approx(G1, rel=2e-3)
    # negative control: widths in another order have another vertex
    swapped = [widths[0], widths[2], widths[1], *widths[3:]]
    assert float(coefficients(swapped, activation, *LAYERS, one_input())[0]) != pytest.approx(V, rel=1e-2)


GRAM = torch.tensor([[1.0, 0.4], [0.4, 0.6]], dtype=torch.float64)
TANH_V = [
    [0.2014472, 0.1548345, 0.0778899],
    [0.1548345, 0.3423917, 0.1552841],
    [0.0778899, 0.1552841, 0.1986484],
]
RELU_V = [[80.0, 60.91955, 54.06540], [60.91955, 67.34536, 91.37933], [54.06540, 91.37933, 180.0]]
TWO_INPUTS = [
    ("tanh", 0.1, 1.5, GRAM, (0.54365096, 0.39276721, 0.53526565), TANH_V),
    ("relu", 0.0, 2.0, torch.tensor([[1.0, 0.5], [0.5, 1.5]]).double(), (2.0, 1.8515645, 3.0), RELU_V),
]


@pytest.mark.parametrize(("activation", "C_b", "C_W", "gram", "K", "V"), TWO_INPUTS)
def test_two_input_reference_values(activation, C_b, C_W, gram, K, V):
    x = torch.linalg.cholesky(gram) * 2**0.5
    V = torch.tensor(V, dtype=torch.float64)
    n = 400
    net = program([2, n, n, n, n, 2], activation, C_b, C_W, x)
    predicted = coefficients([2, 20, 20, 20, 20, 2], activation, C_b, C_W, x)[0]
    assert torch.allclose(predicted, V.diagonal()[[0, 2]], rtol=1e-3)
    last = ensemble(chain_from(net)[0], x, NETWORKS // 2, seed=0).layers[-1].kernel
    assert torch.allclose(last.mean[[0, 0, 1], [0, 1, 1]], torch.tensor(K).double(), rtol=0.005)
    allowed = 3.5 * last.vertex_error + 0.02 * V  # the next order in 1/n
    assert bool(((last.vertex - V).abs() < allowed).all())
    assert not bool(((last.vertex.flip(0) - V).abs() < allowed).all())  # negative control: pairs in another order


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "widths", "K", "V", "G1"), REFERENCE)
def test_reference_coefficients_are_the_limit_of_ensembles(activation, widths, K, V, G1):
    """n (E G - K) and n Var G at two widths, extrapolated to leave the first order."""
    shift, vertex, errors = [], [], []
    for factor in (2, 4):
        scaled = [widths[0], *(factor * n for n in widths[1:-1]), widths[-1]]
        net = program(scaled, activation, *LAYERS, one_input())
        last = ensemble(chain_from(net)[0], one_input(), 300_000, seed=factor).layers[-1].kernel
        shift.append(last.width * (float(last.mean) - K))
        vertex.append(float(last.vertex))
        errors.append((last.width * float(last.mean_error), float(last.vertex_error)))
    se = [math.hypot(2 * errors[1][i], errors[0][i]) for i in (0, 1)]
    assert abs(2 * shift[1] - shift[0] - G1) < 4 * se[0]
    assert abs(2 * vertex[1] - vertex[0] - V) < 4 * se[1]
    assert abs(G1) > 4 * se[0]  # that it is not zero is resolved


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_real_modules_agree(activation):
    """200 networks with weights, drawn and run by torch, against the ensemble and the prediction."""
    widths = shaped(activation, 0.15, UNEQUAL)
    C_b, C_W = law(activation, "critical")
    C_b = max(C_b, 0.05)
    x = two_inputs()
    net = program(widths, activation, C_b, C_W, x)
    sums = {}
    generator = torch.Generator().manual_seed(11)
    model = mlp(widths, activation)
    for _ in range(200):
        h = x
        for i, layer in enumerate(model):
            with torch.no_grad():
                if isinstance(layer, nn.Linear):
                    layer.weight.normal_(0, (C_W / layer.in_features) ** 0.5, generator=generator)
                    layer.bias.normal_(0, C_b**0.5, generator=generator)
                h = layer(h)
            if not isinstance(layer, nn.Linear):
                sums.setdefault(i, EntrySums(2, h.shape[1])).add((h @ h.T / h.shape[1])[None])
    found = ensemble(chain_from(net)[0], x, NETWORKS, seed=0)
    prediction = predict(net)
    rows = [r for r in prediction.rows if r.op == "pointwise"]
    assert len(rows) == len(sums) == len(UNEQUAL)
    for row, drawn in zip(rows, sums.values()):
        moments, exact = drawn.moments(), found.step(row.step)
        assert bool(((moments.mean - exact.mean).abs() < 4 * moments.mean_error).all())
        measured = moments.mean_spread
        assert abs(measured.value - exact.mean_spread.value) < 4 * measured.error
        assert abs(measured.value - row.values["spread"].value) < 4 * measured.error + 0.1 * measured.value
        assert measured.value > 4 * measured.error  # 0 is rejected
