"""A monitor as it is printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from leadline.plot import number
from leadline.program.errors import plain
from leadline.tune.monitor_reading import Reading, edge_words, regime

if TYPE_CHECKING:
    from leadline.tune.monitor import Monitor

__all__ = ["screen"]

_MOST = 4


def screen(monitor: Monitor) -> Iterator[RenderableType]:
    """The parts of a printed monitor.

    Args:
        monitor: any.

    Yields:
        Things that a rich console prints.
    """
    readings = monitor.readings
    count = "1 reading" if len(readings) == 1 else f"{len(readings)} readings"
    yield Text(f"{plain(type(monitor.model).__name__)}: {count} up to step {readings[-1].step}", "bold")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for what, said in _rows(monitor):
        table.add_row(Text(f"  {what}"), Text(said))
    yield table
    notes = list(dict.fromkeys(n for r in readings for n in r.notes))
    for note in notes[-_MOST:]:
        yield Text(f"! {plain(note, 240)}", "yellow")


def _rows(monitor: Monitor) -> Iterator[tuple[str, str]]:
    readings = monitor.readings
    losses = [r.loss for r in readings if r.loss is not None]
    if losses:
        yield "loss", f"{number(losses[0])} → {number(losses[-1])}"
    sharp = next((r for r in reversed(readings) if r.sharpness is not None), None)
    if sharp is not None:
        yield "sharpness", _sharpness(sharp)
    yield "tangent kernel", f"{regime(readings)[0]}: {regime(readings)[1]}"
    for what, values in (("features", readings[-1].features), ("update", _last(readings, "updates"))):
        if values:
            yield what, _spread(values, "moved since the start by" if what == "features" else "a step is")
    dead = {n: v for n, v in readings[-1].dead.items() if v > 0}
    if readings[-1].dead:
        named = sorted(dead, key=lambda n: -dead[n])
        listed = ", ".join(f"'{plain(n)}' {dead[n]:.0%}" for n in named[:_MOST])
        more = f" and {len(named) - _MOST} more layers" if len(named) > _MOST else ""
        yield "dead units", (listed + more) or "none"
    yield "cost", _cost(monitor)


def _sharpness(r: Reading) -> str:
    value = f"{number(r.sharpness)} ± {number(r.residual)} at step {r.step}"
    share = r.of_edge
    return (
        f"{value}: {edge_words(r)}"
        if share is None
        else f"{value}, {share:.3g} times the edge {number(r.edge)}: {edge_words(r)}"
    )


def _last(readings: list[Reading], name: str) -> Mapping[str, float]:
    return next((found for r in reversed(readings) if (found := getattr(r, name))), {})


def _spread(values: Mapping[str, float], said: str) -> str:
    low, high = min(values, key=lambda n: values[n]), max(values, key=lambda n: values[n])
    middle = f"{said} {number(statistics.median(values.values()))} of their size (median of {len(values)} layers)"
    if len(values) == 1:
        return f"{said} {number(values[low])} of its size"
    return f"{middle}, from {number(values[low])} ('{plain(low)}') to {number(values[high])} ('{plain(high)}')"


def _cost(monitor: Monitor) -> str:
    each = statistics.median(r.seconds for r in monitor.readings)
    budget = "no bound" if monitor.budget is None else f"at most {monitor.budget:.2g} asked for"
    share = "before any training" if math.isinf(monitor.share) else f"{monitor.share:.2%} of the training time"
    more = ""
    if monitor.budget is not None and monitor.budget < monitor.share < math.inf:
        more = "; the next reading waits until the first is paid for"
    return f"{number(monitor.spent)} s, {share} ({budget}), {number(each)} s a reading{more}"
