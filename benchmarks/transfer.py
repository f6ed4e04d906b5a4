"""Whether the best learning rate of a small network is that of a large one: optimum rate against width and depth.

python benchmarks/transfer.py -o runs.jsonl                    all cases; goes on where it was stopped
python benchmarks/transfer.py -o runs.jsonl --quick            three cases, shorter, minutes on one core
python benchmarks/transfer.py -o runs.jsonl --only mlp         cases whose name contains this (may be repeated)
python benchmarks/transfer.py -o runs.jsonl --only cnn --steps 40 --largest 256     smaller ones
python benchmarks/transfer.py -o runs.jsonl --table            no training, the tables alone

One JSON line a training run: case, method, size, seed, rate, loss (cross entropy on the 1200 digits after training). The rate
falls in a line to zero, so that the noise of the last steps does not choose the optimum; at its start it is 4e-3 times a power
of the root of two. A grid grows until its best rate, by the mean log-loss over seeds, has two rates on either side. The optimum
is the vertex of a parabola through the best rate of a seed and its neighbours, in log-loss against log-rate; the slope is that
of the log-optimum against log-size, fitted to each seed, with its standard error over seeds.

"standard" trains the networks as they are drawn, with one rate. "leadline" puts ll.tune(model, x, base=small) on them, with
nothing tuned. Networks are drawn as torch does, but for mlp and cnn, whose base is critical (variance 2/fan-in). Wanted: |slope|
<= 0.1 + 2 s.e. under Leadline, >= 0.5 under the standard, and at the rate that is best at the base a loss within 5 % of the
standard's own best at each size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _transfer_cases import CASES, QUICK, QUICK_STEPS, Transfer, digits
from torch import Tensor, nn
from torch.nn import functional as F

from leadline.tune import Recipe, tune

UNIT, RATIO = 4e-3, math.sqrt(2)
SIDE, WIDEST = 2, 16  # rates beside the best one; rates tried at most on either side of the first guess
METHODS = ("leadline", "standard")
OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
Runs = dict[tuple[str, str, int, int, int], float]  # case, method, size, power of RATIO, seed: loss


def built(case: Transfer, size: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return case.network(size)


def recipe_of(case: Transfer, size: int, x: Tensor) -> Recipe:
    return tune(built(case, size, 0), x[:32], base=built(case, case.sizes[0], 0), optimizer=case.optimizer, draws=2)


def train(
    case: Transfer, size: int, seed: int, rate: float, recipe: Recipe | None, data: tuple[Tensor, Tensor]
) -> float:
    x, y = data
    model = built(case, size, seed)
    groups: list = list(model.parameters())
    if recipe is not None:
        recipe.replace(seed=seed).apply(model, redraw=list(recipe.laws))
        groups = recipe.param_groups(model, lr=rate)
    optimizer = OPTIMIZERS[case.optimizer](groups, lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / case.steps, total_iters=case.steps - 1)
    order = torch.Generator().manual_seed(1000 + seed)
    for _ in range(case.steps):
        index = torch.randint(len(y), (case.batch,), generator=order)
        optimizer.zero_grad()
        value = F.cross_entropy(model(x[index]), y[index])
        if not math.isfinite(float(value.detach())):
            return math.inf
        value.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        loss = float(F.cross_entropy(model(x), y))
    return loss if math.isfinite(loss) else math.inf


def log_loss(loss: float) -> float:
    """A run that diverged is as bad as any."""
    return math.log(min(max(loss, 1e-12), 1e3))


def mean_loss(runs: Runs, case: Transfer, method: str, size: int, power: int) -> float:
    return sum(log_loss(runs[case.name, method, size, power, s]) for s in range(case.seeds)) / case.seeds


def best_power(runs: Runs, case: Transfer, method: str, size: int) -> int:
    powers = {k[3] for k in runs if k[:3] == (case.name, method, size)}
    full = [p for p in powers if all((case.name, method, size, p, s) in runs for s in range(case.seeds))]
    return min(full, key=lambda p: mean_loss(runs, case, method, size, p))


def wanted(runs: Runs, case: Transfer, method: str, size: int, guess: int) -> Iterator[tuple[int, int]]:
    """(power, seed) of runs that are lacking, until the best rate is inside the grid."""
    while True:
        known = [k[3] for k in runs if k[:3] == (case.name, method, size)]
        if not known:
            powers = range(guess - SIDE, guess + SIDE + 1)
        else:
            best = best_power(runs, case, method, size)
            powers = range(max(best - SIDE, guess - WIDEST), min(best + SIDE, guess + WIDEST) + 1)
        lacking = [(p, s) for p in powers for s in range(case.seeds) if (case.name, method, size, p, s) not in runs]
        if not lacking:
            return
        yield from lacking


def optimum(runs: Runs, case: Transfer, method: str, size: int, seed: int) -> float:
    """Power of RATIO at which a parabola through a seed's best rate and its neighbours is lowest."""
    found = {k[3]: log_loss(v) for k, v in runs.items() if k[:3] == (case.name, method, size) and k[4] == seed}
    best = min(found, key=lambda p: found[p])
    if best - 1 not in found or best + 1 not in found:
        return float(best)
    low, mid, high = found[best - 1], found[best], found[best + 1]
    bend = low - 2 * mid + high
    return best + (0.5 * (low - high) / bend if bend > 0 else 0.0)


def fill(case: Transfer, runs: Runs, output: Path, data: tuple[Tensor, Tensor]) -> None:
    for method in METHODS:
        guess = round(math.log(case.start / UNIT) / math.log(RATIO))
        for size in case.sizes:
            recipe = None
            for power, seed in wanted(runs, case, method, size, guess):
                if method == "leadline" and recipe is None:
                    recipe = recipe_of(case, size, data[0])
                once(case, runs, output, data, (method, size, power, seed), recipe)
            guess = best_power(runs, case, method, size)
            if method == "leadline" and size != case.sizes[0]:
                carried(case, runs, output, data, size, recipe)
            print(f"{case.name:18} {method:9} {size:5}  best rate {UNIT * RATIO**guess:.2e}", file=sys.stderr)


