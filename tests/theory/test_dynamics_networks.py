"""Closed forms of training against real networks: means and variances over initializations, and what rules change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from leadline.theory.dynamics import (
    GradientDescent,
    Momentum,
    Newton,
    TrainedEnsemble,
    linearized_training,
)
from leadline.theory.flow import Layers, kernel_matrices
from leadline.theory.tangent import tangent_matrices
from theory.trained_networks import Networks, train

X = torch.tensor([[1.0, -0.5, 0.3, 0.8], [-0.2, 0.9, 0.6, 0.3], [0.5, 0.4, -0.7, 0.3]], dtype=torch.float64)
Y = torch.tensor([0.9, -0.6], dtype=torch.float64)
M, CHUNK, RATE = len(Y), 20, 0.35
TENSOR = {"lambda_b": [0.02, 0.05, 0.4], "lambda_W": [0.1, 1.0, 2.0]}  # layer by layer, as Adam would rescale them


def layers(n: int, **rates) -> Layers:
    rates = {"lambda_b": 0.1, "lambda_W": 1.2, **rates}
    return Layers.of("tanh", widths=[4, n, n, 1], C_b=0.1, C_W=1.2, **rates)


def theory(steps: tuple[float, ...], rule, law: Layers | None = None, **rates) -> TrainedEnsemble:
    law = law or layers(8, **rates)
    K = kernel_matrices(law, X)[-1]
    return linearized_training(K, tangent_matrices(law, X)[-1], Y, steps, rule)


def trained(
    n: int, pairs: int, steps: tuple[int, ...], rate: float, rates=None, seed: int = 0, make=layers, **how
) -> Tensor:
    """Outputs of antithetic pairs of networks, (T, 2, pairs, m)."""
    law = make(n, **(rates or {}))
    found = [
        train(Networks(law, CHUNK, seed + 10_000 * n + i, antithetic=True), X, Y, steps, rate, **how).reshape(
            len(steps), 2, CHUNK // 2, -1
        )
        for i in range(2 * pairs // CHUNK)
    ]
    return torch.cat(found, dim=2)


def moments(n: int, pairs: int, *args, **how) -> list[tuple[Tensor, Tensor]]:
    """(mean, standard error) of the outputs and of their squares, pairs taken together."""
    outputs = trained(n, pairs, *args, **how)
    return [(v.mean(1).mean(1), v.mean(1).std(1) / pairs**0.5) for v in (outputs, outputs**2)]


def extrapolated(small: int, pairs: tuple[int, int], *args, **how) -> list[tuple[Tensor, Tensor]]:
    """Mean and second moment at infinite width, from widths n and 2n, with standard errors."""
    one, two = moments(small, pairs[0], *args, **how), moments(2 * small, pairs[1], *args, **how)
    return [(2 * b - a, (4 * db**2 + da**2).sqrt()) for (a, da), (b, db) in zip(one, two)]


def worst(found: list[tuple[Tensor, Tensor]], expected: TrainedEnsemble) -> float:
    """Largest |z| of means and second moments."""
    mean = expected.mean[..., 0]
    second = mean**2 + expected.covariance.diagonal(dim1=1, dim2=2)
    return max(float(((v - w) / e).abs().max()) for (v, e), w in zip(found, (mean, second)))


def without_response(expected: TrainedEnsemble) -> TrainedEnsemble:
    """The same means with the variance of the initialization."""
    K = kernel_matrices(layers(8), X)[-1]
    return TrainedEnsemble(expected.times, expected.mean, K.expand_as(expected.covariance), expected.response)


def test_mean_and_variance_of_trained_networks() -> None:
    steps = (2, 8)
    found = extrapolated(48, (400, 600), steps, RATE)
    expected = theory(steps, GradientDescent(RATE))
    assert worst(found, expected) < 4
    # negative controls: another learning-rate tensor, another rate, an untrained variance
    assert worst(found, theory(steps, GradientDescent(RATE), **TENSOR)) > 10
    assert worst(found, theory(steps, GradientDescent(1.1 * RATE))) > 6
    assert worst(found, without_response(expected)) > 10


def _whitened() -> Tensor:
    return torch.linalg.inv(tangent_matrices(layers(8), X)[-1][:M, :M])


RULES = {
    "descent": lambda: (GradientDescent(RATE), {}, {}),
    "momentum": lambda: (Momentum(RATE / 2, 0.5), {"decay": 0.5}, {}),
    "newton": lambda: (Newton(0.3), {"whiten": _whitened()}, {}),
    "tensor": lambda: (GradientDescent(RATE), {}, TENSOR),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_every_rule_and_tensor_moves_real_networks_as_predicted(name: str) -> None:
    steps = (3, 20)
    rule, how, rates = RULES[name]()
    seed = 10**7 * (1 + list(RULES).index(name))
    found = extrapolated(64, (800, 1200), steps, rule.rate, rates, seed=seed, **how)
    assert worst(found, theory(steps, rule, **rates)) < 4
    # negative control: the prediction of another rule
    other = RULES["momentum" if name == "descent" else "descent"]()[0]
    assert worst(found, theory(steps, other)) > 10


PHASES = {
    "tanh ordered": ("tanh", 0.5, 0.05),
    "tanh chaotic": ("tanh", 2.2, 0.05),
    "relu critical": ("relu", 2.0, 0.0),
    "relu ordered": ("relu", 1.2, 0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_networks_of_every_phase_follow(phase: str) -> None:
    """Four layers, steps before the slowest mode is done: its late times have corrections in t^2/n."""
    name, C_W, C_b = PHASES[phase]

    def make(n: int) -> Layers:
        return Layers.of(name, widths=[4, n, n, n, 1], C_b=C_b, C_W=C_W, lambda_b=0.1)

    rate = 0.8 / float(torch.linalg.eigvalsh(tangent_matrices(make(8), X)[-1][:M, :M])[-1])
    steps = (1, 4)
    found = extrapolated(64, (600, 900), steps, rate, make=make)
    assert worst(found, theory(steps, GradientDescent(rate), make(8))) < 4
    # negative controls: the phase at C_W 15 % higher, and the variance before training
    other = Layers.of(name, depth=4, C_b=C_b, C_W=1.15 * C_W, lambda_b=0.1)
    assert worst(found, theory(steps, GradientDescent(rate), other)) > 6
    still = theory((0, 0), GradientDescent(rate), make(8))
    assert worst(found, still) > 6


def ends(n: int, pairs: int) -> dict[str, Tensor]:
    """Test output of the same networks at the end of training by each rule."""
    found = {}
    for name, make in RULES.items():
        rule, how, rates = make()
        steps = (80,) if name == "tensor" else (45,)
        found[name] = trained(n, pairs, steps, rule.rate, rates, **how)[0, :, :, M].flatten()
    return found


@pytest.mark.slow
def test_rules_end_at_one_function_of_the_initialization_and_a_changed_tensor_at_another() -> None:
    """Network by network: what rules change falls as 1/n, what a tensor changes stays."""

    def distances(n: int, pairs: int) -> dict[str, float]:
        at = ends(n, pairs)
        return {k: float((at[k] - at["descent"]).square().mean().sqrt()) for k in RULES if k != "descent"}

    narrow, wide = distances(32, 200), distances(128, 100)
    for name in ("momentum", "newton"):
        assert narrow[name] / wide[name] == pytest.approx(4, rel=0.4)
        assert wide[name] < 0.01
    assert wide["tensor"] > 0.05
    assert narrow["tensor"] / wide["tensor"] < 1.5
    # the size of what the tensor changes is predicted too: difference of two linear maps of the same z at start
    K = kernel_matrices(layers(8), X)[-1]
    maps = []
    for rates in ({}, TENSOR):
        response = theory((math.inf,), None, **rates).response[0, M]
        maps.append(torch.cat([-response, torch.ones(1)]))
    apart = maps[0] - maps[1]
    expected = float(apart @ K @ apart + (apart[:M] @ Y) ** 2) ** 0.5
    assert wide["tensor"] == pytest.approx(expected, rel=0.2)


@pytest.mark.slow
def test_a_tensor_that_varies_inside_a_layer_acts_through_its_mean() -> None:
    """Rates drawn for every weight, independent of the weights: the same tangent kernel, the same answer."""
    steps = (3, 20)

    def scatter(layer: int, W: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(layer)
        return 2 * torch.rand(W.shape, generator=generator, dtype=W.dtype)

    found = extrapolated(64, (800, 1200), steps, RATE, {}, tensor=scatter)
    assert worst(found, theory(steps, GradientDescent(RATE))) < 4
    # negative control: twice the mean
    assert worst(found, theory(steps, GradientDescent(RATE), lambda_W=2.4)) > 10
