"""From the smooth edge to a rate: the best of a few short runs, confirmed by a long one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from leadline.measure.curvature import Objective
from leadline.program.errors import UserError
from leadline.tune.rate_edge import Edge, Run, one_run, rate_curve
from leadline.tune.rate_run import Optimizer
from leadline.tune.rate_stream import Stream

__all__ = ["SHARE", "Choice", "choose_rate"]

SHARE = 0.5  # of the smooth edge: with it, what changes later in training has room
_HALVINGS = 6
_LOWEST = 30


@dataclass(frozen=True)
class Choice:
    """A rate that was tried: ``rate``, the short ``runs`` it is the best of, the long run that ``confirmed`` it.

    ``compared``: other long runs, on a stream of batches.
    """

    rate: float
    runs: list[Run]
    confirmed: Run
    passes: int
    compared: tuple[Run, ...] = ()


def choose_rate(objective: Objective, optimizer: Optimizer, smooth: Edge, *, steps: int = 100) -> Choice:
    """The rate to use, below the smooth edge of short runs.

    A network can pass every test of an edge and learn nothing (its units dead, its answer constant), and curvature can
    grow after a short run has ended. So of the half, the quarter, … of the edge the one with the lowest loss after the
    short run is taken, and halved until the loss also stays below its start in a longer one.

    On a stream of batches the longer run is no formality: there the steps do not end with the batch learned by heart, and
    the rate that is best over twenty of them may be several times too large for a hundred. So runs at half (or twice) the
    rate follow, first short then long ones, for as long as each ends lower than the one before. A single batch of a stream
    may rise above every start and mean nothing, so there a run counts by where it ends alone.

    Args:
        objective: the loss, on one batch or a stream of them.
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
    best = min(held, key=lambda run: run.loss)
    stream = isinstance(objective, Stream)
    tried: list[Run] = []

    def short_run(rate: float) -> Run:
        runs.append(one_run(objective, optimizer, rate, smooth.steps, start=smooth.start))
        return runs[-1]

    def long_run(rate: float) -> Run:
        tried.append(
            one_run(objective, optimizer, rate, steps, hold="survive" if stream else "smooth", start=smooth.start)
        )
        return tried[-1]

    if stream and best is runs[-1]:
        best = _climb(best, 2.0, short_run)
    elif stream and best is runs[0]:
        best = _climb(best, 0.5, short_run)
    found = long_run(best.rate)
    while not _usable(found):
        if len(tried) == _LOWEST:
            raise UserError(
                "no learning rate keeps this loss below its start: its gradient is zero or it is all noise."
            )
        found = long_run(found.rate / 2)
    if stream:
        first, halved = found, len(tried) > 1
        found = _climb(first, 0.5, long_run)
        if found is first and not halved:  # a rate that was halved to hold has failed at twice its size
            found = _climb(first, 2.0, long_run)
    passes = sum(run.steps for run in (*runs, *tried))
    return Choice(found.rate, runs, found, passes, tuple(run for run in tried if run is not found))


def _climb(best: Run, factor: float, run_at: Callable[[float], Run]) -> Run:
    """Multiply the rate by a factor for as long as the run ends lower."""
    while _usable(run := run_at(best.rate * factor)) and run.loss < best.loss:
        best = run
    return best


def _usable(run: Run) -> bool:
    return run.held and math.isfinite(run.loss)
