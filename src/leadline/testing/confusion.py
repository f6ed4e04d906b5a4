"""The confusion table: whether networks train against what the check says of them.

``python -m leadline.testing.confusion -o docs/verdicts.md`` makes the page; ``--case`` takes some of the cases.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from leadline.check import check
from leadline.check.verdict import Verdict
from leadline.testing.training import RATES, STEPS, Trained, train
from leadline.testing.verdict_cases import BROKEN, HEALTHY, VerdictCase

__all__ = ["Outcome", "judge_case", "main"]

_LOUD = ("error", "warning")


@dataclass(frozen=True)
class Outcome:
    """What the check said of a case, and what training said."""

    case: VerdictCase
    verdicts: tuple[Verdict, ...]
    trained: Trained | None
    seconds: tuple[float, float]

    @property
    def loud(self) -> tuple[Verdict, ...]:
        """Errors and warnings."""
        return tuple(v for v in self.verdicts if v.severity in _LOUD)

    @property
    def expected(self) -> Verdict | None:
        """The error (or warning) that the case must get, at the layer where it must be; None where it is missing."""
        return next((v for v in self.loud if self.case.wants(v.rule, v.layer or "")), None)

    @property
    def said(self) -> bool:
        """Whether the check said what it must: the expected verdict, or no error and no warning."""
        return not self.loud if self.case.healthy else self.expected is not None

    @property
    def called_broken(self) -> bool:
        """Whether the check found an error."""
        return any(v.severity == "error" for v in self.verdicts)

    @property
    def trains(self) -> bool:
        """Whether the loss fell to half its initial value at one of the rates."""
        return self.trained is not None and self.trained.ok


def judge_case(case: VerdictCase, *, training: bool = True, seed: int = 0) -> Outcome:
    """Check a case's network on the first batch of its task, and train it.

    Args:
        case: the case.
        training: train it as well.
        seed: of the draws and the batches.

    Returns:
        Both outcomes.
    """
    start = time.process_time()
    report = check(case.build(), case.batch(), seed=seed)
    middle = time.process_time()
    trained = train(case.build(), case.task, seed=seed) if training else None
    return Outcome(case, report.verdicts, trained, (middle - start, time.process_time() - middle))


_HEAD = f"""# Verdicts

What the check says of networks, against whether they train. The page is the output of
`python -m leadline.testing.confusion`.

Each network is checked on one batch, before any training. Then a copy is trained with Adam for {STEPS} steps at each
of the learning rates {", ".join(f"{r:g}" for r in sorted(RATES))}, on fresh batches; it *trains* if its loss
(mean of ten steps) falls to half its initial value at one of them. A network counts as *called broken* if the check
gives it an error. A network declared broken must get the verdict listed for it, at the layer listed; a healthy one must
get no error and no warning.

How the broken ones fail: gpt2-unscaled-residual was found by search: with fewer blocks, or weights drawn less wide, GPT-2
without its residual scale trained as fast as with it, or at most half as fast again (the scaled twin is among the healthy).
The three whose loss starts above 1e20 fail because the squared gradients overflow float32 and Adam stands still; with less
growth they fall to half of an astronomic loss, and stay useless.

"""


def _table(outcomes: Sequence[Outcome]) -> str:
    counts = {
        (trains, broken): sum(o.trains == trains and o.called_broken == broken for o in outcomes)
        for trains in (False, True)
        for broken in (True, False)
    }
    lines = ["| | called broken | not called broken |", "| --- | --: | --: |"]
    lines += [
        f"| {name} | {counts[trains, True]} | {counts[trains, False]} |"
        for name, trains in (("does not train", False), ("trains", True))
    ]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def _row(o: Outcome) -> str:
    verdict = o.expected or next(iter(o.loud), None)
    said = "none" if verdict is None else f"{verdict.severity}: {verdict.rule} at `{verdict.layer or 'network'}`"
    others = sorted({v.rule for v in o.loud if v is not verdict and (verdict is None or v.rule != verdict.rule)})
    wanted = " or ".join(f"{rule} at `{layer}`" for rule, layer in o.case.verdicts) or "none"
    t = o.trained
    trained = (
        "-"
        if t is None
        else f"{'yes' if t.ok else 'no'} | {_number(t.initial)} | {o.case.task.blind:.3g} | "
        f"{_number(t.best)} | {t.rate:g}"
    )
    cells = [
        o.case.id,
        o.case.task.name,
        wanted,
        said,
        ", ".join(others) or "-",
        "yes" if o.said else "**no**",
        trained,
    ]
    return "| " + " | ".join(cells) + " |"


def _page(outcomes: Sequence[Outcome]) -> str:
    head = (
        "| network | task | verdict wanted | verdict | also | as wanted | trains | initial loss | blind guess | lowest "
        "| rate |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --: | --: | --: | --: |"
    )
    parts = [_HEAD + _table(outcomes)]
    for title, healthy in (("Broken", False), ("Healthy", True)):
        rows = [_row(o) for o in outcomes if o.case.healthy == healthy]
        if rows:
            parts.append(f"## {title}\n\n{head}\n" + "\n".join(rows))
    odd = [
        f"- {o.case.id}: declared {'healthy' if o.case.healthy else 'broken'}, "
        f"{'trains' if o.trains else 'does not train'}"
        for o in outcomes
        if o.trained is not None and o.trains != o.case.healthy
    ]
    if odd:
        parts.append("## Where label and training disagree\n\n" + "\n".join(odd))
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write the confusion table.

    Args:
        arguments: of the command line.

    Returns:
        0 where every verdict is as wanted and agrees with training, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m leadline.testing.confusion", description="Training against verdicts, as a table."
    )
    parser.add_argument("-o", "--output", type=Path, help="write the page here (default: print it)")
    parser.add_argument(
        "--case", action="append", default=[], help="only cases whose name contains this (may be repeated)"
    )
    parser.add_argument("--no-training", action="store_true", help="only the verdicts")
    chosen = parser.parse_args(arguments)
    cases = [c for c in (*BROKEN, *HEALTHY) if not chosen.case or any(part in c.id for part in chosen.case)]
    if not cases:
        parser.error(f"no case has {' or '.join(chosen.case)} in its name")
    torch.set_num_threads(1)
    outcomes = []
    for number, case in enumerate(cases, 1):
        o = judge_case(case, training=not chosen.no_training)
        outcomes.append(o)
        found = ", ".join(f"{v.severity} {v.rule} at {v.layer or 'network'}" for v in o.loud) or "no verdict"
        trains = "" if o.trained is None else f"{'trains' if o.trains else 'does not train'}; "
        sys.stderr.write(
            f"[{number}/{len(cases)}] {case.id}: {trains}{found}; {'as wanted' if o.said else 'NOT AS WANTED'}; "
            f"{o.seconds[0]:.1f} + {o.seconds[1]:.1f} s\n"
        )
    text = _page(outcomes)
    if chosen.output:
        chosen.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    agree = all(o.said and (o.trained is None or o.trains == o.case.healthy) for o in outcomes)
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
