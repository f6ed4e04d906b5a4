"""``leadline check``: read a network, predict it, measure it, say what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from leadline.cli.app import app, ending
from leadline.cli.errors import EXIT_HEALTHY, EXIT_UNHEALTHY, UserError
from leadline.cli.figures import check_figure, write_figure
from leadline.cli.laws import parse_laws
from leadline.cli.options import (
    RUNS,
    TARGET_HELP,
    Batch,
    BatchSize,
    Checkpoint,
    Config,
    Debug,
    Device,
    ImageSize,
    Json,
    Loss,
    Mode,
    Seed,
    Seq,
    Targets,
)
from leadline.cli.prepare import prepare
from leadline.cli.progress import working

__all__ = ["check"]

_EPILOG = f"{RUNS} Exit code 0: healthy, 1: unhealthy, 2: could not run."


@app.command(epilog=_EPILOG)
def check(
    target: Annotated[
        str | None,
        typer.Argument(help=TARGET_HELP),
    ] = None,
    batch: Batch = None,
    loss: Annotated[Loss | None, typer.Option(help="Compare the initial loss with a blind guess.")] = None,
    targets: Targets = None,
    config: Config = "",
    seq: Seq = None,
    batch_size: BatchSize = 2,
    image_size: ImageSize = None,
    checkpoint: Checkpoint = None,
    draws: Annotated[
        int | None,
        typer.Option(min=0, help="Re-drawn networks to measure (8, fewer for large ones); 0: this very network."),
    ] = None,
    seed: Seed = 0,
    law: Annotated[
        list[str] | None, typer.Option(help="A law that overrides the weights: fc1:C_W=2,C_b=0 (repeatable).")
    ] = None,
    mode: Mode = None,
    device: Device = "cpu",
    as_json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="Write a figure: .png, .svg or .pdf.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Show every row of repeated blocks.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="List the rules: thresholds, reasons, sources.")] = False,
    debug: Debug = False,
) -> None:
    """Read a network, predict it layer by layer, measure the same on it, and say what is wrong."""
    with ending(debug):
        if explain:
            from leadline.cli.explain import explain as listing

            Console().print(listing())
            return
        if target is None:
            raise UserError("no target was given, expected one: name FILE.py:NAME or transformers:TYPE.")
        if plot is not None:
            check_figure(plot)
        with working(not as_json) as progress:
            from leadline.check import check as run_check

            loaded = prepare(
                target, config=config, device=device, seq=seq, batch_size=batch_size, image_size=image_size, seed=seed,
                checkpoint=checkpoint, batch=batch, targets=targets, mode=mode,
            )  # fmt: skip
            report = run_check(
                loaded.model, args=loaded.args, kwargs=loaded.kwargs, draws=draws, seed=seed, law=parse_laws(law or []),
                loss=loss.value if loss is not None else None, targets=loaded.targets, progress=progress,
                preview=None if progress is None else lambda first: progress.show(first.screen(full=full)),
                target=loaded.name,
            )  # fmt: skip
        if plot is not None:
            write_figure(report.plot, plot)
        if as_json:
            sys.stdout.write(json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n")
        else:
            Console().print(report.screen(full=full))
        raise typer.Exit(EXIT_HEALTHY if report.ok else EXIT_UNHEALTHY)
