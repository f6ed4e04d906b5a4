"""What names an activation on the command line, and the settings that verbs on activations share."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Annotated

import typer
from torch import nn

from leadline.activations import REGISTRY, Activation, activation
from leadline.cli.errors import UserError
from leadline.cli.load import load_pointwise
from leadline.program.errors import near, one_line, plain

__all__ = ["NameArgument", "NormOption", "ResidualOption", "named_activation", "refusing"]

NameArgument = Annotated[
    str,
    typer.Argument(
        help="A name (gelu, tanh, …), a class of torch.nn (Hardswish, …), or FILE.py:NAME, which RUNS that file (NAME: a "
        "function of one tensor, or a module, that acts on each entry alone, or a function that returns a module)."
    ),
]
NormOption = Annotated[
    str,
    typer.Option(help="none, layer_norm_before, layer_norm_after, rms_norm_before or rms_norm_after the activation."),
]
ResidualOption = Annotated[float, typer.Option(help="Strength of a skip around each layer; 0: none, 1: a full one.")]


def named_activation(name: str) -> Activation:
    """Find the activation that a command line names.

    Args:
        name: registered name, name of a torch.nn class that needs no arguments, or FILE.py:NAME.

    Returns:
        The activation.

    Raises:
        UserError: nothing of that name, or it does not act on each entry alone.
    """
    with refusing():
        if name.lower() in REGISTRY.names:
            return activation(name)
        kind = getattr(nn, name, None) if re.fullmatch(r"[A-Za-z_]\w*", name) else None
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            try:
                return activation(kind())
            except TypeError as error:
                raise UserError(
                    f"torch.nn.{name} cannot be built without arguments, or is no activation ({one_line(error, 80)}): give one "
                    "that acts on each entry alone."
                ) from error
        if ":" in name or name.endswith(".py"):
            return activation(load_pointwise(name))
        known = [*REGISTRY.names, *(k.__name__ for k in REGISTRY.modules)]
        raise UserError(
            f"no activation is called '{plain(name)}', expected a name or FILE.py:NAME: {near(name, known)}."
        )


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn what a room refuses into a refusal of the command.

    Yields:
        Nothing.

    Raises:
        UserError: with the sentence of the ValueError or TypeError that was raised inside.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        said = one_line(error, 400).partition(": ")[2]
        raise UserError(said if said.endswith(".") else f"{said}.") from error
