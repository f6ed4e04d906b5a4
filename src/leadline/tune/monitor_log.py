"""Writing through what a training loop already logs with, told apart by what it can do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from leadline.program.errors import UserError, plain

__all__ = ["Write", "writer"]

Write = Callable[[Mapping[str, float], int], None]


def writer(log: Any) -> Write:
    """A function of (numbers, step) for anything that logs.

    TensorBoard's ``SummaryWriter`` is known by ``add_scalar``, a Lightning module by ``log_dict``, a ``Trainer`` of
    transformers by ``callback_handler`` and ``log``, Weights & Biases (the module, or a run) by a ``log`` that takes
    ``commit``; else any function of (dict, step) will do.

    Args:
        log: one of these; None writes nowhere.

    Returns:
        The function.

    Raises:
        UserError: nothing of that kind.
    """
    if log is None:
        return lambda values, step: None
    if callable(getattr(log, "add_scalar", None)):
        return lambda values, step: _each(log, values, step)
    if callable(getattr(log, "log_dict", None)):
        return lambda values, step: log.log_dict(dict(values))
    if hasattr(log, "callback_handler") and callable(getattr(log, "log", None)):
        return lambda values, step: _trainer(log, values)
    if isinstance(log, ModuleType) and log.__name__ == "wandb":
        return lambda values, step: _run(log, values, step)
    takes = _parameters(getattr(log, "log", None))
    if "commit" in takes:
        return lambda values, step: _run(log, values, step)
    if "step" in takes:
        return lambda values, step: log.log(dict(values), step=step)
    if callable(log):
        return lambda values, step: log(dict(values), step)
    raise UserError(
        f"log is of type {plain(type(log).__name__)}, expected a SummaryWriter, a W&B run, a LightningModule, a Trainer or a "
        "function of (dict, step): pass one of these, or None and read monitor.readings."
    )


def _each(log: Any, values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        log.add_scalar(name, value, step)


def _run(log: Any, values: Mapping[str, float], step: int) -> None:
    # without a step of its own, and joined to what the loop logs next: W&B drops steps that go backwards
    log.log({**values, "leadline/step": step}, commit=False)


def _trainer(log: Any, values: Mapping[str, float]) -> None:
    wanted = log.control.should_log
    log.log(dict(values))
    log.control.should_log = wanted  # logging takes the loop's own wish to log back


def _parameters(function: Any) -> tuple[str, ...]:
    if not callable(function):
        return ()
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()
