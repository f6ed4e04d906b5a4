"""Callbacks that step a monitor from the loops of Lightning and of transformers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from leadline.program.errors import UserError
from leadline.tune.monitor_log import writer

if TYPE_CHECKING:
    from leadline.tune.monitor import Monitor

__all__ = ["lightning_callback", "trainer_callback"]

_LIGHTNING = ("lightning.pytorch", "pytorch_lightning")


def lightning_callback(monitor: Monitor) -> Any:
    """A callback for ``Trainer(callbacks=[…])`` of Lightning, on its first process.

    It takes the optimizer from the trainer and logs with the module's own ``self.log_dict``, where the monitor has no
    log of its own. Lightning is not imported here: the class is made from the package that the caller has imported.

    Args:
        monitor: of the module that trains.

    Returns:
        An instance of a subclass of Lightning's ``Callback``.

    Raises:
        UserError: Lightning is not imported.
    """
    kinds = {c.__module__.split(".")[0] for c in type(monitor.model).__mro__ if c.__name__ == "LightningModule"}
    names = sorted(_LIGHTNING, key=lambda n: n.split(".")[0] not in kinds)
    package = next((sys.modules[n] for n in names if n in sys.modules), None)
    if package is None:
        raise UserError("Lightning is not imported, expected 'import lightning.pytorch' first: import it.")

    class LeadlineMonitor(package.Callback):  # type: ignore[name-defined]
        """Steps the monitor after each update."""

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.updates = int(trainer.global_step)
            if trainer.is_global_zero and trainer.optimizers:
                monitor.use(trainer.optimizers[0])

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            updates = int(trainer.global_step)
            # batches whose gradients are still gathered are no updates
            if trainer.is_global_zero and updates > self.updates:
                self.updates = updates
                reading = monitor.step(updates)
                if reading is not None and not monitor.logs:
                    writer(module)(reading.scalars(layers=monitor.log_layers), updates)

    return LeadlineMonitor()


def trainer_callback(monitor: Monitor) -> Any:
    """A callback for ``Trainer.add_callback`` of transformers, on its first process.

    A callback cannot log: give the monitor ``log=trainer``, or another log of its own.

    Args:
        monitor: of the model that trains.

    Returns:
        An instance of a subclass of ``transformers.TrainerCallback``.

    Raises:
        UserError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise UserError(
            "transformers is not installed, expected it for its callback: pip install 'leadline[transformers]'."
        ) from error

    class LeadlineMonitor(TrainerCallback):
        """Steps the monitor after each update."""

        def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **others: Any) -> None:
            if state.is_world_process_zero and optimizer is not None:
                monitor.use(optimizer)

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.is_world_process_zero:
                monitor.step(state.global_step)

    return LeadlineMonitor()
