"""What a report looks like on a terminal: problems, the table, what to do, coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import nn

from leadline.check.evidence import Point
from leadline.check.fold import Hidden, fold
from leadline.plot import Column, Gap, number, two_sided_table
from leadline.program.errors import plain

if TYPE_CHECKING:
    from leadline.check.report import Report

__all__ = ["Screen"]

_MARK = {"error": ("✗", "bold red"), "warning": ("!", "bold yellow"), "note": ("·", "cyan")}
# (quantity, title, both sides, least width of the terminal)
_COLUMNS = (
    ("kernel", "kernel K", True, 0),
    ("correlation", "correlation", True, 0),
    ("partial_jacobian", "partial Jacobian", True, 84),
    ("chi_perp", "χ⊥", False, 100),
    ("spread", "V/nK²", False, 108),
)


class Screen:
    """Prints a report; ``full``: every row."""

    def __init__(self, report: Report, *, full: bool = False) -> None:
        self.report = report
        self.full = full

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self.report
        yield _header(report)
        yield from _problems(report)
        if report.evidence.points:
            yield from _table(report, self.full, options.max_width)
        yield from _remedies(report)
        yield _coverage(report)


def _header(report: Report) -> Text:
    line = Text.assemble((plain(report.target, 80), "bold"))
    parts = []
    if report.program is not None:
        parts.append("train mode" if report.program.training else "eval mode")
        norms = [m for m in report.program.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not report.program.training and any(m.training for m in norms):
            parts[-1] += " with batch norms in train mode"
        parts.append(f"{sum(p.numel() for p in report.program.model.parameters()):,} parameters".replace(",", "\u202f"))
    if report.measurement is not None:
        parts.append(
            f"measured on {report.draws} re-drawn networks" if report.draws else "measured on this very network"
        )
    else:
        parts.append("predicted; being measured")
    return line.append("  " + " · ".join(parts), "dim")


def _problems(report: Report) -> list[Text | Table]:
    counts = {s: sum(v.severity == s for v in report.verdicts) for s in _MARK}
    if counts["error"]:
        verdict = Text(f"unhealthy: {_count(counts['error'], 'error')}", "bold red")
    else:
        verdict = Text("healthy", "bold green")
    if counts["warning"]:
        verdict.append(f", {_count(counts['warning'], 'warning')}", "bold yellow")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column()
    for v in report.verdicts:
        mark, style = _MARK[v.severity]
        grid.add_row(Text(mark, style), _ticked(v.message))
    out: list[Text | Table] = [verdict]
    if report.verdicts:
        out.append(grid)
    loss = report.evidence.loss
    if loss is not None:
        predicted = "" if loss.predicted is None else f", predicted {number(loss.predicted)}"
        blind = "" if loss.blind is None else f", blind guess {number(loss.blind)}"
        out.append(Text(f"initial loss ({loss.kind}): measured {number(loss.measured)}{predicted}{blind}"))
    return out


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _ticked(sentence: str) -> Text:
    """A sentence with the names between backticks set off."""
    text = Text()
    for i, part in enumerate(sentence.split("`")):
        text.append(part, "bold cyan" if i % 2 else "")
    return text


def _table(report: Report, full: bool, width: int) -> list[Padding | Text]:
    points = report.evidence.points
    shown: list[int | Hidden] = list(range(len(points)))
    if not full:
        keep = {i for i, p in enumerate(points) if p.name in _places(report)}
        shown = fold([(p.layer, p.op) for p in points], keep)
    lines = [points[i] for i in shown if isinstance(i, int)]
    gaps, place = [], 0
    for entry in shown:
        if isinstance(entry, Hidden):
            gaps.append(Gap(place, _hidden(entry)))
        else:
            place += 1
    columns = []
    for name, title, both, least in _COLUMNS:
        if width < least:
            continue
        pairs = [p.values.get(name) for p in lines]
        predicted = [None if x is None else x.predicted for x in pairs]
        measured = [None if x is None else x.measured for x in pairs]
        errors = [None if x is None else x.stderr for x in pairs]
        if not both and any(v is not None for v in predicted):
            measured = [None] * len(lines)
        columns.append(Column(title, predicted, measured, errors, relative=name != "correlation"))
    labels = [(plain(p.layer or "·", 60), _operator(p)) for p in lines]
    table = two_sided_table(labels, ("layer", "step"), columns, width=width, gaps=gaps, marks=_marks(report, lines))
    out: list[Padding | Text] = [Padding(table, (1, 0, 0 if gaps else 1, 0))]
    if gaps:
        out.append(Text("⋮ blocks of the same form; --full shows them\n", "dim italic"))
    return out


def _operator(point: Point) -> str:
    name = {"scaled_dot_product_attention": "attention", "pointwise": "pointwise"}.get(point.op, point.op)
    return plain(name + ("" if point.ruled else " (drawn)"), 22)


def _hidden(hidden: Hidden) -> str:
    return f"  ⋮ {hidden.blocks} more"


def _places(report: Report) -> set[str]:
    """Layers at which a problem starts: they are never folded away."""
    return {v.layer for v in report.verdicts if v.layer is not None and v.severity != "note"}


def _marks(report: Report, lines: list[Point]) -> list[str]:
    worst: dict[str, str] = {}
    for v in reversed(report.verdicts):
        if v.layer is not None and v.severity != "note":
            worst[v.layer] = _MARK[v.severity][1].removeprefix("bold ")
    marks, seen = [], set()
    for p in lines:
        marks.append(worst.get(p.name, "") if p.name not in seen else "")
        seen.add(p.name)
    return marks


def _remedies(report: Report) -> list[Text | Padding]:
    wanted = [v for v in report.verdicts if v.severity != "note"]
    if not wanted:
        return []
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right")
    grid.add_column()
    seen: dict[str, None] = {}
    for v in wanted:
        if v.remedy not in seen:
            seen[v.remedy] = None
            where = f" (from `{plain(v.layer, 60)}` on)" if v.layer and v.layer not in v.remedy else ""
            grid.add_row(Text(f"{len(seen)}.", "bold"), _ticked(v.remedy.rstrip(".") + where + "."))
    return [Text("What to do", "bold"), Padding(grid, (0, 0, 1, 0))]


def _coverage(report: Report) -> Text:
    coverage = report.coverage
    if report.reason:
        return Text(f"Measured only: {report.reason}.", "yellow")
    line = f"Coverage: {coverage['with_rule']} of {coverage['steps']} steps by rule"
    if coverage["without_rule"]:
        ops = list(dict.fromkeys(str(s["op"]) for s in coverage["without_rule"]))
        line += (
            f", the others by Monte Carlo ({', '.join(plain(o, 40) for o in ops[:4])}{', …' if len(ops) > 4 else ''})"
        )
    return Text(line + ".", "dim")
