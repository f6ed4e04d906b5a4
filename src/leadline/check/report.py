"""The report of a check: verdicts, rows with both sides, coverage; it prints, draws and writes itself."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult

import leadline
from leadline.check.evidence import Evidence, Pair
from leadline.check.screen import Screen
from leadline.check.verdict import Verdict
from leadline.plot import as_text
from leadline.program import Program
from leadline.theory import QUANTITIES, Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SCHEMA", "Report"]

SCHEMA = 1
_WIDTH = 120


@dataclass(frozen=True)
class Report:
    """What a check found.

    ``verdicts``: errors first. ``prediction``: None where it could not be made (``reason`` says why).
    ``measurement``: the same rows, measured. ``evidence``: what the verdicts were judged by. ``draws``: re-drawn
    networks behind the measurement; 0: this very network.
    """

    verdicts: tuple[Verdict, ...]
    evidence: Evidence = field(repr=False)
    prediction: Prediction | None = field(repr=False, default=None)
    measurement: Any = field(repr=False, default=None)
    program: Program | None = field(repr=False, default=None)
    target: str = ""
    seed: int = 0
    draws: int = 0
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(v.severity == "error" for v in self.verdicts)

    @property
    def coverage(self) -> dict[str, Any]:
        """How many steps the theory has a rule for, and which it has not."""
        if self.program is None:
            return {"steps": len(self.evidence.points), "with_rule": 0, "without_rule": [], "reason": self.reason}
        drawn = self.prediction.drawn if self.prediction is not None else {s.name: "" for s in self.program.steps}
        without = [{"op": s.op, "layer": s.layer} for s in self.program.steps if s.name in drawn]
        steps = len(self.program.steps)
        return {
            "steps": steps, "with_rule": steps - len(without), "without_rule": without, "reason": self.reason or None,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The report as the JSON has it (``docs/json.md``); what does not exist, or is not finite, is None."""
        loss = self.evidence.loss
        return {
            "schema": SCHEMA,
            "leadline": leadline.__version__,
            "target": self.target,
            "seed": self.seed,
            "draws": self.draws,
            "verdicts": [{k: _plain(v) for k, v in verdict.to_dict().items()} for verdict in self.verdicts],
            "rows": [
                {"layer": p.layer, "op": p.op, **{q.name: _both(p.values.get(q.name)) for q in QUANTITIES}}
                for p in self.evidence.points
            ],
            "coverage": self.coverage,
            "loss": None
            if loss is None
            else {
                "kind": loss.kind, "measured": _plain(loss.measured), "predicted": _plain(loss.predicted),
                "blind": _plain(loss.blind),
            },
        }  # fmt: skip

    def screen(self, *, full: bool = False) -> Screen:
        """The report as it is printed.

        Args:
            full: show every row, also those of repeated blocks.

        Returns:
            Something that a rich console prints.
        """
        return Screen(self, full=full)

    def plot(self, quantities: Iterable[str] = ("kernel", "correlation", "partial_jacobian")) -> Figure:
        """Predicted lines beside measured points against depth.

        Args:
            quantities: names of quantities, one panel each.

        Returns:
            A matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from leadline.check.picture import picture

        return picture(self.evidence, self.verdicts, self.target, list(quantities))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.screen()

    def __str__(self) -> str:
        return as_text(self.screen(), _WIDTH)

    def _repr_html_(self) -> str:
        console = Console(file=io.StringIO(), width=_WIDTH, record=True, force_jupyter=False, color_system="truecolor")
        console.print(self.screen())
        form = '<pre style="font-family:monospace;line-height:1.25;white-space:pre;overflow-x:auto">{code}</pre>'
        return console.export_html(inline_styles=True, code_format=form)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _both(pair: Pair | None) -> dict[str, float | None]:
    pair = pair or Pair()
    return {"predicted": _plain(pair.predicted), "measured": _plain(pair.measured), "stderr": _plain(pair.stderr)}
