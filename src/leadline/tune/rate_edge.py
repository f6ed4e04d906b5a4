"""The edge as it is: full-batch training runs, from above until one holds, then bisected."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from leadline.measure.curvature import Objective
from leadline.program.errors import UserError, plain
from leadline.tune.rate_run import Optimizer, run_losses
from leadline.tune.rate_stream import Stream

__all__ = ["Edge", "Run", "descend", "measure_edge", "one_run", "rate_curve", "start_loss"]

Hold = Literal["survive", "smooth"]
_TINY = 1e-12
_ROUNDING = 1e-5  # of the loss's start: what a standstill may seem to rise by


@dataclass(frozen=True)
class Run:
    """One training run: its rate, whether it held, its last loss (infinite where it left the numbers), its steps.

    On a stream of batches the last loss is that of the last quarter of the steps, see :meth:`Stream.ending`.
    """

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
    start = start_loss(objective)
    if not math.isfinite(start):
        raise UserError(f"the loss is {start} before training, expected a finite one: check inputs and weights.")
    runs: list[Run] = []

    def holds(rate: float) -> bool:
        found = one_run(objective, optimizer, rate, steps, hold=hold, warmup=warmup, start=start)
        runs.append(found)
        return found.held

    low, high, is_open = descend(holds, guess * span, factor=factor, refinements=refinements)
    return Edge(
        low if is_open else math.sqrt(low * high), low, high, is_open, hold, steps, start,
        sum(r.steps for r in runs) + 1, sorted(runs, key=lambda r: r.rate),
    )  # fmt: skip


def start_loss(objective: Objective) -> float:
    """The loss before training; of a stream, its batches' mean.

    Args:
        objective: the loss.

    Returns:
        The loss.
    """
    if isinstance(objective, Stream):
        return sum(objective.starts) / len(objective.starts)
    return float(objective.value().detach())


def descend(
    holds: Callable[[float], bool], high: float, *, factor: float = 1.6, refinements: int = 4
) -> tuple[float, float, bool]:
    """Divide a rate until it holds, then bisect the logarithm of the bracket.

    Args:
        holds: whether a rate does.
        high: the first rate.
        factor: to divide by.
        refinements: halvings of the bracket.

    Returns:
        A rate that holds, one above that does not, and whether the first rate held (the other is then infinite).

    Raises:
        UserError: none of the rates holds, down to a trillionth of the first.
    """
    if holds(high):
        return high, math.inf, True
    least = high * _TINY
    low = high / factor
    while not holds(low):
        high, low = low, low / factor
        if low < least:
            raise UserError("no learning rate lowers this loss: its gradient is zero or the weights are at their best.")
    for _ in range(refinements):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high, False


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
    start = start_loss(objective)
    rates = [low * (high / low) ** (i / (points - 1)) for i in range(points)]
    return [one_run(objective, optimizer, rate, steps, start=start) for rate in rates]


def one_run(
    objective: Objective,
    optimizer: Optimizer,
    rate: float,
    steps: int,
    *,
    hold: Hold = "survive",
    warmup: int = 0,
    start: float | None = None,
) -> Run:
    """Train once and say whether it held.

    Args:
        objective: the loss on one batch.
        optimizer: a rule or a function.
        rate: learning rate.
        steps: full-batch updates.
        hold: as in :func:`measure_edge`; a run that is to be smooth ends where it is not.
        warmup: steps over which the rate rises.
        start: the loss before training, where it is known.

    Returns:
        The run.
    """
    smooth = hold == "smooth"
    start = start_loss(objective) if start is None else start
    # batches differ before training, so that a rise is one by more than they do: the highest of them has room too, else
    # a step on another batch that lifts it by a trifle would rule out every rate
    ceiling = 2 * max(objective.starts) - start if isinstance(objective, Stream) else start
    limit = ceiling + _ROUNDING * abs(ceiling)
    losses = run_losses(
        objective, optimizer, rate, steps, warmup=warmup, stop=(lambda seen: seen[-1] > limit) if smooth else None
    )
    last = objective.ending(losses, steps) if isinstance(objective, Stream) else losses[-1]
    last = last if math.isfinite(last) else math.inf
    done = len(losses) == steps + 1 and last < start
    return Run(rate, done and (max(losses) <= limit or not smooth), last, len(losses) - 1)
