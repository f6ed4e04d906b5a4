"""What the monitor says of training against what is computed without it: dense matrices, widths, scalings."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from leadline.check.probe import dead_shares
from leadline.program import trace
from leadline.tune import Monitor
from leadline.tune.rate_rules import UPDATE_RULES, UpdateRule, stable_curvature, stable_rate


def digits(count: int) -> tuple[Tensor, Tensor]:
    found = load_digits()
    x = torch.tensor(found.data[:count] / 16 - 0.3)
    pooled = nn.functional.avg_pool2d(x.reshape(-1, 1, 8, 8), 2).flatten(1)
    return pooled, nn.functional.one_hot(torch.tensor(found.target[:count]), 10).to(x)


def dense_hessian(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    named = {n: p.detach() for n, p in net.named_parameters()}
    flat = torch.cat([p.reshape(-1) for p in named.values()])

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([p.numel() for p in named.values()])
        state = {n: v.view_as(p) for (n, p), v in zip(named.items(), pieces, strict=True)}
        return nn.functional.mse_loss(torch.func.functional_call(net, state, (x,)), y)

    return torch.autograd.functional.hessian(loss, flat)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, monitor: Monitor, x: Tensor, y: Tensor, steps: int) -> None:
    for _ in range(steps):
        loss = nn.functional.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.step()


def test_full_batch_descent_sharpens_until_the_edge_and_the_monitor_is_exact_on_the_way() -> None:
    x, y = digits(100)
    net = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 10)).double()
    rate = 1.0
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    monitor = Monitor(net, optimizer, batch=x, targets=y, loss="mse", budget=None, every=300)
    exact = {0: float(torch.linalg.eigvalsh(dense_hessian(net, x, y))[-1])}
    for i in range(1, 9):
        train(net, optimizer, monitor, x, y, 300)
        if i in (2, 5, 8):
            exact[i] = float(torch.linalg.eigvalsh(dense_hessian(net, x, y))[-1])
    read = monitor.readings
    assert [r.step for r in read] == [300 * i for i in range(9)]
    for i, true in exact.items():
        assert read[i].sharpness == pytest.approx(true, rel=0.01)
        assert abs(read[i].sharpness - true) <= read[i].residual + 1e-9
    assert all(r.edge == pytest.approx(2 / rate) for r in read)
    # it starts far below the edge, rises without a stop, and stays there: not so at a fifth of the rate (below)
    assert read[0].of_edge < 0.4
    assert [r.of_edge for r in read[:4]] == sorted(r.of_edge for r in read[:4])
    assert all(r.of_edge == pytest.approx(1, abs=0.05) for r in read[-4:])


def test_below_the_edge_nothing_is_called_the_edge() -> None:
    x, y = digits(100)
    net = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 10)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    monitor = Monitor(net, optimizer, batch=x, targets=y, loss="mse", budget=None, every=500)
    train(net, optimizer, monitor, x, y, 500)
    assert monitor.readings[-1].of_edge < 0.2
    assert "below the edge" in str(monitor)


@pytest.mark.parametrize("kind", ["adam", "adamw", "groups", "momentum"])
def test_the_sharpness_is_that_of_the_loss_as_the_optimizer_sees_it(kind: str) -> None:
    x, y = digits(60)
    net = nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 10)).double()
    optimizer = {
        "adam": lambda: torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.8, 0.99)),
        "adamw": lambda: torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1),
        "groups": lambda: torch.optim.SGD([{"params": net[0].parameters(), "lr": 0.3}, {"params": net[2].parameters()}], 0.1),
        "momentum": lambda: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
    }[kind]()  # fmt: skip
    monitor = Monitor(
        net, optimizer, batch=x, targets=y, loss="mse", budget=None, every=15, tolerance=1e-3, products=40
    )
    train(net, optimizer, monitor, x, y, 15)
    H = dense_hessian(net, x, y)
    if kind.startswith("adam"):
        beta2 = optimizer.param_groups[0]["betas"][1]
        pieces = []
        for p in net.parameters():
            root = (optimizer.state[p]["exp_avg_sq"] / (1 - beta2**15)).sqrt()
            pieces.append((root.clamp(min=0.01 * root.square().mean().sqrt()) + 1e-8).reshape(-1))
        S = torch.cat(pieces).rsqrt()
    elif kind == "groups":
        S = torch.cat([torch.full((16 * 6 + 6,), 1.0), torch.full((70,), math.sqrt(1 / 3))]).double()
    else:
        S = torch.ones(H.shape[0]).double()
    reading = monitor.readings[-1]
    assert reading.sharpness == pytest.approx(float(torch.linalg.eigvalsh(S[:, None] * H * S)[-1]), rel=1e-3)
    beta = 0.8 if kind == "adam" else 0.9
    edges = {
        "adam": 2 * (1 + beta) / ((1 - beta) * 0.01),
        "adamw": (2 / 0.01 - 0.1) * 19,
        "groups": 2 / 0.3,
        "momentum": 2 * 1.9 / 0.05,
    }
    assert reading.edge == pytest.approx(edges[kind])


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_the_curvature_that_a_rate_bears_is_the_closed_form_turned_round(name: str) -> None:
    rule = UpdateRule(name, 0.7, decay=0.05)
    assert stable_rate(rule, stable_curvature(rule, 0.013)) == pytest.approx(0.013)


class Hidden(nn.Module):
    """f = n^-power sum_i a_i tanh(w_i x / sqrt d): 1/2 is the scaling of the tangent kernel, 1 that of mean fields."""

    def __init__(self, n: int, power: float) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(n)
        self.W = nn.Parameter(torch.randn(n, 6, generator=g, dtype=torch.float64))
        self.a = nn.Parameter(torch.randn(1, n, generator=g, dtype=torch.float64))
        self.factor = n**-power

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * torch.tanh(x @ self.W.T / math.sqrt(x.shape[1])) @ self.a.T


def trained(n: int, power: float, steps: int = 400) -> Monitor:
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.sin(2 * x[:, :1])
    net = Hidden(n, power)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5 * n ** (2 * power - 1))
    monitor = Monitor(net, optimizer, batch=x, targets=y, loss="mse", budget=None, every=steps)
    train(net, optimizer, monitor, x, y, steps)
    return monitor


def test_lazy_training_and_feature_learning_are_told_apart() -> None:
    lazy, rich = trained(768, 0.5), trained(768, 1.0)
    assert lazy.regime == "lazy"
    assert rich.regime == "feature learning"
    for monitor in (lazy, rich):  # both have learned
        assert monitor.readings[-1].loss < 0.05 * monitor.readings[0].loss
    # the drift of a network with one hidden layer falls with its width, that of a mean field stays
    for power, fall in ((0.5, 8.0), (1.0, 1.0)):
        changes = [trained(n, power).readings[-1].kernel_change for n in (48, 384)]
        assert changes[0] / changes[1] == pytest.approx(fall, rel=0.5)


def test_what_is_lazy_by_its_name_alone_is_not_called_lazy() -> None:
    assert trained(8, 0.5).regime == "feature learning"  # the right scaling, but narrow
    assert trained(1024, 1.0, steps=1).regime == "undecided"  # nothing moved, and nothing learned
    assert trained(1024, 0.5, steps=1).regime == "undecided"


def test_the_kernel_is_that_of_the_dense_jacobian() -> None:
    x, y = digits(5)
    net = nn.Sequential(nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, 10)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    monitor = Monitor(net, optimizer, batch=x, targets=y, loss="mse", budget=None, every=20)

    def kernel() -> Tensor:
        named = dict(net.named_parameters())
        rows = torch.func.jacrev(lambda p: torch.func.functional_call(net, p, (x,)))(named)
        J = torch.cat([rows[n].reshape(5, 10, -1) for n in named], -1)
        u = torch.randn(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        g = torch.einsum("i,aip->ap", u, J)
        return (g @ g.T).detach()

    start = kernel()
    train(net, optimizer, monitor, x, y, 20)
    now = kernel()
    reading = monitor.readings[-1]
    assert reading.kernel_change == pytest.approx(float((now - start).norm() / start.norm()), rel=1e-9)
    cosine = float((now * start).sum() / (now.norm() * start.norm()))
    assert reading.kernel_turn == pytest.approx(1 - cosine, rel=1e-6)
    assert reading.kernel_change > 0.01


def test_sizes_of_steps_and_changes_of_features_are_what_they_say() -> None:
    x, y = digits(30)
    net = nn.Sequential(nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, 10)).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    monitor = Monitor(net, optimizer, batch=x, targets=y, loss="mse", budget=None, every=3)
    h = net[0](x).detach()
    train(net, optimizer, monitor, x, y, 2)
    before = net[2].weight.detach().clone()
    train(net, optimizer, monitor, x, y, 1)
    reading = monitor.readings[-1]
    assert reading.step == 3
    moved = float((net[2].weight.detach() - before).norm() / before.norm())
    assert reading.updates["2"] == pytest.approx(moved, rel=1e-12)  # of one step, not of three
    changed = float((net[0](x).detach() - h).norm() / h.norm())
    assert reading.features["0"] == pytest.approx(changed, rel=1e-9)
    assert list(reading.updates) == list(reading.features) == ["0", "2"]


class Quick(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def test_dead_units_are_those_that_the_check_counts() -> None:
    x = torch.randn(20, 3, 6, 6)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(128, 12), Quick(), nn.Linear(12, 16), nn.Tanh(),
        nn.Linear(16, 2),
    )  # fmt: skip
    with torch.no_grad():
        net[0].bias[:2] = -50.0
        net[3].bias[:3] = -60.0
        net[5].bias[:8] = 40.0
    dead = Monitor(net, batch=x).readings[0].dead
    assert dead == {"0": 0.25, "3": 0.25, "5": 0.5}
    assert list(dead_shares(trace(net, x)).values()) == pytest.approx(list(dead.values()))


def test_a_function_of_torch_counts_as_a_nonlinearity_too() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 10), nn.Linear(10, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    net = Own()
    with torch.no_grad():
        net.a.bias[:4] = -100.0
    assert Monitor(net, batch=torch.randn(9, 4)).readings[0].dead == {"a": 0.4}
