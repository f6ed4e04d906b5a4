"""From single runs to the table: who trains, who reaches the best contender, and where not, why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from _hardcases_cases import CASES, CLASSES, HELD_OUT, STEPS, HardCase
from _hardcases_init import CONTENDERS

__all__ = ["COLUMNS", "OURS", "RESHAPED", "SWEPT", "Cell", "Row", "page", "rows_of"]

OURS, RESHAPED, SWEPT = "leadline", "leadline reshape", "leadline swept"
COLUMNS = (OURS, RESHAPED)
TRAINS, WITHIN, ERRORS = 1.0, math.log(1.1), 2.0
Runs = dict[tuple[str, str], dict[float, dict[int, dict[str, Any]]]]


@dataclass(frozen=True)
class Cell:
    """One method on one case, at the rate with the lowest mean log-loss: results by seed.

    ``rates``: by seed where the rate is a method's own.
    """

    method: str
    rates: tuple[float, ...]
    runs: tuple[dict[str, Any], ...]

    @property
    def loss(self) -> float:
        """Mean training loss over seeds."""
        return _mean(run["loss"] for run in self.runs)

    @property
    def log_loss(self) -> float:
        """Mean logarithm of the training loss."""
        return _mean(_log(run["loss"]) for run in self.runs)

    @property
    def accuracy(self) -> float:
        """Mean accuracy on held-out samples."""
        return _mean(run["held_accuracy"] for run in self.runs)

    @property
    def trains(self) -> bool:
        """Whether the mean loss is below 1."""
        return self.loss < TRAINS


@dataclass(frozen=True)
class Row:
    """A case: ours in both columns and swept, every contender at its best rate."""

    case: HardCase
    ours: dict[str, Cell | None]
    contenders: tuple[Cell, ...]
    swept: Cell | None

    @property
    def best(self) -> Cell | None:
        """The contender with the lowest mean log-loss."""
        return min(self.contenders, key=lambda c: c.log_loss, default=None)

    def against(self, cell: Cell) -> tuple[float, float, float, float]:
        """Paired difference to the best contender: of log-loss with its standard error, of accuracy with its own."""
        if self.best is None:
            raise ValueError(f"no contender has been run on {self.case.id}: run one.")
        other = {run["seed"]: run for run in self.best.runs}
        pairs = [(run, other[run["seed"]]) for run in cell.runs if run["seed"] in other]
        losses = [_log(a["loss"]) - _log(b["loss"]) for a, b in pairs]
        accuracies = [a["held_accuracy"] - b["held_accuracy"] for a, b in pairs]
        return _mean(losses), _error(losses), _mean(accuracies), _error(accuracies)

    def reaches(self, cell: Cell) -> bool:
        """Trains, log-loss within a tenth or two standard errors of the best contender, accuracy not lower by two of its own."""
        loss, loss_error, accuracy, accuracy_error = self.against(cell)
        return cell.trains and loss <= max(WITHIN, ERRORS * loss_error) and accuracy >= -ERRORS * accuracy_error

    def why(self, cell: Cell) -> str:
        """Where ours does not reach: whether its weights at a better rate would, and what the recipe did."""
        done = sorted({str(run.get("plan", "")) for run in cell.runs})
        what = f"plan: {', '.join(done)}"
        if self.best is not None and not cell.trains and not self.best.trains:
            what = f"no contender trains either; {what}"
        if any("refused" in run for run in cell.runs):
            what = f"learning_rate finds no rate that lowers the loss; {what}"
        if self.swept is None or cell.method != OURS or (self.best is not None and not self.best.trains):
            return what
        loss, error, *_ = self.against(self.swept)
        if self.reaches(self.swept):
            return f"the rate ({_rates(cell)} taken, {self.swept.rates[0]:.1g} would reach); {what}"
        return f"the weights (at their best rate {self.swept.rates[0]:.1g}: {loss:+.2f} ± {error:.2f}); {what}"


def rows_of(results: Iterable[dict[str, Any]]) -> list[Row]:
    """Rows of all cases that have results, in the order of the cases.

    Args:
        results: one dict a run.

    Returns:
        The rows.
    """
    runs: Runs = {}
    for r in results:
        own = r["method"] in COLUMNS
        place = runs.setdefault((r["case"], r["method"]), {}).setdefault(0.0 if own else r["rate"], {})
        place[r["seed"]] = r
    rows = []
    for case in CASES:
        names = list(dict.fromkeys((*CONTENDERS, *(m for c, m in runs if c == case.id))))
        cells = {n: _cell(n, runs[case.id, n]) for n in names if (case.id, n) in runs}
        others = tuple(c for n, c in cells.items() if n not in (*COLUMNS, SWEPT))
        if cells:
            rows.append(Row(case, {n: cells.get(n) for n in COLUMNS}, others, cells.get(SWEPT)))
    return rows


def _cell(method: str, by_rate: dict[float, dict[int, dict[str, Any]]]) -> Cell:
    most = max(len(found) for found in by_rate.values())
    whole = [found for found in by_rate.values() if len(found) == most]
    best = min(whole, key=lambda found: _mean(_log(r["loss"]) for r in found.values()))
    runs = tuple(best[s] for s in sorted(best))
    return Cell(method, tuple(r["rate"] for r in runs), runs)


def page(rows: Sequence[Row], rates: Sequence[float], seeds: int) -> str:
    """The table as a page.

    Args:
        rows: of the cases.
        rates: of the sweep.
        seeds: wanted of each.

    Returns:
        Markdown.
    """
    parts = [_head(rows, rates, seeds), _summary(rows, seeds)]
    for column in COLUMNS:
        title = "Weights only" if column == OURS else "Activations reshaped"
        parts.append(f"## {title}\n\n{_table(rows, column)}")
    parts.append(f"## Every contender\n\nMean training loss at its best rate (in brackets).\n\n{_all(rows)}")
    return "\n\n".join(parts) + "\n"


def _head(rows: Sequence[Row], rates: Sequence[float], seeds: int) -> str:
    return f"""# Hard cases

