"""The initial loss: predicted from Gaussian logits, measured, and that of a blind guess."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats
from torch import nn

import leadline as ll
from check.networks import batch, mlp
from leadline.check.loss import expected_log_sum_exp, initial_loss
from refusals import refused


@pytest.mark.parametrize("K", [0.01, 1.0, 25.0])
def test_two_classes_against_an_integral(K: float) -> None:
    # log(e^a + e^b) = b + softplus(a - b), a - b of variance 2 K
    s = math.sqrt(2 * K)
    exact, _ = integrate.quad(
        lambda t: stats.norm.pdf(t) * float(torch.nn.functional.softplus(torch.tensor(s * t))), -12, 12
    )
    assert float(expected_log_sum_exp(torch.tensor(K), 2)) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("classes", [10, 5000])
def test_small_logits_add_half_their_variance(classes: int) -> None:
    K = 0.01
    # E log sum exp = log C + (K / 2)(1 - 1 / C) + O(K^2)
    found = float(expected_log_sum_exp(torch.tensor(K), classes))
    assert found == pytest.approx(math.log(classes) + K / 2 * (1 - 1 / classes), abs=2e-4)


def test_many_kernels_are_interpolated() -> None:
    K = torch.linspace(0.1, 4.0, 37)
    together = expected_log_sum_exp(K, 10)
    apart = torch.stack([expected_log_sum_exp(k, 10) for k in K])
    assert torch.allclose(together, apart, rtol=5e-3)
    assert not torch.allclose(together, expected_log_sum_exp(1.2 * K, 10), rtol=5e-3)


def test_the_prediction_agrees_with_an_ensemble() -> None:
    x, y = batch(rows=64), torch.arange(64) % 10
    losses = []
    for seed in range(40):
        torch.manual_seed(seed)
        losses.append(float(nn.functional.cross_entropy(mlp(3, nn.ReLU, 2.0, width=256)(x), y)))
    mean, error = sum(losses) / 40, torch.tensor(losses).std().item() / 40**0.5
    model = mlp(3, nn.ReLU, 2.0, width=256)
    facts = ll.check(model, x, draws=0, loss="cross_entropy", targets=y).evidence.loss
    assert facts is not None
    assert facts.predicted is not None
    assert abs(facts.predicted - mean) < 4 * error + 0.01 * mean
    assert facts.blind == pytest.approx(math.log(10))
    assert facts.measured == pytest.approx(float(nn.functional.cross_entropy(model(x), y)), rel=1e-5)


def test_mean_square() -> None:
    x = batch(rows=64)
    y = torch.randn(64, 10) + 3.0
    facts = ll.check(mlp(3, nn.Tanh, 1.0, width=256), x, draws=0, loss="mse", targets=y).evidence.loss
    assert facts is not None
    assert facts.blind == pytest.approx(1.0, abs=0.15)
    assert facts.predicted == pytest.approx(facts.measured, rel=0.1)


def test_a_function_is_compared_with_zero_outputs() -> None:
    facts = initial_loss(lambda out, y: (out - y).abs().mean(), torch.ones(4, 2), torch.zeros(4, 2) + 3.0)
    assert (facts.kind, facts.measured, facts.blind) == ("custom", 2.0, 3.0)


def test_classes_on_the_second_axis_and_ignored_ones() -> None:
    out, y = torch.zeros(2, 5, 3, 3), torch.full((2, 3, 3), -100)
    y[0] = 4
    assert initial_loss("cross_entropy", out, y).measured == pytest.approx(math.log(5))


@pytest.mark.parametrize(
    ("kind", "out", "y", "part"),
    [
        ("cross_entropy", torch.zeros(4, 3), torch.zeros(5).long(), "do not fit the output (4, 3) float32"),
        ("cross_entropy", torch.zeros(4, 3), torch.full((4,), 3), "class numbers outside 0 … 2"),
        ("mse", torch.zeros(4, 3), torch.zeros(4, 2), "expected one number an output"),
        ("hinge", torch.zeros(4, 3), torch.zeros(4), "there is no loss 'hinge'"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, out: torch.Tensor, y: torch.Tensor, part: str) -> None:
    with refused(part):
        initial_loss(kind, out, y)


def test_a_loss_that_raises_is_refused() -> None:
    with refused("the loss raised ZeroDivisionError"):
        initial_loss(lambda out, y: out / 0 if False else 1 / 0, torch.zeros(2), torch.zeros(2))


def test_a_loss_needs_targets() -> None:
    with refused("without targets"):
        ll.check(mlp(1, nn.ReLU, 2.0), batch(), loss="mse")


def test_negative_draws_are_refused() -> None:
    with refused("draws is -1"):
        ll.check(mlp(1, nn.ReLU, 2.0), batch(), draws=-1)
