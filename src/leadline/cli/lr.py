"""``leadline lr``: the learning rate of a network, a batch and an optimizer."""

from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from leadline.cli.app import app, ending
from leadline.cli.errors import UserError
from leadline.cli.figures import check_figure, write_figure
from leadline.cli.prepare import prepare
from leadline.cli.progress import working

__all__ = ["lr"]


class _Loss(enum.StrEnum):
    cross_entropy = "cross_entropy"
    mse = "mse"


@app.command(epilog="Naming FILE.py:NAME runs that file. Naming transformers:TYPE downloads nothing.")
def lr(
    target: Annotated[
        str,
        typer.Argument(
            help="FILE.py:NAME, which RUNS that file (NAME: a function that returns the model or (model, batch)), or "
            "transformers:TYPE."
        ),
    ],
    batch: Annotated[
        Path | None, typer.Option(help="Inputs: .pt, .safetensors, .npy or .npz; loaded as data only.")
    ] = None,
    loss: Annotated[_Loss, typer.Option(help="What is trained on.")] = _Loss.cross_entropy,
    targets: Annotated[Path | None, typer.Option(help="Targets of that batch.")] = None,
    optimizer: Annotated[str, typer.Option(help="sgd, momentum, nesterov, adam or adamw.")] = "adamw",
    beta: Annotated[float, typer.Option(help="Momentum; for Adam the first beta.")] = 0.9,
    beta2: Annotated[float, typer.Option(help="Adam's second beta.")] = 0.999,
    weight_decay: Annotated[float, typer.Option(help="As torch's optimizer takes it.")] = 0.0,
    trial: Annotated[
        bool, typer.Option("--trial/--no-trial", help="Run short trainings on copies; else curvature alone.")
    ] = True,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="One rate a layer (sgd, momentum, nesterov).")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the long runs of the figure.")] = 100,
    config: Annotated[str, typer.Option(help="Settings: n_layer=24,n_embd=384 (literals).")] = "",
    seq: Annotated[int | None, typer.Option(help="Tokens an input (transformers:TYPE).")] = None,
    batch_size: Annotated[int, typer.Option(help="Inputs that are drawn (transformers:TYPE).")] = 2,
    image_size: Annotated[int | None, typer.Option(help="Pixels a side (transformers:TYPE).")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to start from; loaded as data only.")] = None,
    mode: Annotated[
        bool | None, typer.Option("--train/--eval", help="Mode of the network; default: as it is built.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, …")] = "cpu",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Train at a range of rates and draw it: .png, .svg or .pdf.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Say which learning rate to use, from curvature and short trial runs."""
    with ending(debug):
        if output is not None:
            check_figure(output)
        with working(not as_json) as progress:
            from leadline.tune import UpdateRule, learning_rate

            rule = UpdateRule(optimizer, beta=beta, beta2=beta2, decay=weight_decay)
            loaded = prepare(
                target, config=config, device=device, seq=seq, batch_size=batch_size, image_size=image_size, seed=seed,
                checkpoint=checkpoint, batch=batch, targets=targets, mode=mode,
            )  # fmt: skip
            if loaded.targets is None:
                raise UserError(
                    "a learning rate is one for a loss, which needs targets, and none were given: --targets."
                )
            if not loaded.args and not loaded.kwargs:
                raise UserError(f"'{loaded.name}' comes without a batch, expected one: give it with --batch.")
            result = learning_rate(
                loaded.model, args=loaded.args, kwargs=loaded.kwargs, loss=loss.value, targets=loaded.targets,
                optimizer=rule, trial=trial, per_layer=per_layer, curve=output is not None, steps=steps,
                seed=seed, progress=progress,
            )  # fmt: skip
        if output is not None:
            write_figure(result.plot, output)
        if as_json:
            sys.stdout.write(json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
        else:
            Console().print(result)
