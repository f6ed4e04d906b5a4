"""Where training stops being stable, from curvature, and the edge, from runs of a few steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leadline.measure.curvature import Curvature, Objective
from leadline.measure.curvature.top import Kind, curvature_of
from leadline.tune.rate_edge import Edge, Hold, measure_edge
from leadline.tune.rate_rules import UpdateRule, stable_rate
from leadline.tune.rate_run import Optimizer, train_steps

__all__ = ["Stability", "predict_edge", "preconditioner", "second_moment_root", "stability", "trial_steps"]

_PRE_STEPS, _PRE_RATE = 10, 1e-3
_FLOOR = 0.01
_CLOSE = 0.1


@dataclass(frozen=True)
class Stability:
    """The stable rate of an update rule and the curvature it comes from.

    ``rate``: see :func:`stable_rate`. ``curvature``: of the loss, or of the preconditioned loss. ``preconditioned``:
    after so many steps; 0 where the rule has no preconditioner. ``passes``: forward and backward passes of those.
    """

    rule: UpdateRule
    rate: float
    curvature: Curvature
    preconditioned: int
    passes: int

    @property
    def settled(self) -> bool:
        """Whether the residual of the curvature is at most a tenth of it."""
        return self.curvature.residual <= _CLOSE * abs(self.curvature.value)


def stability(
    objective: Objective,
    rule: UpdateRule,
    *,
    kind: Kind = "hessian",
    tolerance: float = 0.05,
    products: int = 20,
    steps: int = _PRE_STEPS,
    warm_rate: float = _PRE_RATE,
) -> Stability:
    r"""The rate at which the top mode of the loss begins to flip, by the rule's closed form.

    For Adam the preconditioner is that of the weights after a few steps at a small rate, and so is the Hessian: at the
    very first step :math:`\sqrt{\hat v} = |g|`, which is near zero wherever a gradient happens to vanish, and the
    largest preconditioned curvature belongs to such weights alone.

    Args:
        objective: the loss.
        rule: the optimizer.
        kind: "hessian" or "ggn".
        tolerance: on the residual of the curvature.
        products: the most matrix-vector products.
        steps: of Adam before its preconditioner is read.
        warm_rate: learning rate of those steps.

    Returns:
        The rate and what it comes from.
    """
    if not rule.adaptive:
        found, _ = curvature_of(objective, kind=kind, tolerance=tolerance, products=products)
        return Stability(rule, stable_rate(rule, found.value), found, 0, 0)
    there, spread = preconditioner(objective, rule, steps=steps, rate=warm_rate)
    found, _ = curvature_of(there, kind=kind, tolerance=tolerance, products=products, scale=spread.rsqrt())
    return Stability(rule, stable_rate(rule, found.value), found, steps, steps)


def preconditioner(
    objective: Objective, rule: UpdateRule, *, steps: int = _PRE_STEPS, rate: float = _PRE_RATE, floor: float = _FLOOR
) -> tuple[Objective, Tensor]:
    r"""Adam's preconditioner after a few steps, and the loss at the weights that it then has.

    .. math:: P = \sqrt{v_k/(1-\beta_2^k)} + \epsilon

    Weights whose gradient has been far below that of their tensor (units that are dead so far) would dominate
    :math:`P^{-1/2} H P^{-1/2}` and mean nothing for the loss: they are given ``floor`` times the tensor's rms.

    Args:
        objective: the loss.
        rule: "adam" or "adamw".
        steps: k.
        rate: learning rate of the steps.
        floor: smallest entry, as a share of the rms of its tensor.

    Returns:
        The objective at the new weights, and P, shape (number of weights,).
    """
    _, weights, stepper = train_steps(objective, rule, rate, steps)
    leaves = stepper.param_groups[0]["params"]
    pieces: list[Tensor | None] = [second_moment_root(leaf, stepper.state.get(leaf), rule, floor) for leaf in leaves]
    return objective.at(weights), objective.flatten(pieces).detach()


def second_moment_root(
    leaf: Tensor, state: Mapping[str, Any] | None, rule: UpdateRule, floor: float = _FLOOR
) -> Tensor:
    """P of one weight, see :func:`preconditioner`.

    Args:
        leaf: the weight.
        state: what the optimizer of torch keeps of it; None or empty before its first step.
        rule: "adam" or "adamw".
        floor: smallest entry, as a share of the rms of the tensor.

    Returns:
        Shape of the weight; infinite where no gradient has reached it.
    """
    if not state:
        return torch.full_like(leaf, math.inf)
    moment = state.get("max_exp_avg_sq", state["exp_avg_sq"])
    root = (moment / (1 - rule.beta2 ** float(state["step"]))).sqrt()
    rms = root.square().mean().sqrt()
    return torch.where(rms > 0, root.clamp(min=floor * rms) + rule.eps, math.inf)


def trial_steps(optimizer: Optimizer) -> int:
    """Steps of a trial run: twenty, or four times the memory of a heavy ball where that is longer."""
    if isinstance(optimizer, UpdateRule) and optimizer.name.lower() in ("momentum", "nesterov"):
        return max(20, round(4 / (1 - optimizer.beta)))
    return 20


def predict_edge(
    objective: Objective,
    optimizer: Optimizer,
    guess: float,
    *,
    hold: Hold = "survive",
    steps: int | None = None,
    warmup: int = 0,
) -> Edge:
    """The edge of long training, extrapolated from runs of a few steps.

    Where training at a large rate breaks, it does so within some steps, in growth that feeds itself; so a short run
    stands for a long one. It does not where a run comes back late (saturating activations under cross entropy) or
    where curvature grows slowly until it is too large.

    Args:
        objective: the loss.
        optimizer: a rule or a function.
        guess: a rate of the right size.
        hold: as in :func:`measure_edge`.
        steps: of each run; None: :func:`trial_steps`.
        warmup: steps over which the rate rises.

    Returns:
        The edge of the short runs.
    """
    steps = trial_steps(optimizer) if steps is None else steps
    return measure_edge(objective, optimizer, guess, hold=hold, steps=steps, refinements=2, warmup=warmup)
