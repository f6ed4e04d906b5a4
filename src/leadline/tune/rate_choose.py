"""From the smooth edge to a rate: the best of a few short runs, confirmed by a long one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from leadline.measure.curvature import Objective
from leadline.program.errors import UserError
from leadline.tune.rate_edge import Edge, Run, one_run, rate_curve
from leadline.tune.rate_run import Optimizer

__all__ = ["SHARE", "Choice", "choose_rate"]

SHARE = 0.5  # of the smooth edge: with it, what changes later in training has room
_HALVINGS = 6
_LOWEST = 30


@dataclass(frozen=True)
class Choice:
    """A rate that was tried: ``rate``, the short ``runs`` it is the best of, the long run that ``confirmed`` it."""

    rate: float
    runs: list[Run]
    confirmed: Run
    passes: int


def choose_rate(objective: Objective, optimizer: Optimizer, smooth: Edge, *, steps: int = 100) -> Choice:
    """The rate to use, below the smooth edge of short runs.

    A network can pass every test of an edge and learn nothing (its units dead, its answer constant), and curvature can
    grow after a short run has ended. So of the half, the quarter, … of the edge the one with the lowest loss after the
    short run is taken, and halved until the loss also stays below its start in a longer one.

    Args:
        objective: the loss.
        optimizer: a rule or a function.
        smooth: edge of short runs.
        steps: of the long run.

    Returns:
        The rate and its runs.

    Raises:
        UserError: no rate keeps the loss below its start.
    """
    highest = SHARE * smooth.low
    runs = rate_curve(
        objective, optimizer, highest / 2 ** (_HALVINGS - 1), highest, points=_HALVINGS, steps=smooth.steps
    )
    held = [run for run in runs if run.held] or runs
    rate = min(held, key=lambda run: run.loss).rate
    passes = sum(run.steps for run in runs)
    for _ in range(_LOWEST):
        confirmed = one_run(objective, optimizer, rate, steps, hold="smooth", start=smooth.start)
        passes += confirmed.steps
        if confirmed.held and math.isfinite(confirmed.loss):
            return Choice(rate, runs, confirmed, passes)
        rate /= 2
    raise UserError("no learning rate keeps this loss below its start: its gradient is zero or it is all noise.")
