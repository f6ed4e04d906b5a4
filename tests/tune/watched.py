"""Networks that the monitor's tests watch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leadline.tune import Monitor

__all__ = ["Net", "data", "update", "watched"]


class Net(nn.Module):
    """Every kind of state: dropout, running statistics, an embedding, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.attend, self.drop = nn.MultiheadAttention(4, 2, batch_first=True), nn.Dropout(0.2)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        return self.out(self.drop(h + self.attend(h, h, h)[0]).mean(1))


def data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(12, 1, 5, 5, generator=g), torch.randint(0, 3, (12,), generator=g)


def update(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()


def watched(log: Any, **settings: Any) -> Monitor:
    net, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(6, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    given = {"batch": x, "targets": torch.randint(0, 2, (6,)), "loss": "cross_entropy", "budget": None, "every": 2}
    monitor = Monitor(net, optimizer, log=log, **{**given, **settings})
    for i in range(2):
        update(net, optimizer, x, given["targets"])
        monitor.step(100 + i)
    return monitor
