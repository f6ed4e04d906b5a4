"""``leadline criticality``: the critical initialization of an activation, and what it means."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from leadline.cli.activations import NameArgument, NormOption, ResidualOption, named_activation, refusing
from leadline.cli.app import app, ending
from leadline.cli.options import Debug, Json
from leadline.plot.numbers import number
from leadline.theory.criticality import CriticalLine, LineKind, critical_line, critical_point

__all__ = ["criticality"]

_SCHEMA = 1
_SHOWN = 7


@app.command()
def criticality(
    activation: NameArgument,
    norm: NormOption = "none",
    residual: ResidualOption = 0.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say at which C_W and C_b a deep network neither explodes nor vanishes, and how it behaves there."""
    with ending(debug):
        act = named_activation(activation)
        with refusing():
            found: Any
            if norm == "none":
                found = critical_point(act, residual=residual)
            else:
                found = critical_line(act, norm=norm, residual=residual)
        if as_json:
            sys.stdout.write(json.dumps({"schema": _SCHEMA, **found.to_dict()}, indent=1, allow_nan=False) + "\n")
        else:
            Console().print(_screen(found) if isinstance(found, CriticalLine) else found)


def _screen(line: CriticalLine) -> Group:
    """A critical line as its sentence and some of its points."""
    skip = f", skip {line.residual:g}" if line.residual else ""
    where = f"{str(line.norm).replace('_', ' ')} the activation{skip}"
    said = {
        LineKind.none: "no critical point", LineKind.everywhere: "critical everywhere",
        LineKind.line: "a critical line", LineKind.point: "a critical point",
    }[line.kind]  # fmt: skip
    head = Text.assemble((line.activation, "bold"), f", {where}: ", (said, "green" if line.exists else "yellow"))
    parts: list[Any] = [head, Text(line.meaning)]
    if line.kind is LineKind.line:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for name in ("C_W", "C_b", "K*"):
            table.add_column(name, justify="right")
        step = max(1, (len(line.C_W) - 1) // (_SHOWN - 1))
        for i in range(0, len(line.C_W), step):
            table.add_row(*(number(float(v[i]), 6) for v in (line.C_W, line.C_b, line.K)))
        parts.append(table)
    return Group(*parts)
