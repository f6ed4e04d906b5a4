"""``leadline diff``: what a change did to a network, from two reports."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leadline.cli.app import app, ending
from leadline.cli.errors import UserError
from leadline.cli.files import existing_file
from leadline.cli.options import Debug, Json
from leadline.cli.text import literal
from leadline.plot.numbers import number
from leadline.program.errors import one_line, plain

__all__ = ["Change", "changes", "diff", "read_report"]

_SCHEMA = 1
_BOUNDED = ("correlation", "site_correlation", "flat_fraction")
_LEAST = 0.02  # a smaller change, in logarithm or correlation, is not worth a line
_COMPARED = (
    "kernel", "correlation", "site_correlation", "chi_parallel", "chi_perp", "partial_jacobian", "tangent_kernel",
    "spread", "flat_fraction",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One quantity at one row, before and after; ``size``: |ln ratio|, or the difference of what lies in [-1, 1]."""

    layer: str
    op: str
    quantity: str
    side: str
    before: float
    after: float
    size: float


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="Report of `leadline check --json` before the change.")],
    after: Annotated[Path, typer.Argument(help="Report after the change.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows with the largest changes to show.")] = 12,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a change did: verdicts that are gone or new, and the rows that changed most."""
    with ending(debug):
        a, b = read_report(before), read_report(after)
        gone, new = _verdicts(a, b), _verdicts(b, a)
        found = changes(a, b)
        if as_json:
            out = {"schema": _SCHEMA, "gone": gone, "new": new, "changes": [vars(c) for c in found[:rows]]}
            sys.stdout.write(json.dumps(out, indent=1, allow_nan=False) + "\n")
            return
        console = Console()
        console.print(Text.assemble("from ", literal(a["target"], "bold"), " to ", literal(b["target"], "bold")))
        for mark, style, verdicts in (("gone", "green", gone), ("new", "red", new)):
            for v in verdicts:
                where = (
                    f"{v.get('rule')} ({v.get('severity')}) at {v.get('layer') or 'the network'}: {v.get('message')}"
                )
                console.print(Text.assemble((f"{mark:>5}  ", f"bold {style}"), literal(where, limit=400)))
        if not gone and not new:
            console.print("the same verdicts")
        console.print(_table(found[:rows]) if found else "no row changed")


def read_report(path: Path) -> dict[str, Any]:
    """Read a report of ``leadline check --json``.

    Args:
        path: a JSON file.

    Returns:
        The report.

    Raises:
        UserError: no such file, no JSON, no report, or one of another schema.
    """
    file = existing_file(path, "report", (".json",))
    name = f"report '{plain(file.name, 60)}'"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{name} is not JSON ({one_line(error, 80)}), expected what `leadline check --json` writes: write it again."
        ) from error
    if not isinstance(found, dict) or "schema" not in found:
        raise UserError(f"{name} is no report, expected what `leadline check --json` writes: write it again.")
    if found["schema"] != _SCHEMA:
        raise UserError(
            f"{name} has schema {plain(found['schema'], 20)}, expected {_SCHEMA}: write it again with this "
            "version of leadline."
        )
    lists = (found.get("verdicts"), found.get("rows"))
    if not all(isinstance(part, list) and all(isinstance(e, dict) for e in part) for part in lists):
        raise UserError(f"{name} is damaged (verdicts or rows are not lists), expected a whole report: write it again.")
    found.setdefault("target", "?")
    return found


def _verdicts(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Verdicts of a that b has not: by rule, layer and severity."""
    other = {(v.get("rule"), v.get("layer"), v.get("severity")) for v in b["verdicts"]}
    return [v for v in a["verdicts"] if (v.get("rule"), v.get("layer"), v.get("severity")) not in other]


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """The quantity that changed most in each row, rows with the largest changes first.

    Predictions are compared where both reports have them, else measurements.

    Args:
        a: report before.
        b: report after.

    Returns:
        One entry a row in which something changed by more than 2 %, largest first.
    """
    after = _by_place(b)
    found = []
    for place, row in _by_place(a).items():
        other = after.get(place, {})
        known = [_change(place, name, row.get(name), other.get(name)) for name in _COMPARED]
        changed = [c for c in known if c is not None and c.size > _LEAST]
        if changed:
            found.append(max(changed, key=lambda c: c.size))
    return sorted(found, key=lambda c: -c.size)


def _by_place(report: Mapping[str, Any]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Rows by layer, operator and the number of such rows before."""
    seen: dict[tuple[str, str], int] = {}
    found = {}
    for row in report["rows"]:
        key = (str(row.get("layer")), str(row.get("op")))
        seen[key] = seen.get(key, -1) + 1
        found[(*key, seen[key])] = row
    return found


def _change(place: tuple[str, str, int], quantity: str, a: Any, b: Any) -> Change | None:
    if not isinstance(a, dict) or not isinstance(b, dict):
        return None
    for side in ("predicted", "measured"):
        x, y = a.get(side), b.get(side)
        if isinstance(x, (int, float)) and isinstance(y, (int, float)):
            if quantity in _BOUNDED:
                size = abs(y - x)
            elif x > 0 and y > 0:
                size = abs(math.log(y / x))
            else:
                size = 0.0 if x == y else math.inf if quantity == "kernel" else 0.0
            return Change(place[0], place[1], quantity, side, float(x), float(y), min(size, 1e3))
    return None


def _table(found: list[Change]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for head in ("layer", "step", "quantity"):
        table.add_column(head, no_wrap=True, overflow="ellipsis")
    for head in ("before", "after", "change"):
        table.add_column(head, justify="right", no_wrap=True)
    for c in found:
        change = (
            f"{c.after - c.before:+.3f}"
            if c.quantity in _BOUNDED
            else f"× {number(c.after / c.before)}"
            if c.before
            else "—"
        )
        cells = (
            literal(c.layer or "·", limit=48),
            literal(c.op, limit=20),
            f"{c.quantity.replace('_', ' ')}, {c.side}",
        )
        table.add_row(*cells, number(c.before), number(c.after), change)
    return table
