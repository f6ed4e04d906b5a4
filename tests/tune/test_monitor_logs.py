"""What the monitor writes to: what a loop logs with, and the callbacks of two trainers."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import nn

from leadline.tune import Monitor
from refusals import refused
from tune.watched import update, watched


class Writer:
    def __init__(self) -> None:
        self.lines: list[tuple[str, float, int]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.lines.append((name, value, step))


class Run:
    def __init__(self) -> None:
        self.lines: list[tuple[dict[str, float], bool | None]] = []

    def log(self, values: dict[str, float], step: int | None = None, commit: bool | None = None) -> None:
        self.lines.append((values, commit))


class Stepped:
    def __init__(self) -> None:
        self.lines: list[tuple[dict[str, float], int]] = []

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.lines.append((values, step))


NAMES = {
    "leadline/loss", "leadline/sharpness", "leadline/edge", "leadline/sharpness_over_edge", "leadline/kernel_change",
    "leadline/kernel_turn", "leadline/update", "leadline/update/0", "leadline/update/2", "leadline/feature_change",
    "leadline/feature_change/0", "leadline/feature_change/2", "leadline/dead", "leadline/dead/0",
}  # fmt: skip


def test_a_summary_writer_gets_scalars() -> None:
    log = Writer()
    monitor = watched(log)
    assert {name for name, _, step in log.lines if step == 101} == NAMES
    assert {step for _, _, step in log.lines} == {0, 101}
    assert ("leadline/sharpness", monitor.readings[-1].sharpness, 101) in log.lines
    assert ("leadline/edge", pytest.approx(20.0), 101) in log.lines


def test_a_run_gets_them_with_what_the_loop_logs_next(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Run()
    watched(log)
    values, commit = log.lines[-1]
    assert commit is False
    assert set(values) == NAMES | {"leadline/step"}
    assert values["leadline/step"] == 101
    module = types.ModuleType("wandb")
    module.log = Run().log  # type: ignore[attr-defined]
    watched(module)
    assert len(module.log.__self__.lines) == 2  # type: ignore[attr-defined]


def test_other_logs() -> None:
    log = Stepped()
    watched(log)
    assert log.lines[-1][1] == 101
    lines: list[tuple[dict[str, float], int]] = []
    watched(lambda values, step: lines.append((values, step)))
    assert [step for _, step in lines] == [0, 101]
    assert set(lines[-1][0]) == NAMES


def fake_lightning(monkeypatch: pytest.MonkeyPatch, name: str) -> types.ModuleType:
    module = types.ModuleType(name)

    class Callback:
        """What Lightning asks of a callback is that it is one."""

        def setup(self, trainer: Any, module: Any, stage: str) -> None:
            """Called of every callback."""

    module.Callback = Callback  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_a_lightning_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    package = fake_lightning(monkeypatch, "lightning.pytorch")
    logged: list[dict[str, float]] = []
    net, x, y = nn.Linear(3, 2), torch.randn(6, 3), torch.randint(0, 2, (6,))
    net.log_dict = logged.append  # type: ignore[assignment]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = Monitor(net, batch=x, targets=y, loss="cross_entropy", budget=None)
    assert monitor.readings[0].edge is None
    callback = monitor.lightning_callback()
    assert isinstance(callback, package.Callback)
    wrapped = types.SimpleNamespace(optimizer=optimizer)  # as Lightning wraps it
    trainer = types.SimpleNamespace(optimizers=[wrapped], global_step=0, is_global_zero=True)
    callback.on_train_start(trainer, net)
    for batch in range(4):  # gradients of two batches are gathered for an update
        if batch % 2:
            update(net, optimizer, x, y)
            trainer.global_step += 1
        callback.on_train_batch_end(trainer, net, None, (x, y), batch)
    assert [r.step for r in monitor.readings] == [0, 1, 2]
    assert monitor.readings[-1].edge == pytest.approx(20.0)
    assert [values["leadline/loss"] for values in logged] == [r.loss for r in monitor.readings[1:]]
    trainer.is_global_zero, trainer.global_step = False, 3
    callback.on_train_batch_end(trainer, net, None, (x, y), 5)
    assert len(monitor.readings) == 3  # other processes do not measure


def test_lightning_that_is_not_imported_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with refused("Lightning is not imported", "import lightning.pytorch"):
        watched(None).lightning_callback()


def test_the_callback_is_of_the_package_that_the_module_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_lightning(monkeypatch, "lightning.pytorch")
    old = fake_lightning(monkeypatch, "pytorch_lightning")
    kind = type("LightningModule", (nn.Linear,), {"__module__": "pytorch_lightning.core.module"})
    monitor = Monitor(kind(3, 2), batch=torch.randn(2, 3))
    assert isinstance(monitor.lightning_callback(), old.Callback)


def test_a_transformers_callback_logs_through_its_trainer() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState

    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=30
    )
    model = transformers.BertForSequenceClassification(config)
    batch = {"input_ids": torch.randint(0, 30, (4, 6)), "labels": torch.tensor([0, 1, 1, 0])}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    class Accelerated(torch.optim.Optimizer):
        """A wrapper that is an optimizer by inheritance alone."""

        def __init__(self) -> None:
            self.optimizer = optimizer

    args = transformers.training_args.TrainingArguments.__new__(transformers.training_args.TrainingArguments)

    class Trainer:
        """The part of a Trainer that logs."""

        def __init__(self) -> None:
            self.control, self.state, self.lines = TrainerControl(), TrainerState(), []
            self.state.is_world_process_zero = True
            self.callback_handler = CallbackHandler([], model, None, Accelerated(), None)

        def log(self, logs: dict[str, float]) -> None:
            self.lines.append(logs)
            self.control = self.callback_handler.on_log(args, self.state, self.control, logs)

    trainer = Trainer()
    monitor = Monitor(model, batch=batch, log=trainer, log_layers=False, budget=None)
    assert monitor.readings[0].loss == pytest.approx(float(model(**batch).loss.detach()), rel=0.5)  # dropout is on
    trainer.callback_handler.add_callback(monitor.trainer_callback())
    handler = trainer.callback_handler
    trainer.control = handler.on_train_begin(args, trainer.state, trainer.control)
    for i in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        trainer.state.global_step = i + 1
        trainer.control.should_log = True
        trainer.control = handler.on_step_end(args, trainer.state, trainer.control)
        assert trainer.control.should_log  # the loop's own line is not lost
    assert [r.step for r in monitor.readings] == [0, 1, 2]
    assert monitor.readings[-1].of_edge > 0
    assert [line["leadline/loss"] for line in trainer.lines] == [r.loss for r in monitor.readings]
    assert not any(name.count("/") > 1 for line in trainer.lines for name in line)
