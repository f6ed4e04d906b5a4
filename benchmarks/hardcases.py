"""Hard cases: networks that torch's own weights do not train, under Leadline and under other initializations.

python benchmarks/hardcases.py -o results.jsonl                      all; goes on where it was stopped
python benchmarks/hardcases.py -o results.jsonl --quick              four cases, about ten minutes on two cores
python benchmarks/hardcases.py -o results.jsonl --only mlp-tanh      cases whose name contains this (may be repeated)
python benchmarks/hardcases.py -o results.jsonl --table --page docs/hardcases.md     no training, the page alone

One JSON line a run. Contenders are trained at seven learning rates, Leadline at the rate that it recommends itself. Its weights
are trained at the seven rates too ("leadline swept"): that is no entry of the comparison, it tells whether a loss comes from the
weights or from the rate. Other packages (DKS) run in environments of their own: ``_hardcases_other.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _hardcases_cases import CASES, HardCase, batches, digits
from _hardcases_init import CONTENDERS
from _hardcases_other import OTHERS, applies
from _hardcases_table import COLUMNS, RESHAPED, SWEPT, page, rows_of
from _hardcases_train import Copy, train
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from leadline.program import UserError
from leadline.tune import Recipe, learning_rate, tune

RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = 3
Data = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def recipe_for(case: HardCase, data: Data, reshape: bool) -> tuple[Recipe, dict[str, Any]]:
    """Leadline's recipe, from the first seed's network and batch, and what it did; the other seeds apply it too."""
    start = time.perf_counter()
    index = batches(case, 0, len(data[1]))[0][: case.samples]
    torch.manual_seed(0)
    recipe = tune(
        case.build(), data[0][index], optimizer="adam", loss="cross_entropy", targets=data[1][index],
        reshape_activations=reshape,
    )  # fmt: skip
    plan = str(recipe.summary.get("plan", "left alone"))
    return recipe, {"plan": plan, "ok": recipe.ok, "tune_seconds": round(time.perf_counter() - start, 1)}


def tuned(case: HardCase, seed: int, recipe: Recipe, reshape: bool) -> nn.Module:
    """A network of a seed under the recipe, drawn with that seed."""
    torch.manual_seed(seed)
    return recipe.replace(seed=seed).apply(case.build(), graph=reshape)


def recommended(case: HardCase, model: nn.Module, seed: int, data: Data) -> tuple[float, int]:
    """The rate that Leadline recommends for Adam, and the passes of a batch that its trial runs took."""
    found = learning_rate(
        model,
        data[0],
        "cross_entropy",
        data[1],
        optimizer="adam",
        batch_size=case.batch,
        warmup=False,
        noise=False,
        seed=seed,
    )
    return found.rate, found.passes


def drawn(case: HardCase, method: str, seed: int, data: Data) -> nn.Module:
    """A network under a contender's initial weights."""
    torch.manual_seed(seed)
    return {**CONTENDERS, **OTHERS}[method](case.build(), case, data[0][batches(case, seed, len(data[1]))[0]])


def wanted(case: HardCase, method: str, seeds: int, known: set[tuple[Any, ...]]) -> list[tuple[int, float | None]]:
    """Seeds and rates that have not been run; a rate of None is the method's own."""
    rates: Sequence[float | None] = (None,) if method in COLUMNS else RATES
    return [(s, r) for s in range(seeds) for r in rates if (case.id, method, s, r) not in known]


def run(case: HardCase, method: str, todo: list[tuple[int, float | None]], device: str) -> list[dict[str, Any]]:
    """Train what is wanted of one method on one case, all at once."""
    start = time.perf_counter()
    data = digits(case)
    own = method in (*COLUMNS, SWEPT)
    models: dict[int, nn.Module] = {}
    notes: dict[int, dict[str, Any]] = {}
    reshape = method == RESHAPED
    recipe, note = recipe_for(case, data, reshape) if own else (None, {})
    for seed in sorted({s for s, _ in todo}):
        models[seed] = drawn(case, method, seed, data) if recipe is None else tuned(case, seed, recipe, reshape)
        notes[seed] = dict(note)
    rates: list[float] = []
    for seed, rate in todo:
        if rate is None:
            try:
                rate, notes[seed]["passes"] = recommended(case, models[seed], seed, data)
            except UserError as error:  # no rate trains it: it stands in the table as it was drawn
                rate, notes[seed]["refused"] = 0.0, str(error)
        rates.append(rate)
    copies = [Copy(models[s], batches(case, s, len(data[1])), r) for (s, _), r in zip(todo, rates, strict=True)]
    # the wraps of reshaped nonlinearities belong to the module, so each is trained for itself
    parts = [[c] for c in copies] if reshape else [copies]
    found = [result for part in parts for result in train(part, data, device=device)]
    seconds = round((time.perf_counter() - start) / len(todo), 2)
    return [
        {"case": case.id, "method": method, "seed": s, "rate": r, "seconds": seconds, **_short(asdict(t)), **notes[s]}
        for (s, _), r, t in zip(todo, rates, found, strict=True)
    ]


def _short(numbers: dict[str, float]) -> dict[str, float]:
    return {k: float(f"{v:.5g}") for k, v in numbers.items()}


def read(path: Path) -> list[dict[str, Any]]:
    """Results so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> int:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="file of results, one JSON line a run")
    parser.add_argument("--quick", action="store_true", help="the everyday subset")
    parser.add_argument("--only", action="append", default=[], help="cases whose name contains this")
    parser.add_argument("--method", action="append", default=[], help="methods of this name alone")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="no training")
    parser.add_argument("--page", type=Path, help="write the table here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # vanishing gradients are slow otherwise
    methods = [*COLUMNS, *CONTENDERS, *OTHERS, SWEPT]
    if any(m not in methods for m in options.method):
        parser.error(f"there is no method {options.method}, expected some of {', '.join(methods)}")
    cases = [c for c in CASES if not options.only or any(part in c.id for part in options.only)]
    cases = [c for c in cases if c.quick or not options.quick]
    results = read(options.output)
    known = {(r["case"], r["method"], r["seed"], None if r["method"] in COLUMNS else r["rate"]) for r in results}
    jobs = [
        (case, method, todo)
        for case in cases
        for method in options.method or methods
        if (todo := wanted(case, method, options.seeds, known)) and not options.table and applies(case, method)
    ]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=sum(len(todo) for *_, todo in jobs))
        for case, method, todo in jobs:
            progress.update(task, description=f"{case.id}, {method}")
            found = run(case, method, todo, options.device)
            results += found
            with options.output.open("a") as file:
                file.writelines(json.dumps(r) + "\n" for r in found)
            progress.advance(task, len(todo))
    shown = {c.id for c in cases}
    text = page(rows_of(r for r in results if r["case"] in shown or options.page), RATES, options.seeds)
    if options.page:
        options.page.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
