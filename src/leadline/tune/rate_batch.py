"""How the learning rate changes with the batch: the noise of the gradient against the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.measure.curvature import Objective
from leadline.program.errors import UserError

__all__ = ["GradientNoise", "gradient_noise", "rate_at_batch"]


@dataclass(frozen=True)
class GradientNoise:
    r"""The noise of single samples' gradients beside the mean gradient.

    ``trace``: tr Sigma, of the covariance of one sample's gradient. ``signal``: squared norm of the mean gradient, less
    the share of noise in it (it may come out negative where noise is all there is). ``samples`` and ``groups``: the
    batch, and how many parts it was split into. ``critical_batch``: trace / signal; infinite where there is no signal.
    """

    trace: float
    signal: float
    samples: int
    groups: int

    @property
    def critical_batch(self) -> float:
        """Batch beyond which larger batches no longer allow larger rates."""
        return self.trace / self.signal if self.signal > 0 else math.inf


def gradient_noise(objective: Objective, *, groups: int = 32) -> GradientNoise:
    r"""Measure gradient noise by splitting the batch into parts.

    .. math:: \operatorname{tr}\Sigma = b\,\frac{1}{m-1}\sum_{i=1}^m |g_i - \bar g|^2, \qquad
              |g|^2 = |\bar g|^2 - \frac{\operatorname{tr}\Sigma}{mb}

    m parts of b samples each; both estimates are unbiased where the loss is a mean over samples that do not see one
    another (not so under batch norm in train mode, or where padding makes parts weigh unequally).

    Args:
        objective: the loss; axis 0 of every input and target that has the batch's length is the sample.
        groups: m, at most; the cost is one forward and backward pass of the batch.

    Returns:
        The noise.

    Raises:
        UserError: fewer than two samples.

    Source: McCandlish et al. (2018), An empirical model of large-batch training, section 2.2 and appendix A.
    """
    samples = objective.targets.shape[0] if objective.targets.dim() else 0
    count = min(groups, samples)
    if count < 2:
        raise UserError(f"gradient noise needs at least two samples and the targets have {samples}: give a batch.")
    size = samples // count
    parts = [_gradient(objective, slice(i * size, (i + 1) * size)) for i in range(count)]
    mean = torch.stack(parts).mean(0)
    trace = size * float(sum((p - mean).square().sum() for p in parts)) / (count - 1)
    return GradientNoise(trace, float(mean.square().sum()) - trace / (count * size), count * size, count)


def _gradient(objective: Objective, part: slice) -> Tensor:
    piece = objective.part(part)
    leaves = piece.leaves()
    found = torch.autograd.grad(piece.value(leaves), list(leaves.values()), allow_unused=True)
    return objective.flatten(found).double()


def rate_at_batch(rate: float, batch: int, new_batch: int, critical_batch: float, *, adaptive: bool = False) -> float:
    r"""The learning rate at another batch size, from one that is right at this.

    .. math:: \frac{\eta(B')}{\eta(B)} = \left(\frac{1 + B_c/B}{1 + B_c/B'}\right)^{\alpha}, \qquad
              \alpha = 1 \text{ (SGD)}, \quad \tfrac12 \text{ (Adam)}

    Far below the critical batch this is the linear rule (square root for Adam), far above it nothing changes.

    Args:
        rate: eta(B).
        batch: B, samples a step.
        new_batch: B'.
        critical_batch: B_c; infinite: the rule of small batches holds throughout.
        adaptive: Adam's rule.

    Returns:
        eta(B').

    Raises:
        ValueError: a batch below one, or a negative critical batch.

    Source: McCandlish et al. (2018), section 2; Malladi et al. (2022), On the SDEs and scaling rules for adaptive
    gradient algorithms, for the square root.

    >>> rate_at_batch(0.1, 32, 64, float("inf")), rate_at_batch(0.1, 32, 64, 0.0)
    (0.2, 0.1)
    """
    if batch < 1 or new_batch < 1 or not critical_batch >= 0:
        raise ValueError(
            f"got batches {batch} and {new_batch} with critical batch {critical_batch}: give at least 1, 1, 0."
        )
    if math.isinf(critical_batch):
        ratio = new_batch / batch
    else:
        ratio = (1 + critical_batch / batch) / (1 + critical_batch / new_batch)
    return rate * (math.sqrt(ratio) if adaptive else ratio)
