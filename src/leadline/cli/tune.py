"""``leadline tune``: from a network and a batch to a recipe, and the lines that apply it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from leadline.cli.app import app, ending
from leadline.cli.base import load_base
from leadline.cli.errors import EXIT_HEALTHY, EXIT_UNHEALTHY, UserError
from leadline.cli.options import (
    RUNS,
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
    Seq,
    Target,
    Targets,
)
from leadline.cli.prepare import prepare
from leadline.cli.progress import working
from leadline.program.errors import plain

__all__ = ["tune"]

_ENDINGS = (".yaml", ".yml")
# classes of torch.optim; the others come from elsewhere
_CLASSES = {"sgd": "SGD", "momentum": "SGD", "adam": "Adam", "adamw": "AdamW", "muon": "Muon"}
_EPILOG = f"{RUNS} Exit code 0: healthy, as it is or with the recipe, 1: still unhealthy, 2: could not run."


@app.command(epilog=_EPILOG)
def tune(
    target: Target,
    batch: Batch = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, momentum, adam, adamw, lion, lamb or muon.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the recipe: .yaml.")] = None,
    loss: Annotated[Loss | None, typer.Option(help="Compare the initial loss with a blind guess too.")] = None,
    targets: Targets = None,
    config: Config = "",
    seq: Seq = None,
    batch_size: BatchSize = 2,
    image_size: ImageSize = None,
    checkpoint: Checkpoint = None,
    draws: Annotated[
        int | None, typer.Option(min=2, help="Networks behind each measurement (8, fewer for large ones).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every draw, and of the recipe's weights.")] = 0,
    reshape_activations: Annotated[
        bool, typer.Option("--reshape-activations", help="Put activations in affine wraps that keep inputs apart.")
    ] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Judge and show the recipe as a copy with a changed graph takes it.")
    ] = False,
    parametrization: Annotated[
        str | None,
        typer.Option(help="standard, ntk, mean_field, mup, integrable or depth_mup: sizes and rates by width."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="A narrower network of the same code, named like the target, or a width (128).")
    ] = None,
    base_config: Annotated[str, typer.Option(help="Settings of the base.")] = "",
    base_lr: Annotated[float | None, typer.Option(help="Learning rate that was found for the base.")] = None,
    mode: Mode = None,
    device: Device = "cpu",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what to change in a network's initialization so that it can train, and write it down."""
    with ending(debug):
        if output is not None and output.suffix.lower() not in _ENDINGS:
            raise UserError(f"the recipe '{plain(output)}' does not end in .yaml, expected that: name such a file.")
        if graph and not reshape_activations:
            raise UserError("--graph changes activations alone, expected --reshape-activations with it: add that.")
        with working(not as_json) as progress:
            from leadline.tune import tune as run_tune

            loaded = prepare(
                target, config=config, device=device, seq=seq, batch_size=batch_size, image_size=image_size, seed=seed,
                checkpoint=checkpoint, batch=batch, targets=targets, mode=mode,
            )  # fmt: skip
            small = load_base(
                base, config=base_config, device=device, seq=seq, batch_size=batch_size, image_size=image_size,
                seed=seed, mode=mode,
            )  # fmt: skip
            recipe = run_tune(
                loaded.model, args=loaded.args, kwargs=loaded.kwargs, optimizer=optimizer,
                loss=loss.value if loss is not None else None, targets=loaded.targets, draws=draws, seed=seed,
                reshape_activations=reshape_activations, parametrization=parametrization, base=small, base_lr=base_lr,
                progress=progress, target=loaded.name,
            )  # fmt: skip
        if output is not None:
            recipe.save(output)
        if as_json:
            sys.stdout.write(json.dumps(recipe.to_dict(), indent=1, allow_nan=False) + "\n")
        else:
            console = Console()
            console.print(recipe)
            if output is not None:
                rate = bool(recipe.scales) and not (graph and recipe.reshapes)
                rate = rate or any(g.lr is None and g.lr_factor != 1 for g in recipe.groups)
                console.print(_lines(output, optimizer, graph, rate), soft_wrap=True)
        raise typer.Exit(EXIT_HEALTHY if (recipe.graph_ok if graph else recipe.ok) else EXIT_UNHEALTHY)


def _lines(output: Path, optimizer: str | None, graph: bool, rate: bool) -> Text:
    """The two lines that apply the recipe; ``rate``: rates follow factors in the weights, and need one to begin with."""
    name = _CLASSES.get(optimizer or "adamw")
    made = f"torch.optim.{name}" if name is not None else "YourOptimizer"
    momentum = ", momentum=0.9" if optimizer == "momentum" else ""
    applied = "model = recipe.apply(model, graph=True)" if graph else "recipe.apply(model)"
    return Text(
        "from leadline.tune import Recipe\n"
        f"recipe = Recipe.load({str(output)!r}); {applied}; "
        f"optimizer = {made}(recipe.param_groups(model{', lr=1e-3' if rate else ''}){momentum})"
    )
