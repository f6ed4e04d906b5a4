"""The exact-in-law ensemble against exact laws, drawn weights, and its own standard errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leadline.activations import activation
from leadline.measure.ensemble import Chain, ensemble, factor
from leadline.measure.entry_moments import EntrySums

UNEQUAL = [6, 40, 90, 55, 120, 3]


def inputs(m: int, n_0: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(m, n_0, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def product(chain: Chain, nu: float) -> float:
    """Exact spread of the last layer's scale in a bias-free linear (nu = 2) or ReLU (nu = 5) chain."""
    return math.prod(1 + nu / n for n in chain.widths[1:-1]) - 1


@pytest.mark.parametrize(("name", "C_W", "nu"), [("relu", 2.0, 5.0), ("identity", 1.0, 2.0), ("relu", 1.3, 5.0)])
def test_bias_free_piecewise_linear_chains_follow_the_exact_product(name, C_W, nu):
    chain = Chain.of(UNEQUAL, name, C_W=C_W)
    found = ensemble(chain, inputs(2, 6), networks=40_000, seed=0)
    spread, exact = found.layers[-1].kernel.mean_spread, product(chain, nu)
    assert abs(spread.value - exact) < 4 * spread.error
    assert spread.error < 0.02 * exact
    # negative control: the first order in 1/n alone is resolved as wrong
    assert abs(spread.value - nu * chain.inverse_width) > 4 * spread.error


def drawn_kernels(chain: Chain, x: torch.Tensor, networks: int) -> list[EntrySums]:
    """The same moments from networks whose weights and biases are drawn in full."""
    generator = torch.Generator().manual_seed(5)
    options = {"generator": generator, "dtype": torch.float64}
    sums = [EntrySums(x.shape[0], n) for n in chain.widths[1:-1]]
    h = x.T.expand(networks, -1, -1)
    for i in range(chain.depth - 1):
        n_in, n = chain.widths[i : i + 2]
        W = torch.randn(networks, n, n_in, **options) * (chain.C_W[i] / n_in) ** 0.5
        b = torch.randn(networks, n, 1, **options) * chain.C_b[i] ** 0.5
        h = chain.activations[i].fn(W @ h + b)
        sums[i].add(h.mT @ h / n)
    return sums


def worst_z(one: torch.Tensor, two: torch.Tensor, errors: tuple[torch.Tensor, torch.Tensor]) -> float:
    return float(((one - two).abs() / (errors[0].square() + errors[1].square()).sqrt()).max())


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
def test_law_is_that_of_networks_with_weights(name):
    x = inputs(3, 4)
    chain = Chain.of([4, 6, 9, 5, 1], name, C_W=[1.2, 1.4, 1.1, 1.3], C_b=[0.1, 0.2, 0.05, 0.1])
    without_bias = Chain.of([4, 6, 9, 5, 1], name, C_W=[1.2, 1.4, 1.1, 1.3])
    drawn = [s.moments() for s in drawn_kernels(chain, x, 20_000)]
    found = ensemble(chain, x, 20_000, seed=3)
    wrong = ensemble(without_bias, x, 20_000, seed=3)
    for i, want in enumerate(drawn):
        have, bad = found.layers[i].sample, wrong.layers[i].sample
        assert worst_z(have.mean, want.mean, (have.mean_error, want.mean_error)) < 4
        assert worst_z(have.vertex, want.vertex, (have.vertex_error, want.vertex_error)) < 4.5
        assert worst_z(have.spread, want.spread, (have.spread_error, want.spread_error)) < 4
        assert worst_z(bad.mean, want.mean, (bad.mean_error, want.mean_error)) > 10  # negative control


def test_kernel_row_follows_from_the_sample_row_before_it():
    chain = Chain.of([4, 20, 30, 2], "tanh", C_W=1.5, C_b=0.2)
    found = ensemble(chain, inputs(2, 4), 500, seed=0)
    sample, kernel = found.step("s1"), found.step("z2")
    assert torch.allclose(kernel.mean, 0.2 + 1.5 * sample.mean, rtol=1e-12)
    assert torch.allclose(kernel.vertex, 1.5**2 * sample.vertex, rtol=1e-9)
    assert kernel.width == sample.width == 20


