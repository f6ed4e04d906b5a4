"""The table of truth: every case's prediction against its measurement, and what the same test rejects.

``python -m leadline.testing.truth -o docs/truth.md`` makes the page; ``--case`` takes some of the cases.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from leadline.measure import measure
from leadline.measure.chain import chain_from
from leadline.program import trace
from leadline.testing.agreement import Comparison, HasRows, comparisons
from leadline.testing.cases import Case, Control
from leadline.testing.chains import sharpen
from leadline.testing.truth_cases import TRUTH
from leadline.theory import Prediction, predict

__all__ = ["Finding", "examine", "main", "measured", "predicted"]

_PILOT, _MOST = 48, 6000
_CHAIN_DRAWS, _NETWORKS = 200, 6000  # modules for the gradients, and networks drawn exactly in law for the kernels
_STANDARD_ERROR = 0.01
_PRECISE = ("kernel", "correlation")


@dataclass
class Finding:
    """What came of one case."""

    id: str
    draws: int
    rows: int
    standard_error: float
    stated: float
    worst: dict[str, Comparison]
    seconds: float
    drawn: int
    controls: dict[str, Comparison] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether prediction and measurement agree everywhere and every control is rejected."""
        agree = all(c.excess <= 1.0 for c in self.worst.values())
        return agree and self.standard_error <= _STANDARD_ERROR and all(c.excess > 1.0 for c in self.controls.values())


def predicted(case: Case, control: Control | None = None) -> Prediction:
    """Prediction of a case's network, or of the wrong account that a control gives of it."""
    model = case.build() if control is None or control.build is None else control.build()
    law = None if case.law is None else case.law(model, 1.0 if control is None else control.C_W)
    return predict(trace(model, case.batch(), law=law))


def measured(
    case: Case, prediction: Prediction, draws: int, seed: int | None = None, networks: int = _NETWORKS
) -> HasRows:
    """Measurement of a case's network over re-drawn copies; those of dense chains exactly in law."""
    start = case.seed if seed is None else seed
    found = measure(case.build(), case.batch(), draws=draws, seed=1000 * start, program=prediction.program)
    sharpen(found, prediction.program, networks=networks, seed=start)
    return found


def _enough(case: Case, prediction: Prediction) -> tuple[HasRows, int]:
    """A measurement whose standard errors are at most 1 %, by a pilot that says how many draws this takes."""
    draws = _PILOT
    if chain_from(prediction.program)[0] is not None:
        draws = _CHAIN_DRAWS
    while True:
        found = measured(case, prediction, draws)
        error = _standard_error(prediction, found)
        if error <= _STANDARD_ERROR or draws >= _MOST:
            return found, draws
        # a pilot's own error is uncertain, hence the margin; a later round is another draw of the weights
        draws = min(_MOST, int(draws * 1.25 * (error / _STANDARD_ERROR) ** 2) + 8)


def _standard_error(prediction: HasRows, found: HasRows) -> float:
    return max(c.standard_error for c in comparisons(prediction, found, quantities=_PRECISE))


def examine(case: Case, draws: int | None = None) -> Finding:
    """Hold a case's prediction against its measurement, then each control's.

    Args:
        case: the case.
        draws: re-drawn copies; None: as many as a standard error of 1 % takes.

    Returns:
        The worst comparison of each quantity, and of each control.
    """
    start = time.process_time()
    prediction = predicted(case)
    found, used = (measured(case, prediction, draws), draws) if draws else _enough(case, prediction)
    every = list(comparisons(prediction, found))
    quantities = dict.fromkeys(c.quantity for c in every)
    finding = Finding(
        case.id,
        used,
        len(prediction.rows),
        _standard_error(prediction, found),
        max(c.stated for c in every),
        {q: max((c for c in every if c.quantity == q), key=lambda c: c.excess) for q in quantities},
        0.0,
        len(prediction.drawn),
    )
    for control in case.controls:
        wrong = comparisons(predicted(case, control), found, common=True)
        finding.controls[control.what] = max(wrong, key=lambda c: c.excess)
    finding.seconds = time.process_time() - start
    return finding


