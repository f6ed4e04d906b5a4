"""Fluctuations at criticality with a skip, on real networks; the published table of points."""

from __future__ import annotations

import math

import pytest
import torch

from leadline.testing.critical_points import PUBLISHED, Published, agrees, page
from leadline.theory.criticality import critical_point

GAMMA = 0.5


def spread(width: int, depth: int, networks: int) -> list[tuple[float, float]]:
    """V/K^2 of each layer of critical ReLU networks with a skip, and its standard error.

    One input: given h, the entries of W s(h) are independent and N(0, C_W mean s(h)^2), so no weights are needed.
    """
    p = critical_point("relu", residual=GAMMA)
    assert p.C_W is not None
    g = torch.Generator().manual_seed(width)
    h = torch.randn(networks, width, generator=g, dtype=torch.float64)
    out = []
    for _ in range(depth):
        scale = (p.C_W * torch.relu(h).square().mean(1, keepdim=True)).sqrt()
        h = GAMMA * h + scale * torch.randn(h.shape, generator=g, dtype=h.dtype)
        square = h.square()
        pairs = (square.sum(1) ** 2 - square.square().sum(1)) / (width * (width - 1))
        linear = pairs - 2 * square.mean(1)  # of E[z_i^2 z_j^2] - E[z^2]^2 about E[z^2] = 1
        out.append((width * float(pairs.mean() - square.mean() ** 2), width * float(linear.std()) / networks**0.5))
    return out


def vertices(depth: int, vertex: bool) -> list[float]:
    """V/K^2 layer by layer at first order, with the three-point vertex or without."""
    keep = 1 - GAMMA**2
    own = keep**2 * 5 + 4 * GAMMA**2 * keep
    skew = 2 * keep * math.sqrt(2 / math.pi)
    V, kappa, out = 0.0, 0.0, []
    for _ in range(depth):
        V += own + 2 * skew * kappa * vertex
        kappa = GAMMA * (kappa + skew)
        out.append(V)
    return out


def test_a_skip_around_relu_adds_the_three_point_vertex() -> None:
    """V of the last layers, extrapolated in the width; without the vertex it is a third too small."""
    small, large = (spread(n, 6, 40_000) for n in (64, 128))
    have = [(2 * b - a, (4 * f**2 + e**2) ** 0.5) for (a, e), (b, f) in zip(small, large)]
    for (value, error), want, without in list(zip(have, vertices(6, True), vertices(6, False)))[3:]:
        assert abs(value - want) < 4 * error
        assert abs(value - without) > 5 * error
    slope = vertices(200, True)
    assert (slope[199] - slope[99]) / 100 == pytest.approx(critical_point("relu", residual=GAMMA).nu)


def test_published_points_agree_and_wrong_ones_do_not() -> None:
    for name in ("gelu", "silu", "erf", "leaky_relu(0.25)"):
        obj = torch.nn.LeakyReLU(float(name[11:-1])) if name.startswith("leaky") else name
        for known in PUBLISHED[name]:
            assert agrees(critical_point(obj), known), known
    silu, gelu = critical_point("silu"), critical_point("gelu")
    assert not agrees(silu, Published(1.98800468, 0.055514317, "a tenth of C_b"))
    assert not agrees(gelu, Published(1.98305826, 0.17292239, "another K", 3.5, 1e-8))
    assert not agrees(critical_point("sigmoid"), Published(16.0, 0.0, "no point at all"))


@pytest.mark.slow
def test_the_page_has_every_activation_once() -> None:
    text, good = page()
    assert good
    assert "differs" not in text
    lines = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    names = [n for n in lines if n not in ("activation", "---")]
    assert len(names) == len(set(names)) >= 40
    assert {"gelu", "gelu_tanh", "softplus", "mish", "softshrink(0.5)"} <= set(names)