def test_first_layer_has_the_exact_kernel_and_no_spread():
    x = inputs(2, 4)
    first = ensemble(Chain.of([4, 20, 2], "tanh", C_W=1.5, C_b=0.2), x, 100, seed=0).layers[0].kernel
    assert torch.allclose(first.mean, 0.2 + 1.5 * x @ x.T / 4, rtol=1e-14)
    assert float(first.vertex.abs().max()) == 0.0
    assert first.mean_spread.value == first.mean_spread.error == 0.0


def test_units_have_the_kurtosis_that_the_spread_says():
    seen = []
    chain = Chain.of([4, 12, 12, 64], "relu", C_W=2.0)
    found = ensemble(chain, inputs(1, 4), 20_000, seed=0, callback=lambda i, _, z: seen.append((i, z)))
    z = torch.cat([z for i, z in seen if i == 3])[..., 0]
    # the error of the direct estimate is that of means over networks, whose units share a scale
    per_network = torch.stack([z.pow(4).mean(1), z.square().mean(1)])
    fourth, second = per_network.mean(1)
    influence = per_network[0] / second**2 - 2 * fourth / second**3 * per_network[1]
    direct, error = fourth / second**2 - 3, influence.std() / len(z) ** 0.5
    assert abs(float(direct - found.step("z3").excess_kurtosis[0])) < 4 * float(error)
    assert float(direct) > 10 * float(error)  # negative control: a Gaussian's 0 is far away


def test_standard_errors_are_the_scatter_of_repeated_ensembles():
    chain = Chain.of([4, 16, 16, 1], "gelu", C_W=2.0, C_b=0.1)
    rows = [ensemble(chain, inputs(2, 4), 400, seed=s).step("z3") for s in range(150)]
    for value, error in (("mean", "mean_error"), ("vertex", "vertex_error"), ("spread", "spread_error")):
        scatter = torch.stack([getattr(r, value) for r in rows]).std(0)
        stated = torch.stack([getattr(r, error) for r in rows]).mean(0)
        assert bool(((stated / scatter - 1).abs() < 0.25).all()), (value, stated / scatter)
    scatter = torch.tensor([r.mean_spread.value for r in rows]).std()
    stated = sum(r.mean_spread.error for r in rows) / len(rows)
    assert abs(stated / float(scatter) - 1) < 0.25


