"""Convolutions of few channels, whose values are products of drawn weights and drawn channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leadline as ll


def chain(channels: int, depth: int, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 1), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(channels, channels, 1, groups=groups), nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (64, 64), (64, 16)])
def test_a_chain_of_relu_keeps_its_kernel_whatever_the_law_of_its_channels(channels: int, groups: int) -> None:
    """Each z is symmetric, so <relu(z)^2> is half of <z^2> exactly; weights that all layers shared would square it up."""
    net, x = chain(channels, 5, groups), torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    law = {str(2 * i): {"C_W": 2.0, "C_b": 0.0} for i in range(5)}
    rows = [r for r in ll.predict(ll.trace(net, x, law=law), x).rows if r.op == "conv"]
    for row in rows[1:]:
        kernel = row.values["kernel"]
        assert abs(kernel.value - rows[0].values["kernel"].value) <= 4 * max(kernel.error, 1e-9)
    assert rows[-1].values["kernel"].error < 0.5 * rows[-1].values["kernel"].value
