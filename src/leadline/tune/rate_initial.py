"""The maximal initial learning rate: the largest at which a fresh classifier starts to learn, and its power law."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.measure.curvature import Objective
from leadline.program.errors import UserError
from leadline.tune.rate_edge import descend

__all__ = ["PowerLaw", "fit_power_law", "maximal_initial_rate"]


def maximal_initial_rate(
    objective: Objective,
    *,
    high: float,
    threshold: float = 0.6,
    steps: int = 60,
    batch: int = 128,
    first_layer: Sequence[str] = (),
    first_rate: float = 1e-3,
    factor: float = 1.6,
    refinements: int = 3,
    seed: int = 0,
) -> float:
    r"""Largest constant rate of plain SGD that reaches an accuracy within a few steps.

    .. math:: \eta^* = \sup\{\eta : \text{accuracy on all samples} \ge a \text{ within } T \text{ steps}\}

    The accuracy is looked at every tenth step. Thin first layers on many inputs go unstable on their own; give them a
    small rate to see the law of the others.

    Args:
        objective: a classifier's loss (class numbers as targets, classes on the last axis) on all samples.
        high: rate to descend from.
        threshold: a.
        steps: T.
        batch: samples a step, drawn in shuffled passes.
        first_layer: names of the parameters that get at most ``first_rate``.
        first_rate: of those.
        factor: of the descent.
        refinements: halvings of the last bracket.
        seed: of the shuffling.

    Returns:
        The rate: the geometric mean of the last that works and the first that does not.

    Raises:
        UserError: targets that are no class numbers, a name that is no parameter, or no rate that works.

    Source: Iyer, Hanin & Rolnick (2022), Maximal initial learning rates in deep ReLU networks, section 3.
    """
    if objective.targets.is_floating_point():
        raise UserError("accuracy needs class numbers as targets and got floating-point ones: give class numbers.")
    unknown = [n for n in first_layer if n not in objective.weights]
    if unknown:
        raise UserError(f"there is no trainable parameter '{unknown[0]}' to slow down: name one of the model's.")
    slow = set(first_layer)

    def works(rate: float) -> bool:
        generator = torch.Generator().manual_seed(seed)
        weights = objective.leaves()
        order = torch.empty(0, dtype=torch.long)
        for step in range(1, steps + 1):
            if len(order) < batch:
                order = torch.randperm(len(objective.targets), generator=generator)
            now, order = order[:batch], order[batch:]
            value = objective.part(now.to(objective.targets.device)).value(weights)
            if not math.isfinite(float(value.detach())):
                return False
            slopes = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
            with torch.no_grad():
                for (name, weight), slope in zip(weights.items(), slopes, strict=True):
                    if slope is not None:
                        weight -= (min(rate, first_rate) if name in slow else rate) * slope
            if step % 10 == 0 or step == steps:
                share = _accuracy(objective, {n: w.detach() for n, w in weights.items()})
                if not share >= 0:
                    return False
                if share >= threshold:
                    return True
        return False

    low, above, is_open = descend(works, high, factor=factor, refinements=refinements)
    return low if is_open else math.sqrt(low * above)


def _accuracy(objective: Objective, weights: dict[str, Tensor]) -> float:
    """Share of right answers; not a number where an output is not finite."""
    with torch.no_grad():
        output = objective.output(weights)
    if not bool(output.isfinite().all()):
        return math.nan
    return float((output.argmax(-1) == objective.targets).double().mean())


@dataclass(frozen=True)
class PowerLaw:
    r"""A fitted law :math:`\log\eta = c - p\log(\text{depth}\cdot\text{width})`.

    ``power``: p. ``constant``: c. ``r_squared``: of that fit. ``depth_power``, ``width_power``: fitted apart.
    """

    power: float
    constant: float
    r_squared: float
    depth_power: float
    width_power: float

    def rate(self, depth: float, width: float) -> float:
        """The rate that the law gives."""
        return math.exp(self.constant - self.power * math.log(depth * width))


def fit_power_law(depths: Sequence[float], widths: Sequence[float], rates: Sequence[float]) -> PowerLaw:
    """Least squares for the power law of a rate in depth times width, and in each apart.

    Args:
        depths: of each network.
        widths: of each network.
        rates: measured, positive.

    Returns:
        The law.

    Raises:
        ValueError: fewer than three networks, or depths or widths that are all the same.

    >>> law = fit_power_law([2, 4, 8], [64, 256, 64], [1 / (d * w) ** 0.5 for d, w in ((2, 64), (4, 256), (8, 64))])
    >>> round(law.power, 6), round(law.depth_power, 6), round(law.width_power, 6)
    (0.5, 0.5, 0.5)
    """
    d, w, y = (torch.tensor(v, dtype=torch.float64).log() for v in (depths, widths, rates))
    if len(y) < 3 or float(d.std()) == 0 or float(w.std()) == 0:
        raise ValueError(
            f"got {len(y)} networks, expected at least three of different depths and widths: measure more."
        )
    one = torch.ones_like(y)
    joint = torch.stack([one, -(d + w)], 1)
    constant, power = torch.linalg.lstsq(joint, y).solution.tolist()
    left = y - joint @ torch.tensor([constant, power], dtype=torch.float64)
    apart = torch.linalg.lstsq(torch.stack([one, -d, -w], 1), y).solution.tolist()
    r_squared = 1 - float(left.square().sum() / (y - y.mean()).square().sum())
    return PowerLaw(power, constant, r_squared, apart[1], apart[2])