def test_streamed_moments_are_those_of_all_draws_at_once():
    G = torch.randn(300, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    G = 5.0 + 1e-3 * (G + G.mT)
    sums = EntrySums(2, 7)
    for part in G.split([100, 1, 150, 49]):
        sums.add(part)
    found = sums.moments()
    entries = torch.stack([G[:, 0, 0], G[:, 0, 1], G[:, 1, 1]], 1)
    d = entries - entries.mean(0)
    assert found.pairs == [(0, 0), (0, 1), (1, 1)]
    assert torch.allclose(found.mean, G.mean(0), rtol=1e-14)
    assert torch.allclose(found.vertex, 7 * torch.cov(entries.T), rtol=1e-9)
    assert torch.allclose(found.product21, d.square().T @ d / 300, rtol=1e-7, atol=1e-17)
    assert torch.allclose(found.product22, d.square().T @ d.square() / 300, rtol=1e-8)
    with pytest.raises(ValueError, match="at least two"):
        EntrySums(2, 7).moments()


@given(st.integers(1, 7), st.integers(0, 7), st.integers(0, 1000), st.sampled_from([1e-12, 1.0, 1e12]))
def test_factor_reproduces_covariances_of_any_rank(m, rank, seed, scale):
    root = torch.randn(5, m, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    G = scale * root @ root.mT
    L = factor(G)
    assert torch.equal(L, L.tril())
    # sqrt(rounding) where a pivot of rounding size was taken as zero
    assert float((L @ L.mT - G).abs().max()) <= 3e-7 * max(float(G.abs().max()), 1e-300)
    if rank >= m:
        assert float((L @ L.mT - G).abs().max()) <= 1e-12 * float(G.abs().max())


def test_equal_proportional_and_zero_inputs_stay_so():
    x = inputs(1, 4)
    batch = torch.cat([x, x, 2 * x, 0 * x, -x])
    seen = []
    chain = Chain.of([4, 30, 30, 2], "relu", C_W=2.0)
    found = ensemble(chain, batch, 200, seed=0, callback=lambda i, G, z: seen.append((i, z)))
    for _, z in seen:
        assert bool(torch.isfinite(z).all())
        assert torch.allclose(z[..., 1], z[..., 0], atol=1e-6)
        assert torch.allclose(z[..., 2], 2 * z[..., 0], atol=1e-6)
        assert float(z[..., 3].abs().max()) == 0.0
    first = torch.cat([z for i, z in seen if i == 1])
    assert torch.allclose(first[..., 4], -first[..., 0], atol=1e-6)
    last = found.step("z3")
    assert float(last.mean[3, 3]) == float(last.spread[3]) == float(last.spread_error[3]) == 0.0
    assert torch.allclose(last.spread[1], last.spread[0], rtol=1e-5)


def test_callback_sees_each_chunk_and_layer():
    shapes = []
    chain = Chain.of([4, 5, 6, 2], "tanh")

    def note(layer, G, z):
        shapes.append((layer, G.shape, z.shape))

    ensemble(chain, inputs(3, 4), 25, seed=0, chunk=10, callback=note)
    assert [i for i, _, _ in shapes] == [1, 2, 3] * 3
    assert [tuple(G) for _, G, _ in shapes] == [(10, 3, 3)] * 6 + [(5, 3, 3)] * 3
    assert [tuple(z) for _, _, z in shapes[-3:]] == [(5, 5, 3), (5, 6, 3), (5, 2, 3)]


def test_seed_decides_and_the_global_generator_is_left_alone():
    chain = Chain.of([4, 5, 6, 2], ["tanh", "relu", None])
    before = torch.get_rng_state()
    one, same, other = (ensemble(chain, inputs(2, 4), 50, seed=s).step("s3").mean for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())
    assert ensemble(chain, inputs(2, 4).float(), 50, seed=1).step("s3").mean.dtype == torch.float64


def test_any_callable_is_an_activation():
    swish = Chain.of([4, 16, 1], lambda z: z * torch.sigmoid(1.702 * z), C_W=2.0)
    quick = Chain.of([4, 16, 1], activation("quick_gelu"), C_W=2.0)
    one, two = (ensemble(c, inputs(2, 4), 50, seed=0).step("z2").mean for c in (swish, quick))
    assert torch.allclose(one, two, rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Chain.of([4], "tanh"), r"got widths \(4,\): give two or more"),
        (lambda: Chain.of([4, 0, 2], "tanh"), "each positive"),
        (lambda: Chain.of([4, 5, 2], ["tanh"] * 3), "got 3 activations for 2 layers"),
        (lambda: Chain.of([4, 5, 2], "tanh", C_W=[1.0]), "got 1 values of C_W for 2 layers"),
        (lambda: Chain.of([4, 5, 2], "tanh", C_b=-1.0), "finite and not negative"),
        (lambda: Chain.of([4, 5, 2], "tanh", C_W=math.nan), "finite and not negative"),
        (
            lambda: Chain((4, 5, 2), (activation("tanh"),), (1.0,) * 2, (0.0,) * 2, (("a", "b"),)),
            "names for 1",
        ),
    ],
)
def test_a_chain_that_does_not_fit_together_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (inputs(2, 5), {}, r"got inputs of shape \(2, 5\): give \(m, 4\)"),
        (inputs(2, 4)[0], {}, r"got inputs of shape \(4,\)"),
        (inputs(17, 4), {}, "m from 1 to 16"),
        (inputs(2, 4) / 0, {}, "NaN or infinite"),
        (inputs(2, 4), {"networks": 1}, "got networks=1"),
        (inputs(2, 4), {"chunk": 0}, "chunk=0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(x, options, message):
    with pytest.raises(ValueError, match=message):
        ensemble(Chain.of([4, 5, 2], "tanh"), x, **{"networks": 10, "seed": 0, **options})


def test_a_row_that_does_not_exist_is_named():
    found = ensemble(Chain.of([4, 5, 2], "tanh"), inputs(1, 4), 10, seed=0)
    with pytest.raises(KeyError, match="no row for 's2'; there are z1, s1, z2"):
        found.step("s2")
