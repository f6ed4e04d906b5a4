"""The monitor in a loop: what it leaves alone, what it may cost, what it refuses."""

from __future__ import annotations

import copy
import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leadline.tune import Monitor
from measure.once import Once
from refusals import refused
from tune.watched import Net, data, update, watched


def everything(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All that training goes on from."""
    return {
        "state": {n: t.detach().clone() for n, t in net.state_dict().items()},
        "grads": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "same tensors": [p.data_ptr() for p in net.parameters()],
        "modes": [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()],
        "asks": [p.requires_grad for p in net.parameters()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002  the one that training code uses
        "python": random.getstate(),
    }


def same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[k], two[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two)


@pytest.mark.parametrize("training", [True, False])
def test_network_optimizer_and_random_states_stay_as_they_are(training: bool) -> None:
    net, (x, y) = Net().train(training), data()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    update(net, optimizer, x, y)
    before = everything(net, optimizer)
    monitor = Monitor(net, optimizer, batch=x, targets=y, loss="cross_entropy", budget=None)
    assert same(before, everything(net, optimizer))
    reading = monitor.step()
    assert reading is not None
    assert reading.sharpness is not None
    assert reading.kernel_change == reading.updates["conv"] == 0  # nothing was updated
    assert same(before, everything(net, optimizer))
    update(net, optimizer, x, y)
    assert not same(before, everything(net, optimizer))  # the comparison would notice


def test_training_beside_a_monitor_is_the_training_without_it() -> None:
    ends = []
    for monitored in (True, False):
        torch.manual_seed(3)
        net, (x, y) = Net(), data()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        step: Callable[[], Any] = lambda: None  # noqa: E731
        if monitored:
            step = Monitor(net, optimizer, batch=x, targets=y, loss="cross_entropy", budget=None, every=2).step
        for _ in range(6):
            update(net, optimizer, x, y)
            step()
        ends.append(everything(net, optimizer))
    del ends[0]["same tensors"], ends[1]["same tensors"]
    assert same(*ends)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def clocked(monkeypatch: pytest.MonkeyPatch, cost: Callable[[int], float], steps: int, **settings: Any) -> Monitor:
    """A loop whose steps take a second, and whose readings take what is said."""
    clock, probe = Clock(), sys.modules["leadline.tune.monitor_measure"].Probe

    def read(self: Any, step: int, optimizer: Any, before: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
        clock.now += cost(step)
        return {}, ()

    monkeypatch.setattr(probe, "read", read)
    monitor = Monitor(nn.Linear(3, 2), batch=torch.randn(4, 3), clock=clock, **settings)
    for _ in range(steps):
        clock.now += 1.0
        monitor.step()
    return monitor


def test_readings_are_spaced_so_that_the_budget_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = clocked(monkeypatch, lambda step: 2.0, 2000)
    assert monitor.trained == 2000
    assert monitor.spent == 2.0 * len(monitor.readings)
    assert 0.048 < monitor.share <= 0.05  # used, and not passed
    steps = [r.step for r in monitor.readings]
    assert steps[:3] == [0, 81, 121]  # the first is paid for before the second
    assert all(b - a >= 40 for a, b in itertools.pairwise(steps))
    assert "4.90% of the training time" in str(monitor)


def test_readings_that_grow_dearer_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = clocked(monkeypatch, lambda step: 1.0 + step / 100, 4000, budget=0.1)
    assert 0.09 < monitor.share <= 0.102  # a reading costs what the one before did, and a little more
    steps = [r.step for r in monitor.readings]
    assert steps[-1] - steps[-2] > 5 * (steps[3] - steps[2])


def test_without_a_budget_every_reading_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [r.step for r in clocked(monkeypatch, lambda s: 9.0, 10, budget=None, every=4).readings] == [0, 4, 8]
    assert [r.step for r in clocked(monkeypatch, lambda s: 9.0, 3, budget=None).readings] == [0, 1, 2, 3]
    few = clocked(monkeypatch, lambda s: 0.001, 3000, every=1000)  # cheap ones are still no more frequent than asked
    assert [r.step for r in few.readings] == [0, 1000, 2000, 3000]
    dear = clocked(monkeypatch, lambda s: 9.0, 50)
    assert len(dear.readings) == 1
    assert "18.00% of the training time" in str(dear)
    assert "the next reading waits" in " ".join(str(dear).split())


def test_the_first_search_under_adam_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["leadline.tune.monitor_sharpness"]
    make, clock = module.hessian_product, Clock()

    def timed(objective: Any) -> Callable[[Tensor], Tensor]:
        product = make(objective)
        apply = product._apply

        def slow(vector: Tensor) -> Tensor:
            clock.now += 1.0
            return apply(vector)

        product._apply = slow
        return product

    monkeypatch.setattr(module, "hessian_product", timed)
    net, x, y = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(9, 4), torch.randint(0, 3, (9,))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    monitor = Monitor(net, optimizer, batch=x, targets=y, loss="cross_entropy", clock=clock)
    shares = []
    for _ in range(2000):
        update(net, optimizer, x, y)
        clock.now += 1.0
        if monitor.step() is not None:
            shares.append(monitor.share)
    assert monitor.readings[0].sharpness is None
    assert monitor.readings[1].sharpness is not None
    assert monitor.readings[1].step >= 36 / 0.05  # thirty-six products at most were waited for
    assert len(shares) >= 2
    assert max(shares) <= 0.05


def test_compiled_and_data_parallel_models_are_unwrapped() -> None:
    x, y = torch.randn(6, 3), torch.randint(0, 2, (6,))
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    plain = Monitor(net, batch=x, targets=y, loss="cross_entropy").readings[0]
    inside = nn.Sequential(torch.compile(net[0], backend="aot_eager"), *net[1:])  # has no second derivative
    for model in (torch.compile(net, backend="aot_eager"), nn.DataParallel(net), inside):
        model(x)
        reading = Monitor(model, batch=x, targets=y, loss="cross_entropy").readings[0]
        assert reading.sharpness == pytest.approx(plain.sharpness, rel=1e-5)
        assert reading.notes == ()


def test_what_cannot_be_measured_is_said_and_the_rest_goes_on() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(self.a(x))

    net, x, y = Own(), torch.randn(6, 3), torch.randint(0, 2, (6,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = Monitor(net, optimizer, batch=x, targets=y, loss="cross_entropy", budget=None)
    update(net, optimizer, x, y)
    reading = monitor.step()
    assert reading.sharpness is None
    assert reading.loss < monitor.readings[0].loss
    assert reading.kernel_change == pytest.approx(0)  # a linear model
    assert "sharpness is left out from here on" in monitor.readings[0].notes[0]
    assert "once_differentiable" in monitor.readings[0].notes[0]
    assert reading.notes == ()  # and not tried again
    assert "sharpness is left out" in str(monitor)


def test_a_loss_that_has_overflowed_does_not_stop_the_loop() -> None:
    net, x, y = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(6, 3), torch.zeros(6, 2)
    monitor = Monitor(net, torch.optim.SGD(net.parameters(), 0.1), batch=x, targets=y, loss="mse", budget=None)
    with torch.no_grad():
        net[2].weight[:] = float("inf")
    reading = monitor.step()
    assert reading.sharpness is None
    assert "sharpness: " in reading.notes[0]
    assert all(np.isfinite(v) for v in reading.scalars().values())


@pytest.mark.parametrize("shape", [(6,), (6, 2, 2), (3, 8)])
def test_outputs_of_any_shape_have_a_kernel(shape: tuple[int, ...]) -> None:
    class Shaped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).reshape(shape)

    net = Shaped(3, 4 if len(shape) > 1 else 1)
    monitor = Monitor(net, batch=torch.randn(6, 3), budget=None)
    with torch.no_grad():
        net.weight += 1
    assert monitor.step().kernel_change == pytest.approx(0)  # a linear model
    assert monitor.readings[-1].notes == ()


def test_optimizers_without_an_edge_are_said() -> None:
    net, x, y = nn.Linear(3, 2), torch.randn(6, 3), torch.randn(6, 2)
    for optimizer, said in (
        (torch.optim.Rprop(net.parameters()), "no edge follows from curvature for Rprop"),
        (torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, dampening=0.5), "dampens"),
        (torch.optim.SGD([{"params": net.weight, "momentum": 0.5}, {"params": net.bias}], 0.1), "differ in more than"),
        (torch.optim.SGD(net.parameters(), 0.0), "rate is 0"),
    ):
        reading = Monitor(net, optimizer, batch=x, targets=y, loss="mse").readings[0]
        assert reading.edge is None
        assert reading.sharpness is not None
        assert said in reading.notes[0]


def test_what_cannot_be_used_is_refused_in_one_sentence() -> None:
    net, x, y = nn.Linear(3, 2), torch.randn(6, 3), torch.randint(0, 2, (6,))
    good = {"batch": x, "targets": y, "loss": "cross_entropy"}
    with refused("type int", "torch.nn.Module"):
        Monitor(3, batch=x)  # type: ignore[arg-type]
    with refused("optimizer is of type str"):
        Monitor(net, "adam", **good)
    with refused("trains none of the parameters of this Linear"):
        Monitor(net, torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1), **good)
    with refused("targets and no loss"):
        Monitor(net, batch=x, targets=y)
    with refused("needs the targets"):
        Monitor(net, batch=x, loss="mse")
    with refused("no loss 'mean'"):
        Monitor(net, batch=x, targets=y, loss="mean")
    with refused("do not fit the output"):
        Monitor(net, batch=x, targets=y[:4], loss="cross_entropy")
    with refused("the model raised RuntimeError", "monitor's batch"):
        Monitor(net, batch=torch.randn(6, 4))
    with refused("half precision"):
        Monitor(nn.Linear(3, 2).bfloat16(), batch=x.bfloat16())
    with refused("log is of type int", "SummaryWriter"):
        Monitor(net, log=3, **good)
    for name, value in (("every", 0), ("every", 1.5), ("budget", 0), ("samples", 0), ("products", 1)):
        with refused(f"{name}={value}"):
            Monitor(net, **good, **{name: value})


def test_the_picture_and_the_dictionary(tmp_path: Path) -> None:
    monitor = watched(None)
    monitor.plot().savefig(tmp_path / "monitor.png")
    assert (tmp_path / "monitor.png").stat().st_size > 10_000
    assert len(monitor.plot().axes) == 4
    assert [r["step"] for r in monitor.to_dict()["readings"]] == [0, 101]
    bare = Monitor(nn.Linear(3, 2), batch=torch.randn(2, 3), budget=None)  # no loss: half of it stays empty
    with pytest.raises(ValueError, match="one reading"):
        bare.plot()
    bare.step()
    bare.plot().savefig(tmp_path / "bare.png")
    assert bare.regime == "undecided"
