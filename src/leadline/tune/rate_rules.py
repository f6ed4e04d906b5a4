"""The largest learning rate at which an update rule stays at a minimum of a given curvature, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from leadline.program.errors import UserError, near, plain

__all__ = ["UPDATE_RULES", "UpdateRule", "catapult_window", "stable_curvature", "stable_rate"]

Name = Literal["sgd", "momentum", "nesterov", "adam", "adamw"]
UPDATE_RULES = ("sgd", "momentum", "nesterov", "adam", "adamw")
_FIXED_STEP = {
    "lion": "its steps have one size whatever the gradient, so no curvature makes it diverge",
    "muon": "its steps have one size a matrix, so no curvature makes it diverge",
    "lamb": "its steps are a share of each weight's norm, so no curvature makes it diverge",
    "lars": "its steps are a share of each weight's norm, so no curvature makes it diverge",
}


@dataclass(frozen=True)
class UpdateRule:
    """An optimizer and its settings, as torch has them.

    ``name``: "sgd", "momentum", "nesterov", "adam" or "adamw". ``beta``: momentum, for Adam the first beta.
    ``beta2`` and ``eps``: of Adam. ``decay``: weight decay (L2 for the SGD family and "adam", decoupled for "adamw").
    """

    name: str = "sgd"
    beta: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay: float = 0.0

    def __post_init__(self) -> None:
        name = self.name.lower()
        if name in _FIXED_STEP:
            raise UserError(
                f"'{plain(self.name)}' has no edge that follows from curvature ({_FIXED_STEP[name]}): give a function "
                "(parameters, rate) -> optimizer, and its rate is found by trial runs."
            )
        if name not in UPDATE_RULES:
            raise UserError(f"there is no optimizer '{plain(self.name)}': {near(self.name, UPDATE_RULES)}.")
        for what, value in (("beta", self.beta), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise UserError(f"got {what}={value}, expected a number from 0 up to (not including) 1.")
        if not 0 <= self.decay < math.inf:
            raise UserError(f"got a weight decay of {self.decay}, expected a number from 0.")

    @property
    def adaptive(self) -> bool:
        """Whether the curvature that counts is that of the preconditioned loss."""
        return self.name.lower().startswith("adam")


def stable_rate(rule: UpdateRule, curvature: float) -> float:
    r"""Largest stable learning rate on a quadratic whose largest curvature is given.

    .. math::
        \text{SGD } \frac{2}{\lambda + w}, \qquad \text{momentum } \frac{2(1+\beta)}{\lambda + w}, \qquad
        \text{Nesterov } \frac{2(1+\beta)}{(1+2\beta)(\lambda + w)}, \qquad
        \text{Adam } \frac{2(1+\beta)}{(1-\beta)\lambda_P}, \qquad
        \text{AdamW } \frac{2}{w + \lambda_P (1-\beta)/(1+\beta)}

    At the edge the top mode flips its sign at each step: put :math:`\theta_t = (-1)^t` into the rule and solve for the
    rate. :math:`\lambda_P = \lambda_{\max}(P^{-1/2} H P^{-1/2})` with :math:`P = \sqrt{\hat v} + \epsilon` held fixed.
    With L2 decay under Adam, w belongs into H before P is applied.

    Args:
        rule: the optimizer; momentum as torch has it (not damped), Adam with its average of gradients.
        curvature: the largest eigenvalue; of the preconditioned Hessian where the rule is adaptive.

    Returns:
        The rate; infinite where no direction curves up.

    Source: Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability,
    appendix B; Cohen et al. (2022), Adaptive gradient methods at the edge of stability, section 3.

    >>> stable_rate(UpdateRule("sgd"), 4.0), round(stable_rate(UpdateRule("adam"), 4.0), 6)
    (0.5, 9.5)
    """
    name, beta, decay = rule.name.lower(), rule.beta, rule.decay
    if name == "adamw":
        bent = decay + max(curvature, 0.0) * (1 - beta) / (1 + beta)
        return 2 / bent if bent > 0 else math.inf
    if name == "adam":
        return 2 * (1 + beta) / ((1 - beta) * curvature) if curvature > 0 else math.inf
    factors = {"sgd": 2.0, "momentum": 2 * (1 + beta), "nesterov": 2 * (1 + beta) / (1 + 2 * beta)}
    bent = curvature + decay
    return factors[name] / bent if bent > 0 else math.inf


def stable_curvature(rule: UpdateRule, rate: float) -> float:
    r"""Largest curvature at which a learning rate is stable on a quadratic: :func:`stable_rate` the other way round.

    .. math:: \eta_{\max}(\lambda) = \eta

    Args:
        rule: the optimizer.
        rate: learning rate.

    Returns:
        The curvature; of the preconditioned Hessian where the rule is adaptive. Infinite at a rate of 0, and negative
        where weight decay alone is too much.

    >>> stable_curvature(UpdateRule("sgd"), 0.5), round(stable_curvature(UpdateRule("adam"), 9.5), 6)
    (4.0, 4.0)
    """
    if rate <= 0:
        return math.inf
    name, beta, decay = rule.name.lower(), rule.beta, rule.decay
    if rule.adaptive:
        return (2 / rate - (decay if name == "adamw" else 0.0)) * (1 + beta) / (1 - beta)
    return stable_rate(UpdateRule(name, beta), 1.0) / rate - decay


def catapult_window(curvature: float, layers: int) -> tuple[float, float]:
    r"""Between which rates the squared error of a homogeneous network stops surviving gradient descent.

    .. math:: \frac{4}{\lambda} \le \eta_{\text{edge}} \le \frac{2L}{\lambda}

    Beyond 2/lambda the outputs f grow along the top mode until they have left the targets behind. Then, for a network of
    degree L, :math:`\theta\cdot g = L\, f\cdot\ell'(f)` and

    .. math:: |\theta'|^2 - |\theta|^2 = -2\eta\,\theta\cdot g + \eta^2 |g|^2 = \frac{2\eta |f|^2}{M}(\eta\lambda - 2L)

    (loss |f|^2/M): below 2L/lambda the weights shrink, and the curvature with them. This is the edge where all weights
    move together (one weight a layer). In wide random layers only a direction of each moves, the curvature falls below
    4/lambda alone, whatever the depth: measured 4.0 for two and three linear layers of width 50 to 1000, 4.3 to 4.8 for
    four of width 200, 4.5 to 5.6 for six of width 100. ReLU networks survive more, since units that are carried too
    far fall silent.

    For the cross entropy the balance has no edge: far from the targets its gradient is bounded, both terms grow alike
    with the rate, and what decides is how far a step carries the weights against their own size.

    Args:
        curvature: largest eigenvalue of the Gauss-Newton matrix of the loss.
        layers: degree L: weight layers in a row, without biases, norms or skips.

    Returns:
        The lower and the upper rate, equal for two layers.

    Raises:
        ValueError: fewer than two layers, for which the edge is 2/lambda, or no curvature.

    Source: the balance is own; L = 2 is Lewkowycz et al. (2020), The large learning rate phase of deep learning.
    """
    if layers < 2 or not curvature > 0:
        raise ValueError(f"got {layers} layers and curvature {curvature}: give at least two layers and a positive one.")
    return 4 / curvature, 2 * layers / curvature
