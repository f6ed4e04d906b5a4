"""Where along the depth a quantity falls, by how much a layer, and where that begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Fall", "steepest_fall"]

_FLOOR = 1e-300
_SHARE = 0.25


@dataclass(frozen=True)
class Fall:
    """A stretch over which a quantity falls.

    ``start``: number of the first step that falls (it is lower than the one before it). ``stop``: the last one.
    ``ratio``: value at the end over the value before the start. ``rate``: the same a step. ``sustained``: the ratio
    with its one largest step taken as the mean of the others, which is what repeated layers do.
    """

    start: int
    stop: int
    ratio: float
    rate: float
    sustained: float


def steepest_fall(values: Sequence[float | None]) -> Fall | None:
    """The stretch with the largest fall from a value to a later one (the maximum drawdown of the logarithm).

    Args:
        values: non-negative numbers in order of depth; None is skipped.

    Returns:
        The fall; its beginning leaves out steps that fall by less than a quarter of the average. None where
        nothing falls.

    >>> fall = steepest_fall([1.0, 1.0, 1.0, 0.5, 0.25, 0.125])
    >>> fall.start, fall.stop, round(fall.ratio, 6), round(fall.rate, 6)
    (3, 5, 0.125, 0.5)
    """
    known = [(i, math.log(max(v, _FLOOR))) for i, v in enumerate(values) if v is not None and math.isfinite(v)]
    if len(known) < 2:
        return None
    top, best = 0, (0.0, 0, 0)
    for place in range(1, len(known)):
        if known[place][1] >= known[top][1]:
            top = place
        depth = known[place][1] - known[top][1]
        # A later place must be lower by more than rounding, or a plateau after the fall would be part of it.
        if depth < best[0] - 1e-6:
            best = (depth, top, place)
    depth, top, bottom = best
    if bottom == top:
        return None
    average = depth / (bottom - top)
    first = next(i for i in range(top + 1, bottom + 1) if known[i][1] - known[i - 1][1] <= _SHARE * average)
    last = next(i for i in range(bottom, top, -1) if known[i][1] - known[i - 1][1] <= _SHARE * average)
    fallen = known[last][1] - known[first - 1][1]
    count = last - first + 1
    steps = [known[i][1] - known[i - 1][1] for i in range(first, last + 1)]
    others = (fallen - min(steps)) * count / (count - 1) if count > 1 else 0.0
    return Fall(known[first][0], known[last][0], math.exp(fallen), math.exp(fallen / count), math.exp(min(others, 0.0)))
