"""A loss of which every training step sees other samples, as it does in training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from leadline.measure.curvature import Objective
from leadline.program.errors import UserError

__all__ = ["Stream"]


class Stream(Objective):
    """The samples of an objective in batches of a training step's size, in another order in each epoch.

    A run on one batch ends when the batch is learned by heart: gradients vanish, and Adam's steps with them. Steps on
    batches not seen before go on pushing, so that larger rates fail; and the loss of a batch before its step is that
    of samples that have not been trained on, for as long as the first epoch lasts.
    """

    def __init__(self, objective: Objective, size: int, *, seed: int = 0) -> None:
        """Split an objective's samples, once, into batches.

        Args:
            objective: with at least two batches of samples, along axis 0 of its targets.
            size: samples of a step; those left over are not used.
            seed: of the split and the orders.

        Raises:
            UserError: fewer samples than two batches.
        """
        samples = objective.targets.shape[0] if objective.targets.dim() else 1
        if not 1 <= size <= samples // 2:
            raise UserError(
                f"got {samples} samples for training steps of {size}, expected at least two steps' worth: give more "
                "samples, or leave batch_size out."
            )
        self.__dict__.update(objective.__dict__)  # it is that objective, and knows its batches
        self.whole, self._order_seed, self.count = objective, seed, samples // size
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
        self.parts = order[: self.count * size].view(self.count, size).to(objective.targets.device)

    def part_at(self, step: int) -> int:
        """Number of the batch that a step sees.

        Args:
            step: from 0.

        Returns:
            From 0 to ``count`` - 1; each once an epoch.
        """
        epoch, place = divmod(step, self.count)
        if epoch == 0:
            return place
        generator = torch.Generator().manual_seed(self._order_seed + 7919 * epoch)
        return int(torch.randperm(self.count, generator=generator)[place])

    def at_step(self, step: int) -> Objective:
        """The loss on the batch of a step.

        Args:
            step: from 0.

        Returns:
            The objective, whose own weights are the same.
        """
        return self.whole.part(self.parts[self.part_at(step)])

    @cached_property
    def starts(self) -> list[float]:
        """The batches' losses before training."""
        with torch.no_grad():
            return [float(self.whole.part(part).value()) for part in self.parts]

    def ending(self, losses: Sequence[float], steps: int) -> float:
        """The loss at the end of a run, free of what its last batches happened to be.

        Args:
            losses: of each step's batch before its update.
            steps: of the whole run; its last quarter counts.

        Returns:
            The mean fall of the last batches below their own starts, taken from the mean start.
        """
        first = len(losses) - max(1, steps // 4)
        falls = [loss - self.starts[self.part_at(t)] for t, loss in enumerate(losses) if t >= first]
        return sum(self.starts) / self.count + sum(falls) / len(falls)
