"""One reading of a network: everything that is measured on the monitor's batch at one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from leadline.measure.curvature import Objective, TrainingLoss
from leadline.program.batches import split_batch
from leadline.program.errors import UserError, one_line
from leadline.tune.monitor_optimizer import Setting, read_setting
from leadline.tune.monitor_probe import (
    OwnLoss,
    kernel_change,
    layer_values,
    layers_of,
    tangent_kernel,
    undisturbed,
)
from leadline.tune.monitor_sharpness import foreseen_seconds, sharpness
from leadline.tune.rate_rules import stable_curvature

__all__ = ["Probe", "snapshot"]

Snapshot = Mapping[str, list[Tensor]]


class Probe:
    """A network, a batch and what was measured on it at the start; each :meth:`read` leaves the network as it is."""

    def __init__(
        self, model: nn.Module, batch: Any, loss: TrainingLoss | None, targets: Tensor | None, *,
        samples: int, products: int, tolerance: float, seed: int, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        """Try the batch.

        Args:
            model: an unwrapped module.
            batch: what it is called with.
            loss: of its outputs; None: its own, or none.
            targets: of the batch.
            samples: of the batch, for the tangent kernel.
            products: the most curvature products of a reading.
            tolerance: on the residual of the sharpness, as a share of it.
            seed: of start vectors, projections and dropout.
            clock: gives seconds.

        Raises:
            UserError: a batch, loss or targets that cannot be used.
        """
        self.model, self.samples, self.products, self.tolerance, self.seed = model, samples, products, tolerance, seed
        self.foreseen, self._clock = 0.0, clock  # seconds that the next search may take beyond the last
        self._kind, self._loss, self._targets, self._args, self._kwargs = _read_batch(batch, model, loss, targets)
        self._has_loss = self._loss is not None or self._kind is OwnLoss
        self._vector: Tensor | None = None
        self._kernel: Tensor | None = None
        self._values: dict[str, Tensor] = {}
        self._off: set[str] = set()
        with undisturbed(model), torch.no_grad():
            objective = self._objective()
            try:
                objective.value() if self._has_loss else objective.output()
            except UserError:
                raise
            except Exception as error:  # a user's forward may raise anything
                raise UserError(
                    f"the model raised {one_line(error)} on the monitor's batch: give a batch that model(batch) takes."
                ) from error

    def read(
        self, step: int, optimizer: torch.optim.Optimizer | None, before: Snapshot | None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Measure; the first call is what later ones are compared with.

        Args:
            step: number of updates so far.
            optimizer: the one that trains the network.
            before: the matrices from before the last update.

        Returns:
            Fields of a :class:`Reading`, and what could not be measured.
        """
        notes: list[str] = []
        with undisturbed(self.model):
            objective = self._objective()
            found: dict[str, Any] = {"updates": {} if before is None else _updates(self.model, before)}
            if self._has_loss:
                found |= self._part("sharpness", notes, lambda: self._sharp(objective, optimizer, notes)) or {}
                if "loss" not in found:
                    with torch.no_grad():
                        found["loss"] = float(objective.value())
            kernel = self._part("tangent kernel", notes, lambda: tangent_kernel(objective, self.samples))
            if kernel is not None:
                self._kernel = kernel if self._kernel is None else self._kernel
                found["kernel_change"], found["kernel_turn"] = kernel_change(kernel, self._kernel)
            values, found["dead"] = self._part("features", notes, lambda: layer_values(objective)) or ({}, {})
            self._values = self._values or values
            found["features"] = _changes(values, self._values)
        return found, tuple(notes)

    def _objective(self) -> Objective:
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        # a training library may have moved the model since
        args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.to(device), (self._args, dict(self._kwargs)))
        return self._kind(self.model, None, self._loss, self._targets, args=args, kwargs=kwargs, seed=self.seed)

    def _part(self, what: str, notes: list[str], measure: Callable[[], Any]) -> Any:
        """One measurement; training goes on without it where it fails."""
        if what in self._off:
            return None
        try:
            return measure()
        except ValueError as error:
            notes.append(f"{what}: {one_line(error)}.")
        except (UserError, RuntimeError) as error:  # no second derivative, no memory: it would fail again
            self._off.add(what)
            notes.append(f"{what} is left out from here on: {one_line(error)}.")
        return None

    def _sharp(self, objective: Objective, optimizer: torch.optim.Optimizer | None, notes: list[str]) -> dict[str, Any]:
        setting = Setting(None, 0.0) if optimizer is None else read_setting(optimizer, objective)
        if setting.note:
            notes.append(setting.note)
        rate = None if optimizer is None else setting.rate
        # the first search has nothing to go on from
        products = self.products if self._vector is not None else 3 * self.products
        if not setting.ready:
            self.foreseen = foreseen_seconds(objective, products, self._clock)
            return {"rate": rate}
        begun = self._clock()
        top, loss = sharpness(objective, setting.scale, self._vector, tolerance=self.tolerance, products=products)
        self._vector = top.vector
        self.foreseen = max(self.products - top.products, 0) * (self._clock() - begun) / top.products
        if not top.converged:
            notes.append(f"sharpness: a residual of {top.residual / abs(top.value):.0%} after {top.products} products.")
        edge = None if setting.rule is None else stable_curvature(setting.rule, setting.rate)
        return {"loss": loss, "rate": rate, "sharpness": top.value, "residual": top.residual, "edge": edge}


def snapshot(model: nn.Module) -> Snapshot:
    """The trainable matrices of each layer as they are now.

    Args:
        model: an unwrapped module.

    Returns:
        Copies by layer.
    """
    return {name: [w.detach().clone() for w in _matrices(m)] for name, m in layers_of(model).items()}


def _matrices(module: nn.Module) -> list[Tensor]:
    return [p for p in module._parameters.values() if p is not None and p.dim() >= 2 and p.requires_grad]


def _updates(model: nn.Module, before: Snapshot) -> dict[str, float]:
    found = {}
    for name, module in layers_of(model).items():
        now, old = _matrices(module), before.get(name, [])
        size = math.hypot(*(float(b.norm()) for b in old))
        if len(now) == len(old) and size > 0:
            found[name] = math.hypot(*(float((a.detach() - b).norm()) for a, b in zip(now, old, strict=True))) / size
    return found


def _changes(values: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, float]:
    return {
        name: float((value - start[name].to(value)).norm() / start[name].norm())
        for name, value in values.items()
        if name in start and value.shape == start[name].shape
    }


def _read_batch(
    batch: Any, model: nn.Module, loss: TrainingLoss | None, targets: Tensor | None
) -> tuple[type[Objective], Any, Tensor, tuple[Any, ...], Mapping[str, Any]]:
    """Class of objective, loss, targets and call arguments."""
    args, kwargs, paired = split_batch(batch, model)
    targets = paired if targets is None else targets
    labels = kwargs.get("labels")
    if loss is not None:
        if targets is None:
            raise UserError("a loss needs the targets of the batch and got none: give targets=….")
        return Objective, loss, targets, args, kwargs
    if targets is not None:
        raise UserError("there are targets and no loss, expected both: give loss='cross_entropy', 'mse' or a function.")
    if isinstance(labels, Tensor):
        return OwnLoss, None, labels, args, kwargs
    first = next((t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.dim()), torch.zeros(1))
    return Objective, None, torch.zeros(first.shape[0]), args, kwargs
