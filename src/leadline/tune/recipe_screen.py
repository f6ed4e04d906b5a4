"""A recipe as it is printed: what changes and why, what was measured, what the check says afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from leadline.program.errors import plain

if TYPE_CHECKING:
    from leadline.tune.recipe import Decision, Recipe

__all__ = ["screen"]

_MOST_ROWS = 9
_NUMBER = re.compile(r"(?<![\w.])\d+(\.\d+)?(e[+-]?\d+)?")


def screen(recipe: Recipe) -> Iterator[RenderableType]:
    """The parts of a printed recipe.

    Args:
        recipe: any recipe.

    Yields:
        Things that a rich console prints.
    """
    before, after = recipe.summary.get("before", {}), recipe.summary.get("after")
    head = Text.assemble((f"Recipe for {plain(recipe.target)}", "bold"))
    if recipe.optimizer:
        head.append(f", {recipe.optimizer}")
    head.append(f": {_count(len(recipe.laws))} drawn anew (seed {recipe.seed})." if recipe.laws else ": left alone.")
    yield head
    for part, said in (("before", before), ("after", after)):
        if said:
            yield _verdict(part, said)
    if recipe.reshapes:
        drawn = f"{_many(len(recipe.reshapes), 'activation')} reshaped, {_count(len(recipe.graph_laws))} drawn anew"
        yield _verdict(f"with graph=True ({drawn})", recipe.summary.get("graph", {}).get("after", {}))
    changes = [d for d in recipe.decisions if d.after]
    if changes:
        yield _decisions(changes)
    for advice in (d for d in recipe.decisions if not d.after):
        place = f" '{plain(advice.layer)}'" if advice.layer else ""
        yield Text(f"{advice.what}{place}: {advice.why}", "yellow")
    rows = recipe.summary.get("layers")
    if rows:
        yield _layers(rows)
    factors = any(g.lr_factor != 1 for g in recipe.groups)
    for group in recipe.groups:
        if group.lr is None and not factors:
            continue
        rate = f"{group.lr_factor:.4g} times the base rate" if group.lr is None else f"{group.lr:.3g}"
        decay = "" if group.weight_decay is None else f", weight decay {group.weight_decay:g}"
        yield Text(f"{plain(group.name)}: learning rate {rate}{decay} ({_count(len(group.parameters))})")


def _count(number: int) -> str:
    return _many(number, "parameter")


def _many(number: int, of: str) -> str:
    return f"{number} {of}" if number == 1 else f"{number} {of}s"


def _verdict(part: str, said: Mapping[str, Any]) -> Text:
    errors, warnings = (_listed(said.get(kind, [])) for kind in ("errors", "warnings"))
    if not said.get("ok"):
        return Text.assemble(f"{part}: ", ("unhealthy", "red"), f" ({errors})")
    if warnings:
        return Text.assemble(f"{part}: ", ("no error, but warnings", "yellow"), f" ({warnings})")
    return Text.assemble(f"{part}: ", ("healthy", "green"))


def _listed(verdicts: list[Mapping[str, Any]]) -> str:
    return ", ".join(plain(f"{v.get('rule')} at '{v.get('layer')}'") for v in verdicts)


def _decisions(decisions: list[Decision]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name, width in (("what", 10), ("where", 20), ("from", 19), ("to", 20), ("why", None)):
        table.add_column(name, overflow="fold", max_width=width)
    for run in _runs(decisions):
        first, last = run[0], run[-1]
        where = plain(first.layer) if len(run) == 1 else f"{plain(first.layer)} … {plain(last.layer)} ({len(run)})"
        to = first.after if first.after == last.after else f"{first.after} … {last.after}"
        table.add_row(first.what, Text(where), Text(first.before), Text(to), Text(first.why))
    return table


def _runs(decisions: list[Decision]) -> list[list[Decision]]:
    """Decisions that do the same for the same reason, up to their numbers, in order of the first of each."""
    found: dict[tuple[str, str, str], list[Decision]] = {}
    for decision in decisions:
        alike = (decision.what, _NUMBER.sub("#", decision.after), _NUMBER.sub("#", decision.why))
        found.setdefault(alike, []).append(decision)
    return list(found.values())


def _layers(rows: list[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, title="predicted | measured on drawn networks", title_justify="left")
    table.add_column("layer")
    names = [n for n in rows[0] if n != "layer"]
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    step = max(1, -(-len(rows) // _MOST_ROWS))
    shown = sorted({*range(0, len(rows), step), len(rows) - 1})
    for i in shown:
        table.add_row(Text(plain(rows[i]["layer"])), *(_both(rows[i].get(n)) for n in names))
    return table


def _both(values: Any) -> str:
    predicted, measured, error = (list(values or []) + [None] * 3)[:3]
    left = "—" if predicted is None else f"{predicted:.3g}"
    right = "—" if measured is None else f"{measured:.3g}" + ("" if error is None else f" ± {error:.1g}")
    return f"{left} | {right}"
