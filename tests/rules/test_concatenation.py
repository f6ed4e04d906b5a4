"""Channels side by side: a value beside a function of itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leadline.program import trace
from leadline.theory import predict


class Beside(nn.Module):
    """h beside tanh(h)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.layer, self.out = nn.Linear(16, 64), nn.Linear(128, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.out(self.layer(torch.cat([h, torch.tanh(h)], -1)))


def test_the_derivatives_of_two_parts_do_not_interfere() -> None:
    """Each part has weights of its own: the derivative of h is 1 + <tanh'^2>, not <(1 + tanh')^2>, times that of a part."""
    net, x = Beside(), torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    law = {name: {"C_W": 1.0, "C_b": 0.0} for name in ("enter", "layer", "out")}
    prediction = predict(trace(net, x, law=law))
    h, part = prediction.row("enter"), next(r for r in prediction.rows if r.op == "pointwise")
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = z * h.values["kernel"].value ** 0.5
    slope = 1 - torch.tanh(z) ** 2
    both, expected = h.values["partial_jacobian"].value, part.values["partial_jacobian"].value
    assert abs(both / expected / float(1 + slope.square().mean()) - 1) < 0.005
    assert abs(both / expected / float((1 + slope).square().mean()) - 1) > 0.1
