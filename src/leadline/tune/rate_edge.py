"""The edge as it is: full-batch training runs, from above until one holds, then bisected."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from leadline.measure.curvature import Objective
from leadline.program.errors import UserError, plain
from leadline.tune.rate_run import Optimizer, run_losses

__all__ = ["Edge", "Run", "measure_edge", "rate_curve"]

Hold = Literal["survive", "smooth"]
_TINY = 1e-12
_ROUNDING = 1e-5  # of the loss's start: what a standstill may seem to rise by


@dataclass(frozen=True)
class Run:
    """One training run: its rate, whether it held, its last loss (infinite where it left the numbers), its steps."""

    rate: float
    held: bool
    loss: float
    steps: int


@dataclass(frozen=True)
class Edge:
    """The largest learning rate at which training holds.

    ``value``: geometric mean of ``low`` (holds) and ``high`` (does not). ``open``: the largest rate that was tried
    still holds, and ``value`` is that rate. ``start``: the loss before training. ``runs``: all, by rising rate.
    ``passes``: forward and backward passes spent.
    """

    value: float
    low: float
    high: float
    open: bool
    hold: str
    steps: int
    start: float
    passes: int
    runs: list[Run] = field(default_factory=list, repr=False)


def measure_edge(
    objective: Objective,
    optimizer: Optimizer,
    guess: float,
    *,
    hold: Hold = "survive",
    steps: int = 100,
    span: float = 32.0,
    factor: float = 1.6,
    refinements: int = 4,
    warmup: int = 0,
) -> Edge:
    r"""Find the edge: descend from above until a run holds, then bisect its logarithm.

    .. math:: \eta^* = \sup\{\eta : \mathcal L_T(\eta) < \mathcal L_0\} \quad\text{("survive")}, \qquad
              \sup\{\eta : \max_{t \le T}\mathcal L_t(\eta) \le \mathcal L_0\} \quad\text{("smooth")}

    Above the first rate that fails there may be others that hold (the border is not a point); the descent finds the
    uppermost of them, up to its factor. The last bracket is narrower than ``factor ** (1 / 2**refinements)``.

    Args:
        objective: the loss on one batch.
        optimizer: a rule, or a function of (weights, rate) that returns a torch optimizer.
        guess: a rate of the right size, such as the stable one; the descent begins ``span`` times above.
        hold: "survive": the loss is finite and below its start after the last step; "smooth": it never rises above
            its start on the way.
        steps: T, full-batch updates a run.
        span: how far above the guess to begin. Where this rate still holds, the edge is open.
        factor: of the descent.
        refinements: halvings of the last bracket.
        warmup: steps over which the rate rises.

    Returns:
        The edge and every run.

    Raises:
        UserError: no such criterion, the loss is not finite at the start, or no rate holds.

    Source: Iyer, Hanin & Rolnick (2022), Maximal initial learning rates in deep ReLU networks, for the search.
    """
    if hold not in ("survive", "smooth"):
        raise UserError(f"there is no criterion '{plain(hold)}', expected survive or smooth: name one of these.")
    if not 0 < guess < math.inf or steps < 1 or span < 1 or factor <= 1:
        raise UserError(
            f"got guess={guess}, steps={steps}, span={span}, factor={factor}: give a positive guess, at least one "
            "step, a span from 1 and a factor above 1."
        )
    start = float(objective.value().detach())
    if not math.isfinite(start):
        raise UserError(f"the loss is {start} before training, expected a finite one: check inputs and weights.")
    runs: list[Run] = []

    def holds(rate: float) -> bool:
        found = _one(objective, optimizer, rate, steps, hold, warmup, start)
        runs.append(found)
        return found.held

    high = guess * span
    is_open = holds(high)
    low = high
    if not is_open:
        while True:
            low = high / factor
            if low < guess * _TINY:
                raise UserError(
                    "no learning rate lowers this loss: its gradient is zero or the weights are at their best."
                )
            if holds(low):
                break
            high = low
        for _ in range(refinements):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if holds(middle) else (low, middle)
    return Edge(
        high if is_open else math.sqrt(low * high), low, math.inf if is_open else high, is_open, hold, steps, start,
        sum(r.steps for r in runs) + 1, sorted(runs, key=lambda r: r.rate),
    )  # fmt: skip


def rate_curve(
    objective: Objective, optimizer: Optimizer, low: float, high: float, *, points: int = 12, steps: int = 100
) -> list[Run]:
    """Losses after training at rates between two, in equal ratios.

    Args:
        objective: the loss on one batch.
        optimizer: a rule or a function.
        low: smallest rate.
        high: largest.
        points: number of runs, at least 2.
        steps: full-batch updates a run.

    Returns:
        The runs, by rising rate.
    """
    start = float(objective.value().detach())
    rates = [low * (high / low) ** (i / (points - 1)) for i in range(points)]
    return [_one(objective, optimizer, rate, steps, "survive", 0, start) for rate in rates]


def _one(
    objective: Objective, optimizer: Optimizer, rate: float, steps: int, hold: str, warmup: int, start: float
) -> Run:
    smooth = hold == "smooth"
    limit = start + _ROUNDING * abs(start)
    losses = run_losses(
        objective, optimizer, rate, steps, warmup=warmup, stop=(lambda seen: seen[-1] > limit) if smooth else None
    )
    last = losses[-1] if math.isfinite(losses[-1]) else math.inf
    done = len(losses) == steps + 1
    held = done and (max(losses) <= limit if smooth else last < start)
    return Run(rate, held and last < start, last, len(losses) - 1)
