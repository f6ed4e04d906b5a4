"""How much of real networks has a rule: one line a model, then what has none and the worst row against re-draws.

python benchmarks/coverage.py                      small models
python benchmarks/coverage.py --full gpt2 vit      true depth and size
python benchmarks/coverage.py --draws 50           prediction against 50 re-drawn copies
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from leadline.measure import measure
from leadline.program import Program, Step, trace
from leadline.testing.agreement import worst
from leadline.testing.stock import STOCK, image_batch, stock, token_batch
from leadline.theory import Prediction, predict

# steps that only say where a value stands, not what it is; taken from the operators, whatever the rules call them
SHAPE = {
    "reshape",
    "transpose",
    "permute",
    "clone",
    "alias",
    "contiguous",
    "expand",
    "unsqueeze",
    "squeeze",
    "getitem",
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "chunk",
    "cat",
    "stack",
    "flatten",
    "unflatten",
    "_to_copy",
    "unbind",
    "detach",
    "repeat",
    "pad",
    "t",
    "numpy_T",
    "movedim",
    "view_as",
    "lift_fresh_copy",
    "index_select",
    "index",
}
NONLINEAR = {
    "pointwise",
    "softmax",
    "log_softmax",
    "attention",
    "scaled_dot_product_attention",
    "layer_norm",
    "rms_norm",
    "group_norm",
    "batch_norm",
    "max_pool2d",
    "max_pool1d",
    "mul",
    "matmul",
    "bmm",
    "div",
    "lstm",
    "gru",
    "pow",
}


class Classifier(nn.Module):
    """An LSTM over a sequence, its last state to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class UNet(nn.Module):
    """Two scales down and up, the skips concatenated."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.bottom = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.mix1 = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.mix2 = nn.Conv2d(3 * width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.enter(x).relu()
        two = self.down(nn.functional.max_pool2d(one, 2)).relu()
        three = self.bottom(nn.functional.max_pool2d(two, 2)).relu()
        two = self.mix1(torch.cat([self.up1(three), two], 1)).relu()
        wide = nn.functional.interpolate(two, scale_factor=2, mode="bilinear")
        return self.leave(self.mix2(torch.cat([wide, one], 1)).relu())


def encoder(full: bool) -> nn.Module:
    """torch's own transformer, layers drawn one by one: its constructor copies the first."""
    torch.manual_seed(0)
    d = 512 if full else 128
    layer = nn.TransformerEncoderLayer(d, d // 32, 4 * d, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 6 if full else 3, enable_nested_tensor=False).eval()
    for module in model.modules():
        reset = getattr(module, "_reset_parameters", None) or getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return model


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def build(name: str, full: bool) -> tuple[nn.Module, Any]:
    if name in STOCK:
        model = stock(name, full=full)
        if name in ("gpt2", "llama", "bert"):
            return model, token_batch(tokens=128 if full else 16)
        return model, image_batch(pixels=224 if full else 32)
    torch.manual_seed(0)
    if name == "encoder":
        return encoder(full), draw(2, 16, 512 if full else 128)
    if name == "lstm":
        return Classifier().eval(), draw(2, 12, 32)
    return UNet(), draw(2, 3, 32 if full else 16, 32 if full else 16)


NAMES = [*STOCK, "encoder", "lstm", "unet"]


@dataclass
class Coverage:
    """Counts of one model."""

    steps: int = 0
    essential: int = 0  # parameter-carrying or nonlinear
    essential_covered: int = 0  # ruled or Monte Carlo, with finite figures
    arithmetic: int = 0
    arithmetic_ruled: int = 0
    flops: float = 0.0
    flops_ruled: float = 0.0
    missing: Counter[str] = field(default_factory=Counter)
    bare: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    worst: str = ""


def flops_of(step: Step, program: Program) -> float:
    """Multiply-adds times two of the matrix products, one an output entry for everything else."""
    total = 0.0
    nodes = {n.name: n for n in program.exported.module.graph.nodes}
    for member in step.members or (step.name,):
        node = nodes[member]
        if node.op != "call_function" or not str(node.target).startswith("aten"):
            continue
        given = pytree.tree_map(lambda a: a.meta["val"] if hasattr(a, "meta") else a, (node.args, node.kwargs))
        out = node.meta["val"]
        total += sum(o.numel() for o in pytree.tree_leaves(out) if isinstance(o, Tensor))
        mode = next((a.fake_mode for a in pytree.tree_leaves(given) if hasattr(a, "fake_mode")), None)
        if mode is not None:
            with (
                mode,
                torch.no_grad(),
                FlopCounterMode(display=False) as counter,
                torch.backends.mkldnn.flags(enabled=False),
            ):
                node.target(*given[0], **given[1])
            total += counter.get_total_flops()
    return total


def cover(program: Program, prediction: Prediction) -> Coverage:
    found = Coverage()
    rows = {row.step: row for row in prediction.rows}
    parameters = set(program.exported.parameters)
    for step in program.steps:
        found.steps += 1
        drawn = step.name in prediction.drawn
        names = {a.name for a in step.node.all_input_nodes}
        if step.op in SHAPE:
            continue
        flops = flops_of(step, program)
        found.arithmetic += 1
        found.flops += flops
        if drawn:
            found.missing[f"{step.op}: {prediction.drawn[step.name]}"] += 1
        else:
            found.arithmetic_ruled += 1
            found.flops_ruled += flops
        if names & parameters or step.op in NONLINEAR:
            found.essential += 1
            row = rows.get(step.name)
            values = [] if row is None else [row.get("kernel"), row.get("partial_jacobian")]
            if values and all(v is not None and math.isfinite(v) for v in values):
                found.essential_covered += 1
            else:
                found.bare[f"{step.op} at {step.layer}: {values or 'no row'}"] += 1
    return found


def worst_row(model: nn.Module, batch: Any, program: Program, prediction: Prediction, draws: int) -> str:
    return str(worst(prediction, measure(model, batch, draws=draws, seed=1, program=program)))


def timed(found: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = call()
    found[name] = time.perf_counter() - start
    return result


def examine(name: str, full: bool, draws: int) -> Coverage:
    model, batch = build(name, full)
    seconds: dict[str, float] = {}
    program = timed(seconds, "trace", lambda: trace(model, batch))
    prediction = timed(seconds, "predict", lambda: predict(program))
    found = cover(program, prediction)
    found.seconds = seconds
    if draws:
        found.worst = timed(seconds, "measure", lambda: worst_row(model, batch, program, prediction, draws))
    return found


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="model", help=f"some of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--full", action="store_true", help="true depth and size instead of small")
    parser.add_argument("--draws", type=int, default=0, help="re-drawn copies to hold the prediction against (0: none)")
    parser.add_argument("--traceback", action="store_true", help="show where a failure was raised")
    chosen = parser.parse_args()
    unknown = set(chosen.models) - set(NAMES)
    if unknown:
        parser.error(f"no model {sorted(unknown)[0]!r}: choose from {', '.join(NAMES)}")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="TF32 acceleration")
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table(
        "model",
        "steps",
        "weights or nonlinear\nruled or Monte Carlo",
        "arithmetic\nruled",
        "operations\nruled",
        "trace s",
        "predict s",
    )
    notes, failed = [], 0
    for name in chosen.models or NAMES:
        try:
            found = examine(name, chosen.full, chosen.draws)
        except Exception as error:
            failed += 1
            table.add_row(name, f"FAILED: {type(error).__name__}: {str(error)[:100]}")
            if chosen.traceback:
                traceback.print_exc()
            continue
        s = found.seconds
        table.add_row(
            name,
            str(found.steps),
            f"{found.essential_covered}/{found.essential} {share(found.essential_covered, found.essential)}",
            f"{found.arithmetic_ruled}/{found.arithmetic} {share(found.arithmetic_ruled, found.arithmetic)}",
            share(found.flops_ruled, found.flops),
            f"{s['trace']:.1f}",
            f"{s['predict']:.1f}",
        )
        notes += [f"{name}: Monte Carlo ({n}x) {what}" for what, n in found.missing.items()]
        notes += [f"{name}: no figures ({n}x) {what}" for what, n in found.bare.items()]
        if found.worst:
            notes.append(f"{name}: worst row against {chosen.draws} re-drawn copies: {found.worst}")
    console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
