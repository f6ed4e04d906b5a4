"""Exact laws of two-slope networks against drawn ones, and against the limits that they approach."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import special

from leadline.activations import activation
from leadline.measure.ensemble import Chain, ensemble
from leadline.theory.deep_linear import linear_kernel_moment
from leadline.theory.flow import Layers, kernel_moment, log_law, log_normal_limit, single_input_flow

F64 = torch.float64
WIDTHS = [12, 20, 8, 15, 30]


def kernels(name: str, widths: list[int], networks: int, seed: int) -> torch.Tensor:
    """ln(G/K) of the last layer of many networks."""
    plus, minus = activation(name).slopes
    chain = Chain.of([3, *widths, 1], name, C_W=2 / (plus**2 + minus**2))
    seen: list[torch.Tensor] = []
    x = torch.full((1, 3), 1.0, dtype=F64)

    def keep(layer: int, G: torch.Tensor, _: torch.Tensor) -> None:
        if layer == len(widths) + 1:
            seen.append(G[:, 0, 0] / float(chain.C_W[0]))

    ensemble(chain, x, networks, seed=seed, callback=keep)
    return torch.cat(seen)


@pytest.mark.parametrize("name", ["relu", "identity", "prelu", "abs"])
def test_logarithm_of_the_kernel_has_the_exact_law(name):
    G = kernels(name, WIDTHS, 40_000, seed=0)
    law = log_law(activation(name), WIDTHS)
    alive = G > 0
    log = G[alive].log()
    error = float(log.std()) / len(log) ** 0.5
    assert abs(float(log.mean()) - law.mean) < 4 * error
    deviation = (log - log.mean()) ** 2
    variance_error = float(deviation.std()) / len(log) ** 0.5
    assert abs(float(deviation.mean()) - law.variance) < 4 * variance_error
    dead = len(G) * (1 - law.alive)
    assert abs(float((~alive).sum()) - dead) <= 4 * dead**0.5
    # negative control: the limit of many layers is told apart at these widths
    limit = log_normal_limit(activation(name), WIDTHS)
    assert abs(float(deviation.mean()) - limit.variance) > 8 * variance_error
    wrong = log_law(activation("identity" if name == "relu" else "relu"), WIDTHS)
    assert abs(float(log.mean()) - wrong.mean) > 8 * error


def test_law_approaches_the_log_normal_limit_as_one_over_width():
    act = activation("relu")
    misses = []
    for n in (50, 100, 200, 400):
        law, limit = (f(act, [n] * (n // 2)) for f in (log_law, log_normal_limit))
        assert limit.variance == pytest.approx(2.5)
        assert limit.mean == pytest.approx(-1.25)
        misses.append((law.mean - limit.mean, law.variance - limit.variance))
    for one, two in itertools.pairwise(misses):
        assert two[0] / one[0] == pytest.approx(0.5, abs=0.04)
        assert two[1] / one[1] == pytest.approx(0.5, abs=0.04)


@pytest.mark.slow
def test_deep_relu_is_log_normal():
    """At L/n = 1 with 64 layers quantiles of ln G are those of the normal law with the exact mean and variance."""
    widths = [64] * 64
    log = kernels("relu", widths, 20_000, seed=1).log()
    law = log_law(activation("relu"), widths)
    levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=F64)
    normal = law.mean + law.variance**0.5 * torch.special.ndtri(levels)
    density = torch.exp(-0.5 * torch.special.ndtri(levels) ** 2) / math.sqrt(2 * math.pi * law.variance)
    error = (levels * (1 - levels) / len(log)).sqrt() / density
    skewed = 0.06 * law.variance**0.5  # a skewness of order 1/sqrt(layers) moves quantiles by so much
    assert bool(((log.quantile(levels) - normal).abs() < 4 * error + skewed).all())
    first_order = 1 + 5 * 64 / 64  # negative control: the first order of 1/n has half the log-variance's exponential
    assert abs(math.log(first_order) - law.variance) > 3


@pytest.mark.parametrize(("name", "nu"), [("relu", 5.0), ("identity", 2.0), ("abs", 2.0), ("prelu", 4.33564014)])
def test_second_moment_is_the_product_and_its_first_order_is_the_vertex(name, nu):
    act = activation(name)
    exact = math.prod(1 + nu / n for n in WIDTHS)
    assert kernel_moment(act, WIDTHS, 2) == pytest.approx(exact, rel=1e-8)
    wide = [w * 10_000 for w in WIDTHS]
    plus, minus = act.slopes
    flow = single_input_flow(Layers.of(name, widths=[3, *wide, 1], C_W=2 / (plus**2 + minus**2)), 1.0)
    assert kernel_moment(act, wide, 2) - 1 == pytest.approx(float(flow.spread[-1]), rel=1e-3)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4, 6])
def test_linear_moments_are_the_closed_product(order):
    assert kernel_moment(activation("identity"), WIDTHS, order) == pytest.approx(linear_kernel_moment(WIDTHS, order))


def test_third_moment_of_relu_networks():
    G = kernels("relu", [40, 60, 50], 60_000, seed=2)
    cubes = G**3
    error = float(cubes.std()) / len(G) ** 0.5
    exact = kernel_moment(activation("relu"), [40, 60, 50], 3)
    assert abs(float(cubes.mean()) - exact) < 4 * error
    assert (
        abs(float(cubes.mean()) - kernel_moment(activation("identity"), [40, 60, 50], 3)) > 8 * error
    )  # negative control


@pytest.mark.parametrize("n", [1, 2, 5])
def test_law_of_one_narrow_linear_layer_is_that_of_a_chi_square(n):
    law = log_law(activation("identity"), [n])
    assert law.mean == pytest.approx(float(special.digamma(n / 2)) + math.log(2 / n), abs=1e-12)
    assert law.variance == pytest.approx(float(special.polygamma(1, n / 2)), abs=1e-11)


def test_other_activations_and_orders_are_refused():
    with pytest.raises(ValueError, match="tanh is not of two slopes"):
        log_law(activation("tanh"), [3])
    with pytest.raises(ValueError, match="order=-1"):
        kernel_moment(activation("relu"), [3], -1)
