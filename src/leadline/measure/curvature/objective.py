"""The loss of a module on one batch as a function of its weights; the module itself is only read."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from leadline.measure.losses import TrainingLoss, first_output, training_loss
from leadline.measure.reinitialize import isolated_randomness
from leadline.program.batches import batch_from
from leadline.program.errors import UserError, plain

__all__ = ["Objective"]

_HALVES = (torch.float16, torch.bfloat16)


class Objective:
    """A loss that can be evaluated, and differentiated twice, at any weights.

    Every evaluation starts from the same random states (dropout repeats its mask) and from the module's own buffers
    (running statistics are not moved), so it is a function. Attention runs by plain matrix products, whose derivatives
    can be taken twice. Tied parameters are one parameter; frozen ones are constants.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Any = None,
        loss: TrainingLoss = "cross_entropy",
        targets: Tensor | None = None,
        *,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        """Read a module and a batch.

        Args:
            model: any module, in the mode in which it is to be read.
            batch: what it is called with, in any usual form; or give ``args`` and ``kwargs``.
            loss: as in :func:`training_loss`.
            targets: of that batch.
            args: positional call arguments, where ``batch`` is None.
            kwargs: keyword call arguments, where ``batch`` is None.
            seed: of every evaluation's random states.

        Raises:
            UserError: no targets, no trainable parameter, or one in half precision.
        """
        if targets is None:
            raise UserError("a loss needs the targets of the batch and got none: give targets=…")
        if batch is not None:
            args, kwargs = batch_from(batch, model)
        self.model, self.loss, self.targets, self.seed = model, loss, targets, seed
        self.args, self.kwargs = tuple(args), dict(kwargs or {})
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
        if not trainable:
            raise UserError(
                f"the model ({plain(type(model).__name__)}) has no trainable parameter, so its loss has no slope: "
                "set requires_grad."
            )
        half = next((n for n, p in trainable.items() if p.dtype in _HALVES), None)
        if half is not None:
            raise UserError(
                f"parameter '{plain(half)}' is in half precision, which is too coarse for curvature, expected float32 "
                "or float64: measure model.float()."
            )
        self.weights = {n: p.detach().clone() for n, p in trainable.items()}
        self.names = list(self.weights)
        self._rest = {n: p.detach() for n, p in model.named_parameters() if n not in self.weights}
        self._devices = {t.device for t in self.weights.values()}

    def at(self, weights: Mapping[str, Tensor]) -> Objective:
        """The same loss with other weights as its own.

        Args:
            weights: every trainable weight, by name.

        Returns:
            A new objective; this one keeps its weights.
        """
        moved = copy.copy(self)
        moved.weights = {n: weights[n].detach().clone() for n in self.names}
        return moved

    def part(self, samples: slice | Tensor) -> Objective:
        """The same loss on some of the samples.

        Args:
            samples: a slice or index numbers, along axis 0 of the targets and of every input whose axis 0 is as long.

        Returns:
            A new objective with these weights.
        """
        count = self.targets.shape[0]

        def cut(value: Any) -> Any:
            return value[samples] if value.dim() and value.shape[0] == count else value

        smaller = copy.copy(self)
        smaller.targets = self.targets[samples]
        smaller.args, smaller.kwargs = pytree.tree_map_only(Tensor, cut, (self.args, self.kwargs))
        return smaller

    @property
    def size(self) -> int:
        """Number of trainable weights."""
        return sum(w.numel() for w in self.weights.values())

    def value(self, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss at some weights, with a graph to them where they ask for one.

        Args:
            weights: by name; None: the module's own.

        Returns:
            A scalar tensor.
        """
        return training_loss(self.loss, self.output(weights), self.targets)

    def output(self, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The first floating-point output at some weights.

        Args:
            weights: by name; None: the module's own.

        Returns:
            The tensor, with a graph to the weights where they ask for one.

        Raises:
            UserError: the module returned no floating-point tensor.
        """
        return first_output(self.returned(weights), axes=1)

    def returned(self, weights: Mapping[str, Tensor] | None = None) -> Any:
        """Everything that the module returns at some weights.

        Args:
            weights: by name; None: the module's own.

        Returns:
            What its forward returns.
        """
        buffers = {n: b.detach().clone() for n, b in self.model.named_buffers()}
        state = {**self._rest, **buffers, **(self.weights if weights is None else weights)}
        with self.fixed():
            return torch.func.functional_call(self.model, state, self.args, self.kwargs)

    def leaves(self) -> dict[str, Tensor]:
        """The module's weights as new leaves that record a graph."""
        return {n: w.clone().requires_grad_() for n, w in self.weights.items()}

    def flatten(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One vector of a tensor a weight (None: zero), in the order of ``names``."""
        pairs = zip(tensors, self.weights.values(), strict=True)
        return torch.cat([(torch.zeros_like(w) if t is None else t).reshape(-1) for t, w in pairs])

    def split(self, vector: Tensor) -> list[Tensor]:
        """The pieces of a vector in the shapes of the weights."""
        parts = vector.split([w.numel() for w in self.weights.values()])
        return [part.view_as(w) for part, w in zip(parts, self.weights.values(), strict=True)]

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """The random states of this objective, and attention that can be differentiated twice."""
        with isolated_randomness(self.seed, self._devices), sdpa_kernel(SDPBackend.MATH):
            yield
