"""Closed forms of linearized training against the recursions that they solve."""

from __future__ import annotations

import math

import pytest
import torch

from leadline.theory.bayes import gp_posterior
from leadline.theory.dynamics import (
    GradientDescent,
    GradientFlow,
    Momentum,
    Newton,
    expected_error,
    linearized_training,
)
from leadline.theory.flow import Layers, kernel_matrices
from leadline.theory.tangent import tangent_matrices

M, STEPS = 4, (0, 1, 2, 7, 40)
X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(M, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LAYERS = Layers.of("tanh", depth=3, C_b=0.1, C_W=1.4, lambda_b=0.5, lambda_W=0.8)
K = kernel_matrices(LAYERS, X)[-1]
THETA = tangent_matrices(LAYERS, X, kernel_matrices(LAYERS, X))[-1]
RATE = 0.9 / float(torch.linalg.eigvalsh(THETA[:M, :M])[-1])


def simulated(start: torch.Tensor, P: torch.Tensor, rate: float, decay: float, steps: tuple[int, ...]) -> torch.Tensor:
    """Outputs (T, m, outputs) by the recursion in function space."""
    z, v, found = start.clone(), torch.zeros_like(start), []
    for step in range(max(steps) + 1):
        if step in steps:
            found.append(z.clone())
        v = decay * v - rate * THETA[:, :M] @ P @ (z[:M] - Y)
        z = z + v
    return torch.stack(found)


INVERSE = torch.linalg.inv(THETA[:M, :M])
WHITE = torch.diag(torch.tensor([1.0, 0.2, 2.0, 0.7], dtype=torch.float64)) + 0.1
RULES = {
    "descent": (GradientDescent(RATE), None, torch.eye(M, dtype=torch.float64), RATE, 0.0),
    "momentum": (Momentum(RATE, 0.7), None, torch.eye(M, dtype=torch.float64), RATE, 0.7),
    "newton": (Newton(0.3), None, INVERSE, 0.3, 0.0),
    "whitened": (GradientDescent(RATE), WHITE, WHITE, RATE, 0.0),
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_solves_its_recursion(name: str) -> None:
    rule, preconditioner, P, rate, decay = RULES[name]
    out = linearized_training(K, THETA, Y, STEPS, rule, preconditioner=preconditioner)
    zero = torch.zeros(6, 2, dtype=torch.float64)
    torch.testing.assert_close(out.mean, simulated(zero, P, rate, decay, STEPS), rtol=1e-9, atol=1e-11)
    # the covariance, from what the recursion makes of each column of a factor of K
    root = torch.linalg.cholesky(K)
    moved = torch.cat([simulated(root[:, i : i + 2], P, rate, decay, STEPS) - out.mean for i in range(0, 6, 2)], dim=2)
    torch.testing.assert_close(out.covariance, moved @ moved.mT, rtol=1e-8, atol=1e-10)
    # negative control: another rate is not the same
    assert float((out.mean - simulated(zero, P, 1.1 * rate, decay, STEPS)).abs().max()) > 1e-3


def test_flow_is_the_matrix_exponential_and_the_limit_of_small_steps() -> None:
    times = (0.0, 0.3, 2.0)
    out = linearized_training(K, THETA, Y, times, GradientFlow(0.5))
    for i, t in enumerate(times):
        left = torch.linalg.matrix_exp(-0.5 * t * THETA[:M, :M])
        torch.testing.assert_close(out.mean[i, :M], Y - left @ Y, rtol=1e-10, atol=1e-12)
    small = linearized_training(K, THETA, Y, [20_000], GradientDescent(1e-4 * 0.5))
    torch.testing.assert_close(small.mean[0], out.mean[2], rtol=1e-3, atol=1e-3)


def test_before_and_after_training() -> None:
    out = linearized_training(K, THETA, Y, (0.0, math.inf))
    torch.testing.assert_close(out.covariance[0], K)
    torch.testing.assert_close(out.mean[1, :M], Y)
    assert float(out.covariance[1, :M].abs().max()) < 1e-12
    assert float(out.covariance[1, M, M]) > 0.01


def test_the_end_is_the_same_for_every_rule_and_not_for_every_learning_rate_tensor() -> None:
    end = linearized_training(K, THETA, Y)
    for rule, preconditioner, *_ in RULES.values():
        other = linearized_training(K, THETA, Y, rule=rule, preconditioner=preconditioner)
        torch.testing.assert_close(other.mean, end.mean, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(other.covariance, end.covariance, rtol=1e-8, atol=1e-9)
    scaled = linearized_training(K, 3 * THETA, Y)
    torch.testing.assert_close(scaled.mean, end.mean, rtol=1e-8, atol=1e-9)
    # a tensor that trains the last layer alone: the posterior, which the full one is not
    last = Layers.of("tanh", depth=3, C_b=0.1, C_W=1.4, lambda_b=[0, 0, 0.1], lambda_W=[0, 0, 1.4])
    tangent = tangent_matrices(last, X)[-1]
    torch.testing.assert_close(tangent, K)
    only = linearized_training(K, tangent, Y)
    posterior = gp_posterior(K, Y, 0.0)
    torch.testing.assert_close(only.mean[0], posterior.mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(only.covariance[0], posterior.covariance, rtol=1e-8, atol=1e-9)
    assert float((only.mean - end.mean)[0, M:].abs().max()) > 0.02
    assert float((end.covariance[0] - posterior.covariance)[M, M]) > 0.001


def test_layers_share_the_tangent_kernel() -> None:
    """It is the sum of what it is with one layer trained alone."""
    parts = []
    for i in range(3):
        on = [float(i == j) for j in range(3)]
        rates = {"lambda_b": [0.5 * v for v in on], "lambda_W": [0.8 * v for v in on]}
        parts.append(tangent_matrices(Layers.of("tanh", depth=3, C_b=0.1, C_W=1.4, **rates), X)[-1])
    torch.testing.assert_close(sum(parts), THETA)


@pytest.mark.parametrize("rule", [GradientDescent(RATE), Momentum(RATE, 0.7), Momentum(RATE, 0.0), Newton(0.3)])
def test_lag_is_its_sum_over_steps(rule) -> None:
    modes = torch.linalg.eigvalsh(THETA[:M, :M])
    left = torch.stack([rule.left(modes, t) for t in range(3000)])
    # what the steps add up to in mode b, with what momentum still carries on to do
    force = left / left.sum(0)
    torch.testing.assert_close(rule.lag(modes), (1 - left).mT @ force, rtol=1e-7, atol=1e-8)


def test_lag_of_flow_is_the_limit_of_small_steps() -> None:
    modes = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    flow = GradientFlow(2.0).lag(modes)
    torch.testing.assert_close(GradientDescent(1e-7).lag(modes), flow, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(flow + flow.mT, torch.ones(3, 3, dtype=torch.float64))
    torch.testing.assert_close(Newton(1e-7).lag(modes), torch.full_like(flow, 0.5), rtol=1e-6, atol=1e-6)


def test_error_is_that_of_gaussian_outputs() -> None:
    out = linearized_training(K, THETA, Y, (0.0, 1.0, math.inf))
    values = torch.cat([Y, torch.ones(2, 2, dtype=torch.float64)])
    error = expected_error(out, values)
    draws = torch.distributions.MultivariateNormal(out.mean[1].mT, out.covariance[1]).sample((100_000,))
    square = (draws - values.mT) ** 2
    z = (square.mean(0).mT - error.total[1]) / (square.std(0).mT / len(draws) ** 0.5)
    assert float(z.abs().max()) < 4
    assert float(error.bias[0, 0, 0]) == pytest.approx(float(Y[0, 0]) ** 2)
    assert error.best_time(skip=0) == math.inf


@pytest.mark.parametrize("rule", [GradientDescent(3 * RATE), Momentum(5 * RATE, 0.5), Newton(2.5)])
def test_a_rule_that_diverges_has_no_end(rule) -> None:
    with pytest.raises(ValueError, match="which diverges on modes up to"):
        linearized_training(K, THETA, Y, rule=rule)


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="got kernels K and Theta of shapes"):
        linearized_training(K[:3, :3], THETA, Y)
    with pytest.raises(ValueError, match="this rule counts steps"):
        linearized_training(K, THETA, Y, [1.5], GradientDescent(RATE))
    with pytest.raises(ValueError, match="got a preconditioner with eigenvalue -1"):
        linearized_training(K, THETA, Y, preconditioner=-torch.eye(M))
    with pytest.raises(ValueError, match="got a learning rate of 0"):
        GradientFlow(0)
    with pytest.raises(ValueError, match="got decay=1"):
        Momentum(1, 1)
    with pytest.raises(ValueError, match="got values of shape"):
        expected_error(linearized_training(K, THETA, Y), Y)
    with pytest.raises(ValueError, match="got inputs of shape"):
        kernel_matrices(LAYERS, X[0])
