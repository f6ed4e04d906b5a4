"""A monitor for training loops: sharpness against the edge, kernel drift, update sizes, dead units."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from torch import Tensor, nn

from leadline.measure.losses import TrainingLoss
from leadline.plot import as_text
from leadline.program.errors import UserError, plain
from leadline.tune.monitor_hooks import lightning_callback, trainer_callback
from leadline.tune.monitor_log import writer
from leadline.tune.monitor_measure import Probe, Snapshot, snapshot
from leadline.tune.monitor_optimizer import bare_optimizer
from leadline.tune.monitor_reading import Reading, regime
from leadline.tune.recipe_apply import unwrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Monitor"]

_WIDTH = 110


class Monitor:
    """Watches a network while it trains, and spends no more than a share of the training time on it.

    Made before training starts, it takes a first reading; each :meth:`step` then takes another where one is due and
    affordable. Network, gradients, optimizer, mode and random states stay as they are, to the byte.

    Attributes:
        readings: so far, in order.
        logs, log_layers: whether it was given something to log with, and whether by layer too.
        spent: seconds of the monitor's own work.
        trained: seconds of the loop between its calls.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        >>> x, y = torch.randn(32, 4), torch.randn(32, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> monitor = Monitor(net, optimizer, batch=x, targets=y, loss="mse", budget=None, every=5)
        >>> for _ in range(10):
        ...     loss = nn.functional.mse_loss(net(x), y)
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step()
        ...     _ = monitor.step()
        >>> [r.step for r in monitor.readings], round(monitor.readings[-1].edge, 6)
        ([0, 5, 10], 20.0)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = None,
        *,
        batch: Any,
        loss: TrainingLoss | None = None,
        targets: Tensor | None = None,
        log: Any = None,
        log_layers: bool = True,
        every: int = 1,
        budget: float | None = 0.05,
        samples: int = 8,
        products: int = 12,
        tolerance: float = 0.01,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take the first reading.

        Args:
            model: the network that trains; compiled and data-parallel ones are unwrapped.
            optimizer: the one that trains it, for its edge; may be given later with :meth:`use`.
            batch: what is measured on, always the same: in any form that :func:`leadline.check` takes.
            loss: "cross_entropy", "mse" or a function of (output, targets); None: the model's own, where the batch holds
                its labels, else there is no sharpness.
            targets: of the batch, where it does not hold them.
            log: what the loop logs with: a SummaryWriter, a W&B run, a LightningModule, a Trainer, or any function of
                (dict, step).
            log_layers: log the numbers of each layer too.
            every: readings are at multiples of so many steps.
            budget: most share of the training time to spend; None: no bound.
            samples: of the batch, for the tangent kernel.
            products: the most curvature products of a reading.
            tolerance: on the residual of the sharpness, as a share of it.
            seed: of start vectors, projections and dropout.
            clock: gives seconds.

        Raises:
            UserError: something that cannot be used.
        """
        _check("every", every, every >= 1 and int(every) == every, "a whole number from 1")
        _check("budget", budget, budget is None or 0 < budget < math.inf, "a positive share such as 0.05, or None")
        _check("samples", samples, samples >= 1, "a whole number from 1")
        _check("products", products, products >= 2, "a whole number from 2")
        self._clock = clock
        entered = clock()
        self.model = unwrap(model)
        self.every, self.budget = every, budget
        self.readings: list[Reading] = []
        self.spent = self.trained = 0.0
        self.logs, self._log = log is not None, writer(log)
        self.log_layers = log_layers
        self._optimizer = None if optimizer is None else bare_optimizer(optimizer, self.model)
        self._probe = Probe(
            self.model,
            batch,
            loss,
            targets,
            samples=samples,
            products=products,
            tolerance=tolerance,
            seed=seed,
            clock=clock,
        )
        self._before: Snapshot | None = None
        self._steps, self._snapshot_cost = 0, 0.0
        self._read(0)
        self._leave(entered)

    @property
    def share(self) -> float:
        """What was spent as a share of the training time; infinite before any training."""
        return self.spent / self.trained if self.trained > 0 else math.inf

    @property
    def regime(self) -> str:
        """What :func:`regime` calls the training so far: "lazy", "feature learning" and so on."""
        return regime(self.readings)[0]

    def use(self, optimizer: Any) -> None:
        """Take another optimizer.

        Args:
            optimizer: the one that trains the model from now on.

        Raises:
            UserError: no optimizer, or one of another model.
        """
        self._optimizer = bare_optimizer(optimizer, self.model)

    def step(self, step: int | None = None) -> Reading | None:
        """Tell the monitor that the weights were updated; call it after ``optimizer.step()``.

        Args:
            step: the loop's own number of this update, for the logs; None: the monitor counts.

        Returns:
            The reading, where one was due.
        """
        if self._before is not None:
            self._settle()
        entered = self._clock()
        self.trained += entered - self._left
        self._steps += 1
        if self._steps == 1:  # loggers are set up by now
            self._write(self.readings[0])
        reading = None
        if self._before is not None:
            reading = self._read(self._steps if step is None else int(step))
            self._write(reading)
            self._before = None
        self._leave(entered)
        return reading

    def plot(self) -> Figure:
        """Draw what was read: see :func:`leadline.tune.monitor_picture.monitor_picture`."""
        from leadline.tune.monitor_picture import monitor_picture

        return monitor_picture(self)

    def lightning_callback(self) -> Any:
        """A callback for Lightning's ``Trainer``: see :func:`leadline.tune.monitor_hooks.lightning_callback`."""
        return lightning_callback(self)

    def trainer_callback(self) -> Any:
        """A callback for the ``Trainer`` of transformers: see :func:`leadline.tune.monitor_hooks.trainer_callback`."""
        return trainer_callback(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts."""
        what, why = regime(self.readings)
        return {
            "readings": [r.to_dict() for r in self.readings], "regime": what, "why": why, "budget": self.budget,
            "spent": self.spent, "trained": self.trained,
        }  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from leadline.tune.monitor_screen import screen

        yield from screen(self)

    def __str__(self) -> str:
        return "\n".join(line.rstrip() for line in as_text(self, _WIDTH).splitlines())

    def _read(self, step: int) -> Reading:
        start = self._clock()
        found, notes = self._probe.read(step, self._optimizer, self._before)
        self._settle()
        reading = Reading(step, **found, seconds=self._clock() - start, notes=notes)
        self.readings.append(reading)
        return reading

    def _write(self, reading: Reading) -> None:
        self._log(reading.scalars(layers=self.log_layers), reading.step)

    def _leave(self, entered: float) -> None:
        """Prepare for the next step, and book the time since a call began."""
        if (self._steps + 1) % self.every == 0 and self._affordable(self._clock() - entered):
            start = self._clock()
            self._before = snapshot(self.model)
            self._settle()
            self._snapshot_cost = self._clock() - start
        self._left = self._clock()
        self.spent += self._left - entered

    def _affordable(self, now: float) -> bool:
        """Whether another reading would keep within the budget."""
        if self.budget is None:
            return True
        another = self.readings[-1].seconds + self._probe.foreseen + self._snapshot_cost
        return self.spent + now + another <= self.budget * self.trained

    def _settle(self) -> None:
        """Let the device finish, so that each second is counted on the side that spent it."""
        for device in {p.device for p in self.model.parameters() if p.device.type != "cpu"}:
            torch.get_device_module(device).synchronize(device)


def _check(name: str, value: Any, right: bool, expected: str) -> None:
    if not right:
        raise UserError(f"got {name}={plain(value)}, expected {expected}: change it.")