def carried(
    case: Transfer, runs: Runs, output: Path, data: tuple[Tensor, Tensor], size: int, recipe: Recipe | None
) -> None:
    """Train at the base's best rate too, where the grid does not hold it."""
    power = best_power(runs, case, "leadline", case.sizes[0])
    for seed in range(case.seeds):
        if (case.name, "leadline", size, power, seed) in runs:
            continue
        recipe = recipe or recipe_of(case, size, data[0])
        once(case, runs, output, data, ("leadline", size, power, seed), recipe)


def once(
    case: Transfer, runs: Runs, output: Path, data: tuple[Tensor, Tensor], key: tuple[str, int, int, int],
    recipe: Recipe | None,
) -> None:  # fmt: skip
    """Train once, and write it down."""
    method, size, power, seed = key
    rate = UNIT * RATIO**power
    loss = train(case, size, seed, rate, recipe, data)
    runs[case.name, method, size, power, seed] = loss
    row = {
        "case": case.name, "steps": case.steps, "method": method, "size": size, "power": power, "seed": seed,
        "rate": rate, "loss": loss if math.isfinite(loss) else None,
    }  # fmt: skip
    with output.open("a") as file:
        file.write(json.dumps(row) + "\n")


def slope(runs: Runs, case: Transfer, method: str) -> tuple[float, float]:
    """Power of the size that the optimum rate follows, and its standard error over seeds."""
    x = torch.tensor(case.sizes, dtype=torch.float64).log()
    x = x - x.mean()
    y = torch.tensor(
        [[optimum(runs, case, method, n, s) for n in case.sizes] for s in range(case.seeds)], dtype=torch.float64
    ) * math.log(RATIO)
    each = (y * x).sum(1) / x.square().sum()
    return float(each.mean()), float(each.std()) / math.sqrt(case.seeds)


def table(case: Transfer, runs: Runs) -> str:
    lines = [f"### {case.name}: {case.optimizer}, {case.steps} steps of {case.batch}, {case.seeds} seeds", ""]
    lines += [
        f"| {case.grows} | optimum, standard | optimum, leadline | best loss, standard | loss at the base's rate, leadline | ratio |",
        "|---|---|---|---|---|---|",
    ]
    power = best_power(runs, case, "leadline", case.sizes[0])
    ratios = []
    for size in case.sizes:
        rates = [
            UNIT * RATIO ** (sum(optimum(runs, case, m, size, s) for s in range(case.seeds)) / case.seeds)
            for m in ("standard", "leadline")
        ]
        best = math.exp(mean_loss(runs, case, "standard", size, best_power(runs, case, "standard", size)))
        ours = math.exp(mean_loss(runs, case, "leadline", size, power))
        ratios.append(ours / best)
        lines.append(f"| {size} | {rates[0]:.2e} | {rates[1]:.2e} | {best:.4f} | {ours:.4f} | {ours / best:.2f} |")
    ours, theirs = slope(runs, case, "leadline"), slope(runs, case, "standard")
    met = abs(ours[0]) <= 0.1 + 2 * ours[1], abs(theirs[0]) >= 0.5, max(ratios) <= 1.05
    lines += [
        "",
        f"Slope of the optimum: leadline {ours[0]:+.3f} ± {ours[1]:.3f} ({'met' if met[0] else 'not met'}: "
        f"|s| <= 0.1 + 2 s.e.), standard {theirs[0]:+.3f} ± {theirs[1]:.3f} ({'met' if met[1] else 'not met'}: |s| >= 0.5). "
        f"Largest ratio of losses {max(ratios):.2f} ({'met' if met[2] else 'not met'}: <= 1.05).",
        "",
    ]
    return "\n".join(lines)


def read(path: Path, cases: list[Transfer]) -> Runs:
    steps = {c.name: c.steps for c in cases}
    runs: Runs = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        row = json.loads(line)
        if steps.get(row["case"]) == row["steps"]:
            loss = math.inf if row["loss"] is None else row["loss"]
            runs[row["case"], row["method"], row["size"], row["power"], row["seed"]] = loss
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("transfer.jsonl"), help="one JSON line a run")
    parser.add_argument("--quick", action="store_true", help="three cases, shorter")
    parser.add_argument("--only", action="append", default=[], help="cases whose name contains this")
    parser.add_argument("--steps", type=int, help="of training, instead of the case's own")
    parser.add_argument("--largest", type=int, help="width or depth up to which networks are trained")
    parser.add_argument("--table", action="store_true", help="no training")
    options = parser.parse_args()
    cases = [c for c in CASES if not options.only or any(o in c.name for o in options.only)]
    if options.quick:
        cases = [replace(c, sizes=QUICK[c.name], steps=QUICK_STEPS) for c in cases if c.name in QUICK]
    if options.steps:
        cases = [replace(c, steps=options.steps) for c in cases]
    if options.largest:
        cases = [replace(c, sizes=tuple(n for n in c.sizes if n <= options.largest)) for c in cases]
    torch.set_num_threads(1)
    data, runs = digits(), read(options.output, cases)
    done = defaultdict(set)
    for case in cases:
        if not options.table:
            fill(case, runs, options.output, data)
        for key in runs:
            done[key[0], key[1]].add(key[2])
        if all(done[case.name, m] >= set(case.sizes) for m in METHODS):
            print(table(case, runs))


if __name__ == "__main__":
    main()
