"""``leadline lr``: the learning rate of a network, a batch and an optimizer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from leadline.cli.app import app, ending
from leadline.cli.errors import UserError
from leadline.cli.figures import check_figure, write_figure
from leadline.cli.options import (
    RUNS,
    Batch,
    BatchSize,
    Config,
    Debug,
    Device,
    ImageSize,
    Json,
    Loss,
    Mode,
    Seed,
    Seq,
    Target,
    Targets,
)
from leadline.cli.prepare import prepare
from leadline.cli.progress import working

__all__ = ["lr"]


@app.command(epilog=RUNS)
def lr(
    target: Target,
    batch: Batch = None,
    loss: Annotated[Loss, typer.Option(help="What is trained on.")] = Loss.cross_entropy,
    targets: Targets = None,
    optimizer: Annotated[str, typer.Option(help="sgd, momentum, nesterov, adam or adamw.")] = "adamw",
    beta: Annotated[float, typer.Option(help="Momentum; for Adam the first beta.")] = 0.9,
    beta2: Annotated[float, typer.Option(help="Adam's second beta.")] = 0.999,
    weight_decay: Annotated[float, typer.Option(help="As torch's optimizer takes it.")] = 0.0,
    trial: Annotated[
        bool, typer.Option("--trial/--no-trial", help="Run short trainings on copies; else curvature alone.")
    ] = True,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="One rate a layer (sgd, momentum, nesterov).")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the long runs of the figure.")] = 100,
    config: Config = "",
    seq: Seq = None,
    batch_size: BatchSize = 2,
    image_size: ImageSize = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to start from; loaded as data only.")] = None,
    mode: Mode = None,
    seed: Seed = 0,
    device: Device = "cpu",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Train at a range of rates and draw it: .png, .svg or .pdf.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
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
