"""A flow on a terminal: what it is, a table of layers, powers of depth, what to know."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from leadline.plot import Column, number, two_sided_table

if TYPE_CHECKING:
    from leadline.flow.flow import Flow

__all__ = ["screen"]

_ROWS = 14
_TWO_SIDES, _ONE_SIDE = 24, 11  # columns of a terminal that a quantity takes
_SIGNED = ("G1", "D", "F")  # near 0 an error in per cent says nothing
_SIDES = ("K", "V", "G1", "Theta", "A", "B", "D", "F")
_THEORY = ("H1", "P", "Q", "R", "S", "T", "U")
_TITLES = {"K": "K+G1/n", "Theta": "Θ+H1/n"}


def screen(flow: Flow, width: int) -> Iterator[Text | Table | Padding]:
    """What a console prints of a flow.

    Args:
        flow: to print.
        width: columns of the terminal.

    Yields:
        Renderables, in order.
    """
    yield _header(flow)
    places = _places(flow.depth)
    labels = [(f"layer {i + 1}", "") for i in places]
    names = [n for n in (*_SIDES, *_THEORY) if getattr(flow, n) is not None]
    for part in _fitting(flow, names, width - 10):
        columns = [_column(flow, name, places) for name in part]
        yield Padding(two_sided_table(labels, ("", ""), columns, width=width), (1, 0, 0, 0))
    if flow.powers:
        yield Padding(_powers(flow), (1, 0, 0, 0))
    for sentence in flow.warnings:
        yield Text(f"! {sentence}", "yellow")
    for sentence in flow.reasons:
        yield Text(f"· {sentence}", "dim")


def _header(flow: Flow) -> Text:
    layers = flow.layers
    text = Text.assemble((f"{layers.activation.name}, {flow.depth} layers", "bold"))
    widths = sorted(set(layers.widths[1:]))
    width = f"width {widths[0]}" if len(widths) == 1 else f"widths {widths[0]} to {widths[-1]}"
    parts = [width, _range("C_W", layers.C_W), _range("C_b", layers.C_b)]
    parts += [_range("λ_W", layers.lambda_W), _range("λ_b", layers.lambda_b)]
    kernels, tangent = flow.networks
    if kernels:
        parts.append(f"{kernels} networks drawn" + (f", {tangent} with tangent kernels" if tangent else ""))
    text.append("  " + " · ".join(parts), "dim")
    return text.append("\nAll but the means K+G1/n and Θ+H1/n are coefficients of 1/n, n the fan-in.", "dim")


def _range(name: str, values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{name} {number(low, 4)}" if low == high else f"{name} {number(low)} to {number(high)}"


def _places(depth: int) -> list[int]:
    """Layers to show: all of few, else in about equal ratios."""
    if depth <= _ROWS:
        return list(range(depth))
    found = {round(depth ** (i / (_ROWS - 1))) - 1 for i in range(_ROWS)}
    return sorted(found | {0, depth - 1})


def _fitting(flow: Flow, names: Sequence[str], width: int) -> Iterator[Sequence[str]]:
    """Names in order, as many at a time as have room side by side."""
    part: list[str] = []
    used = 0
    for name in names:
        size = _TWO_SIDES if name in flow.measured else _ONE_SIDE
        if part and used + size > width:
            yield part
            part, used = [], 0
        part.append(name)
        used += size
    yield part


def _column(flow: Flow, name: str, places: Sequence[int]) -> Column:
    # what is measured contains its correction
    values = flow.corrected(name) if name in _TITLES else flow.of_first(name)
    predicted = [_finite(float(values[i])) if values is not None else None for i in places]
    found = flow.measured.get(name)
    measured = [_finite(found[i].value) if found else None for i in places]
    errors = [found[i].error if found else None for i in places]
    return Column(_TITLES.get(name, name), predicted, measured, errors, relative=name not in _SIGNED)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _powers(flow: Flow) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("power of depth")
    table.add_column("fitted", justify="right")
    table.add_column("theory", justify="right")
    table.add_column("")
    for p in flow.powers:
        note = "" if p.settled or p.fitted is None else "still bending: no power law at this depth"
        table.add_row(p.quantity.replace("Theta", "Θ"), number(p.fitted), number(p.theory), Text(note, "dim"))
    return table
