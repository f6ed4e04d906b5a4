"""Draws over images: rotations of the same points err apart; overlaps with a normalised channel have a closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leadline.activations import activation
from leadline.program import trace
from leadline.rules import Context
from leadline.rules.banded_draws import normals, pointwise
from leadline.rules.batch_norm_back import _overlap
from leadline.rules.expr import Expr, apply, lin, product, source

LIKE = torch.zeros(1, dtype=torch.float64)


def _error(turn: int) -> float:
    """Of <relu(a) relu(b)> for two standard normals of correlation 1/2, by 512 draws of six numbers."""
    z = normals(6, 512, 4, 0, LIKE, turn)
    a, b = z[0], z[0] / 2 + (3 / 4) ** 0.5 * z[1]
    exact = float(activation(nn.ReLU()).dual(1.0, 0.5, 1.0))
    return float((a.relu() * b.relu()).mean()) - exact


def test_rotated_draws_keep_their_covariance_and_err_apart() -> None:
    z = normals(6, 512, 4, 0, LIKE, 5)
    assert torch.allclose(z @ z.T / 512, torch.eye(6, dtype=torch.float64), atol=1e-10)
    errors = torch.tensor([_error(turn) for turn in range(1, 33)])
    rms = float(errors.square().mean().sqrt())
    assert abs(float(errors.mean())) < 3 * rms / 32**0.5
    # draws that are not turned err the same way each time
    assert {_error(0) for _ in range(3)} == {_error(0)}


def test_the_slope_of_relu_has_no_boolean_on_the_way() -> None:
    z = torch.tensor([-1.0, 0.0, 2.0])
    slope = pointwise(activation(nn.ReLU()), 1)(z)
    assert slope.dtype == z.dtype
    assert slope.tolist() == [0.0, 0.0, 1.0]


@pytest.fixture
def context() -> Context:
    net = nn.Linear(3, 4)
    return Context(trace(net, torch.randn(5, 3, generator=torch.Generator().manual_seed(0))))


def _covariance(size: int) -> Tensor:
    A = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return A @ A.T / size


def test_overlap_with_a_gaussian_channel_is_what_draws_give(context: Context) -> None:
    h, other = source(_covariance(5)), source(torch.eye(5, dtype=torch.float64))
    relu, leaky = activation(nn.ReLU()), activation(nn.LeakyReLU(0.3))
    z: Expr = lin([(0.7, h), (0.4, other)])
    cases = [
        apply(relu, h, 1),
        apply(leaky, z, 1),
        lin([(2.0, apply(relu, z, 1)), (-1.0, h)]),
        product(apply(relu, source(torch.eye(5, dtype=torch.float64)), 1), apply(leaky, h, 1)),
    ]
    for e in cases:
        exact = _overlap(e, h, context)
        assert exact is not None
        drawn = (context.moments.draws(e) * context.moments.draws(h)).mean(0)
        spread = (context.moments.draws(e) * context.moments.draws(h)).std(0) / context.moments.draws(h).shape[0] ** 0.5
        assert bool(((exact - drawn).abs() < 4 * spread + 1e-3).all())
        assert bool(((exact / 2 - drawn).abs() > 4 * spread + 1e-3).any())  # half of it would not pass
    assert _overlap(apply(activation(nn.Tanh()), h, 1), h, context) is None
