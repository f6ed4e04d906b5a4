"""``leadline phase-diagram``: order, chaos and the edge between them, as a picture or a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from leadline.cli.activations import NameArgument, NormOption, ResidualOption, named_activation, refusing
from leadline.cli.app import app, ending
from leadline.cli.errors import UserError
from leadline.cli.figures import check_figure, write_figure
from leadline.cli.options import Debug, Json
from leadline.plot.numbers import number
from leadline.program.errors import plain
from leadline.theory.criticality import PHASES, PhaseDiagram, phase_diagram

__all__ = ["phase_diagram_verb"]

_SCHEMA = 1
_PICTURE, _LIST, _TABLE = 201, 41, 9
# a table says the phase without its colours too
_WORDS = {"unbounded": "grows", "critical": "any"}
_MARKS = {"chaotic": "*"}
_LEGEND = {"chaotic": " (*)", "critical": " (any)", "unbounded": " (grows)"}
_STYLES = {"ordered": "blue", "critical": "bold green", "chaotic": "red", "unbounded": "dim"}


@app.command("phase-diagram")
def phase_diagram_verb(
    activation: NameArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a picture: .png, .svg or .pdf.")] = None,
    C_W: Annotated[
        str | None, typer.Option("--C_W", help="FROM:TO, as 0.5:3; default: around what is critical.")
    ] = None,
    C_b: Annotated[str | None, typer.Option("--C_b", help="FROM:TO.")] = None,
    points: Annotated[int | None, typer.Option(min=2, max=2000, help="Points a side.")] = None,
    start: Annotated[float, typer.Option(help="Kernel of the first layer.")] = 1.0,
    norm: NormOption = "none",
    residual: ResidualOption = 0.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Map where a deep network is ordered, chaotic or critical, and over how many layers signals survive."""
    with ending(debug):
        if output is not None:
            check_figure(output)
        size = points or (_PICTURE if output is not None else _LIST if as_json else _TABLE)
        act = named_activation(activation)
        columns, rows = _range(C_W, "C_W", size), _range(C_b, "C_b", size)
        with refusing():
            found = phase_diagram(
                act, C_W=columns, C_b=rows, points=size, start=start, norm=norm, residual=residual
            )  # fmt: skip
        if output is not None:
            write_figure(found.plot, output)
        if as_json:
            sys.stdout.write(json.dumps({"schema": _SCHEMA, **found.to_dict()}, indent=1, allow_nan=False) + "\n")
            return
        console = Console()
        if output is not None:
            console.print(
                Text.assemble("phase diagram of ", (found.activation, "bold"), f" in {plain(output)}"), soft_wrap=True
            )
        else:
            console.print(_table(found))


def _range(text: str | None, name: str, size: int) -> Tensor | None:
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        ends = (float(low), float(high))
    except ValueError:
        ends = (0.0, 0.0)
    if not colon or not 0 <= ends[0] < ends[1] < float("inf"):
        raise UserError(f"--{name} {plain(text)!r} is no range, expected FROM:TO with 0 <= FROM < TO: write 0.5:3.")
    return torch.linspace(ends[0], ends[1], size, dtype=torch.float64)


def _table(d: PhaseDiagram) -> Group:
    """Depth scales over a coarse grid, C_b upwards."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("C_b \\ C_W", justify="right", style="bold")
    columns = _thin(len(d.C_W))
    for j in columns:
        table.add_column(number(float(d.C_W[j])), justify="right")
    scale = d.depth_scale
    for i in reversed(_thin(len(d.C_b))):
        cells = []
        for j in columns:
            phase = PHASES[int(d.phase[i, j])]
            text = _WORDS.get(phase) or _MARKS.get(phase, "") + number(float(scale[i, j]))
            cells.append(Text(text, _STYLES[phase]))
        table.add_row(number(float(d.C_b[i])), *cells)
    head = Text.assemble("depth scale 1/|ln chi_perp| of ", (d.activation, "bold"), ", in layers: ")
    for phase in PHASES:
        head.append(f"{phase}{_LEGEND.get(phase, '')} ", _STYLES[phase])
    parts: list[Text | Table] = [head, table]
    if d.point is not None:
        parts.append(Text(d.point.meaning))
    return Group(*parts)


def _thin(count: int) -> list[int]:
    step = max(1, (count - 1) // (_TABLE - 1))
    return list(range(0, count, step))
