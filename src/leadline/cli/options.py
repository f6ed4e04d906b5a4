"""Arguments and options that more than one verb has: one name, one meaning, one help text."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "RUNS", "TARGET_HELP", "Batch", "BatchSize", "Checkpoint", "Config", "Debug", "Device", "ImageSize", "Json", "Loss",
    "Mode", "Seed", "Seq", "Target", "Targets",
]  # fmt: skip

RUNS = "Naming FILE.py:NAME runs that file. Naming transformers:TYPE downloads nothing."
TARGET_HELP = (
    "FILE.py:NAME, which RUNS that file (NAME: a function that returns the model or (model, batch)), or "
    "transformers:TYPE."
)


class Loss(enum.StrEnum):
    """The losses that have a name."""

    cross_entropy = "cross_entropy"
    mse = "mse"


Target = Annotated[str, typer.Argument(help=TARGET_HELP)]
Batch = Annotated[Path | None, typer.Option(help="Inputs: .pt, .safetensors, .npy or .npz; loaded as data only.")]
Targets = Annotated[Path | None, typer.Option(help="Targets of that batch, for the loss.")]
Config = Annotated[str, typer.Option(help="Settings: n_layer=24,n_embd=384 (literals).")]
Seq = Annotated[int | None, typer.Option(help="Tokens an input (transformers:TYPE).")]
BatchSize = Annotated[int, typer.Option(help="Inputs that are drawn (transformers:TYPE).")]
ImageSize = Annotated[int | None, typer.Option(help="Pixels a side (transformers:TYPE).")]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights to look at; loaded as data only.")]
Mode = Annotated[bool | None, typer.Option("--train/--eval", help="Mode of the network; default: as it is built.")]
Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda, …")]
Seed = Annotated[int, typer.Option(help="Seed of every draw.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