Networks that torch's own initial weights do not train, under the weights and the rate of Leadline and under other
initializations. The page is the output of `python benchmarks/hardcases.py -o results.jsonl --page docs/hardcases.md` (with
`--table`: of what `results.jsonl` holds so far; what is not run has a dash).

Each network learns scikit-learn's digits ({1797 - HELD_OUT} of them; {HELD_OUT} are held out) with Adam, {STEPS} steps, {seeds} seeds.
Contenders are trained at each of the rates {", ".join(f"{r:g}" for r in rates)} and stand here at the one with the lowest mean
log-loss. Leadline takes the rate of `leadline.tune.learning_rate(..., batch_size=...)`, one a seed, from short trial runs on the same
training samples (in passes of a batch: {_passes(rows)}; a sweep of seven rates takes {7 * STEPS}). A network *trains*
if its mean training loss at the end is below {TRAINS:g} (chance {math.log(CLASSES):.3f}). It *reaches* the best contender if it trains, its
log-loss, paired by seed, is within 10 % or two standard errors of that one's, and its accuracy on held-out digits is not lower by
more than two standard errors. Networks, widths and batches are in `benchmarks/_hardcases_cases.py`,
the contenders' definitions in `benchmarks/_hardcases_init.py`. Deep Kernel Shaping is run with its authors' package on the plain
chains whose nonlinearity it knows, for ReLU with tailored leaky ReLUs; it changes activations, as the second table does. muP has no
entry, since at its base width it is torch's own. *leadline swept* has Leadline's weights at the seven rates: no contender, it tells
whether weights or rate are at fault.
"""


def _passes(rows: Sequence[Row]) -> str:
    spent = [
        run["passes"] for row in rows for c in row.ours.values() if c is not None for run in c.runs if "passes" in run
    ]
    return f"{min(spent)} to {max(spent)}" if spent else "-"


def _summary(rows: Sequence[Row], seeds: int) -> str:
    lines = []
    hard = [r for r in rows if not r.case.control]
    for column in COLUMNS:
        cells = [(r, c) for r in hard if (c := r.ours[column]) is not None and r.best is not None]
        if not cells:
            lines.append(f"- {column}: not run.")
            continue
        trains, reach = sum(c.trains for _, c in cells), sum(r.reaches(c) for r, c in cells)
        closely = sum(r.reaches(c) and r.against(c)[0] <= WITHIN for r, c in cells)
        lines.append(
            f"- {column}: trains on {trains} and reaches on {reach} of {len(cells)} hard cases (within 10 %: {closely}; else by "
            "two standard errors of three seeds)."
        )
    both = [(r, [c for c in r.ours.values() if c is not None]) for r in hard if r.best is not None]
    both = [(r, cells) for r, cells in both if cells]
    reach = sum(any(r.reaches(c) for c in cells) for r, cells in both)
    trains = sum(any(c.trains for c in cells) for _, cells in both)
    lines.append(f"- better of the columns: trains on {trains} and reaches on {reach} of {len(both)}.")
    lacking = [r.case.id for r in rows if len(r.contenders) < len(CONTENDERS) or not _whole(r, seeds)]
    missing = [c.id for c in CASES if c.id not in {r.case.id for r in rows}]
    lines.append(f"- incomplete: {', '.join(lacking) or 'none'}; not run: {', '.join(missing) or 'none'}.")
    return "\n".join(lines)


def _whole(row: Row, seeds: int) -> bool:
    return all(c is not None and len(c.runs) == seeds for c in (*row.contenders, *row.ours.values()))


def _table(rows: Sequence[Row], column: str) -> str:
    lines = [
        "| case | loss | trains | rates | best contender | its loss | log-loss against it | accuracy against it | reaches | why not |",
        "| --- | --: | --- | --- | --- | --: | --: | --: | --- | --- |",
    ]
    for row in rows:
        cell = row.ours[column]
        name = f"{row.case.id} (control)" if row.case.control else row.case.id
        if cell is None or row.best is None:
            lines.append(f"| {name} |" + " - |" * 9)
            continue
        loss, loss_error, accuracy, accuracy_error = row.against(cell)
        reaches = row.reaches(cell)
        lines.append(
            f"| {name} | {_number(cell.loss)} | {'yes' if cell.trains else '**no**'} | {_rates(cell)} "
            f"| {row.best.method} at {row.best.rates[0]:g} | {_number(row.best.loss)} | {loss:+.2f} ± {loss_error:.2f} "
            f"| {cell.accuracy:.3f} ({accuracy:+.3f} ± {accuracy_error:.3f}) | {'yes' if reaches else '**no**'} "
            f"| {'' if reaches else row.why(cell)} |"
        )
    return "\n".join(lines)


def _all(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(c.method for r in rows for c in r.contenders))
    lines = [
        "| case | " + " | ".join((*names, SWEPT)) + " |",
        "| --- |" + " --: |" * (len(names) + 1),
    ]
    for row in rows:
        cells = {c.method: c for c in row.contenders}
        every = [*(cells.get(n) for n in names), row.swept]
        shown = [f"{_number(c.loss)} ({c.rates[0]:g})" if c is not None else "-" for c in every]
        lines.append(f"| {row.case.id} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _rates(cell: Cell) -> str:
    return ", ".join(f"{r:.1g}" for r in cell.rates)


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def _log(loss: float) -> float:
    return math.log(max(loss, 1e-12))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else math.nan


def _error(values: Sequence[float]) -> float:
    """Standard error of the mean; infinite from fewer than two values."""
    if len(values) < 2 or not all(math.isfinite(v) for v in values):
        return math.inf
    middle = _mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1) / len(values))
