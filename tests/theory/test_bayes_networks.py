"""Corrections in 1/n from the flow of kernel and vertex, against importance weighting of networks drawn exactly in law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from leadline.measure.ensemble import Chain, ensemble
from leadline.theory.bayes import (
    FiniteWidthPosterior,
    finite_width_posterior,
    gp_posterior,
    importance_posterior,
    network_posterior,
)
from leadline.theory.flow import Layers, kernel_matrices, many_input_flow

X = torch.tensor([[1.0, -0.5, 0.3, 0.8], [-0.4, 0.9, 0.6, -0.2], [0.5, 0.4, -0.7, 0.3]], dtype=torch.float64)
Y = torch.tensor([[1.8, -0.9], [-0.7, 2.2]], dtype=torch.float64)
NOISE, C_W, C_b = 0.09, 1.5, 0.1
LAYERS = Layers.of("tanh", widths=[4, 64, 64, 1], C_W=C_W, C_b=C_b)


def kernels(width: int, networks: int, seed: int) -> Tensor:
    """Last kernels of a tanh network of three layers."""
    found: list[Tensor] = []
    chain = Chain.of([4, width, width, 1], "tanh", C_W=C_W, C_b=C_b)
    ensemble(chain, X, networks, seed, callback=lambda i, G, _: found.append(G) if i == 3 else None)
    return torch.cat(found)


def extrapolated(small: int, networks: int, infinite: FiniteWidthPosterior) -> dict[str, tuple[Tensor, Tensor]]:
    """Coefficients of 1/n with standard errors, from widths n, 2n and 4n: two orders beyond the first drop out."""
    at = []
    for times in (1, 2, 4):
        n = times * small
        # wider ensembles are weighted more
        s = importance_posterior(kernels(n, networks * times, seed=n), Y, NOISE)
        at.append(
            {
                "mean": (n * (s.mean - infinite.infinite.mean), n * s.mean_error),
                "covariance": (n * (s.covariance - infinite.covariance_at(math.inf)), n * s.covariance_error),
                "log_evidence": (n * (s.log_evidence - infinite.infinite.log_evidence), n * s.log_evidence_error),
                "kernel": (n * (s.kernel - infinite.prior), n * s.kernel_error),
            }
        )
    weights = (1 / 3, -2.0, 8 / 3)
    return {
        k: (
            sum(w * a[k][0] for w, a in zip(weights, at)),
            sum((w * a[k][1]) ** 2 for w, a in zip(weights, at)).sqrt(),
        )
        for k in at[0]
    }


def worst(found: dict[str, tuple[Tensor, Tensor]], predicted: FiniteWidthPosterior, quantity: str) -> float:
    coefficient = predicted.covariance_at(1) - predicted.covariance_at(math.inf)
    value = coefficient if quantity == "covariance" else getattr(predicted, quantity)
    estimate, error = found[quantity]
    return float(((estimate - value).abs() / error).max())


def controls() -> dict[str, FiniteWidthPosterior]:
    """Predictions with a term left out."""
    flow = many_input_flow(LAYERS, X @ X.T / 4)
    K, V, G1 = flow.K[-1], flow.vertex[-1], flow.G1[-1]
    alone = finite_width_posterior(K, V, G1, Y[:, :1], NOISE)
    both = finite_width_posterior(K, V, G1, Y, NOISE)
    second = finite_width_posterior(K, V, G1, Y[:, 1:], NOISE)
    uncoupled = FiniteWidthPosterior(
        both.infinite,
        K,
        torch.cat([alone.mean, second.mean], dim=1),
        alone.covariance,
        torch.zeros_like(both.cross_covariance),
        alone.log_evidence + second.log_evidence,
        alone.kernel,
    )
    return {
        "no vertex": finite_width_posterior(K, torch.zeros_like(V), G1, Y, NOISE),
        "no output teaches another": uncoupled,
    }


def hold(found: dict[str, tuple[Tensor, Tensor]], quantities: tuple[str, ...]) -> None:
    predicted = network_posterior(LAYERS, X, Y, NOISE)
    for quantity in quantities:
        assert worst(found, predicted, quantity) < 4, quantity
        for name, wrong in controls().items():
            assert worst(found, wrong, quantity) > 6, (quantity, name)


def test_corrections_of_networks() -> None:
    hold(extrapolated(32, 4_000, network_posterior(LAYERS, X, Y, NOISE)), ("mean", "covariance", "kernel"))


@pytest.mark.slow
def test_corrections_of_networks_to_a_few_per_cent() -> None:
    found = extrapolated(64, 40_000, network_posterior(LAYERS, X, Y, NOISE))
    hold(found, ("mean", "covariance", "log_evidence", "kernel"))


def test_kernel_matrices_are_those_of_the_flow() -> None:
    K = kernel_matrices(LAYERS, X)
    torch.testing.assert_close(K, many_input_flow(LAYERS, X @ X.T / 4).K, rtol=1e-9, atol=1e-12)
    # infinite width is the Gaussian process with that kernel
    posterior = gp_posterior(K[-1], Y, NOISE)
    wide = network_posterior(LAYERS, X, Y, NOISE)
    torch.testing.assert_close(wide.mean_at(math.inf), posterior.mean)
    torch.testing.assert_close(wide.log_evidence_at(math.inf), posterior.log_evidence)
    torch.testing.assert_close(wide.kernel_at(1e12), K[-1])
