"""Write the table of expectation errors into docs/theory/expectations.md.

python tests/gaussian/accuracy_table.py            rewrite the table
python tests/gaussian/accuracy_table.py --check    exit code 1 where the page no longer says what the code does
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch

from leadline.activations import Activation, activation

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "theory" / "expectations.md"
REFERENCES = Path(__file__).with_name("data") / "references.json"
START, END = "<!-- table: begin -->", "<!-- table: end -->"
MOMENTS = ("mean", "second_moment", "second_moment_slope", "derivative_mean", "derivative_moment", "fourth_moment")


def column(rows: list[dict[str, str]], key: str) -> torch.Tensor:
    return torch.tensor([float(r[key]) for r in rows], dtype=torch.float64)


def one_errors(act: Activation, rows: list[dict[str, str]]) -> float:
    """Worst error of the one-variable moments, relative to the moments that bound them."""
    K, g, g4 = column(rows, "K"), column(rows, "second_moment"), column(rows, "fourth_moment")
    slope = column(rows, "derivative_moment")
    scales = {"mean": g.sqrt(), "second_moment": g, "fourth_moment": g4, "derivative_mean": slope.sqrt()}
    worst = 0.0
    for moment in MOMENTS:
        scale = scales.get(moment, slope + g / K)
        worst = max(worst, float(((getattr(act, moment)(K) - column(rows, moment)).abs() / scale).max()))
    return worst


def two_errors(act: Activation, rows: list[dict[str, str]]) -> dict[str, float]:
    """Worst error of both mean products at each correlation, relative to the root of the two second moments."""
    a, b, rho = (column(rows, k) for k in ("Ka", "Kb", "rho"))
    c = rho * (a * b).sqrt()
    out: dict[str, float] = {}
    for key, product, moment in (
        ("dual", act.dual, act.second_moment),
        ("dual_derivative", act.dual_derivative, act.derivative_moment),
    ):
        wrong = (product(a, c, b) - column(rows, key)).abs() / (moment(a) * moment(b)).sqrt()
        for r, w in zip((row["rho"] for row in rows), wrong.tolist(), strict=True):
            out[r] = max(out.get(r, 0.0), w)
    return out


def digits(error: float) -> str:
    """Power of ten that bounds an error."""
    return "≤ 1e-16" if error < 1e-16 else f"≤ 1e{math.ceil(math.log10(error))}"


def table() -> list[str]:
    """Markdown rows: for each activation and route, the worst errors."""
    references = json.loads(REFERENCES.read_text())
    correlations = sorted({r["rho"] for rows in references.values() for r in rows["two"]}, key=float)
    lines = ["| activation | route | one variable | " + " | ".join(f"ρ = {r}" for r in correlations) + " |"]
    lines.append("| --- | --- |" + " --: |" * (1 + len(correlations)))
    for name, rows in references.items():
        act = activation(name)
        plain = Activation(act.fn, name=name, kinks=act.kinks, jumps=act.jumps, derivative=act.derivative)
        for route, chosen in (("default", act), ("quadrature", plain)):
            two = two_errors(chosen, rows["two"])
            cells = [digits(one_errors(chosen, rows["one"])), *(digits(two[r]) for r in correlations)]
            lines.append(f"| {name} | {route} | " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    """Rewrite the part of the page between the marks, or compare with it."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    new = "\n".join([before + START, "", *table(), "", END + after])
    if "--check" in sys.argv[1:]:
        return int(new != text)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