_HEAD = """# Truth

Predictions against measurements on re-drawn networks. The page is the output of `python -m leadline.testing.truth`.

Each network is predicted from its stated (or read) init law and measured on as many fresh draws of its weights as a
standard error of 1 % on every kernel and correlation takes (kernels of dense chains on networks drawn exactly in law).
The two agree where at every row of every step they differ by at most max(3 %, 4 standard errors) plus the prediction's
own stated error; correlations are compared on the scale of 1.
*Stated error* is the largest that a prediction gives for any of its rows: of its own draws, and of the 1/n
corrections that it leaves out.
*Worst* is the largest difference of any row, and *of allowed* that difference over what is allowed: above 1
the two disagree.
A **negative control** is a wrong account of the same network; the same test must reject it, and the last column
says by how much.

Two cases are wider than the rest (512), because their gradients carry a 1/n correction that the prediction does not state
in full: at width 256 batch norm over 48 inputs was 3 % low, and the post-norm transformer 4.5 %, 2.7 % at 512.

"""


def _lines(findings: Iterator[Finding]) -> Iterator[str]:
    yield (
        "| network | rows | draws | standard error | stated error | worst kernel | worst correlation "
        "| worst partial Jacobian | of allowed | agrees | controls rejected (of allowed) |"
    )
    yield "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --- | --- |"
    for f in findings:
        cells = [
            f"{f.worst[q].error:.1%}" if q in f.worst else "-" for q in ("kernel", "correlation", "partial_jacobian")
        ]
        most = max(c.excess for c in f.worst.values())
        agrees = "yes" if most <= 1.0 else "**no**"
        if f.standard_error > _STANDARD_ERROR:
            agrees += " (too few draws)"
        controls = "; ".join(
            f"{what}: {'' if c.excess > 1 else '**not rejected** '}{c.excess:.1f}" for what, c in f.controls.items()
        )
        drawn = f" ({f.drawn} steps by Monte Carlo)" if f.drawn else ""
        row = [
            f"{f.id}{drawn}",
            f.rows,
            f.draws,
            f"{f.standard_error:.2%}",
            f"{f.stated:.1%}",
            *cells,
            f"{most:.2f}",
            agrees,
            controls,
        ]
        yield "| " + " | ".join(str(cell) for cell in row) + " |"


def _report(cases: Sequence[Case], draws: int | None, failures: list[str]) -> Iterator[Finding]:
    for number, case in enumerate(cases, 1):
        finding = examine(case, draws)
        if not finding.ok:
            failures.append(case.id)
        note = "ok" if finding.ok else f"NOT OK: {max(finding.worst.values(), key=lambda c: c.excess)}"
        sys.stderr.write(f"[{number}/{len(cases)}] {case.id}: {finding.draws} draws, {finding.seconds:.1f} s, {note}\n")
        yield finding


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write the table.

    Args:
        arguments: of the command line.

    Returns:
        0 where every case agrees and every control is rejected, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m leadline.testing.truth", description="Predictions against measurements, as a table."
    )
    parser.add_argument("-o", "--output", type=Path, help="write the page here (default: print it)")
    parser.add_argument(
        "--case", action="append", default=[], help="only cases whose name contains this (may be repeated)"
    )
    parser.add_argument(
        "--draws", type=int, help="re-drawn copies (default: as many as a standard error of 1 %% takes)"
    )
    chosen = parser.parse_args(arguments)
    cases = [c for c in TRUTH if not chosen.case or any(part in c.id for part in chosen.case)]
    if not cases:
        parser.error(f"no case has {' or '.join(chosen.case)} in its name")
    torch.set_num_threads(1)
    failures: list[str] = []
    start = time.process_time()
    table = list(_lines(_report(cases, chosen.draws, failures)))
    counts = f"{len(cases) - len(failures)} of {len(cases)} networks agree and have their controls rejected."
    text = _HEAD + "\n".join([counts, "", *table]) + "\n"
    sys.stderr.write(f"{counts} {time.process_time() - start:.0f} s of one core\n")
    if chosen.output:
        chosen.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
