"""The typer application: the verbs, and how each run ends."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

import leadline
from leadline.cli.errors import EXIT_UNUSABLE, UserError, print_error
from leadline.program.errors import one_line

__all__ = ["app", "ending", "run"]

app = typer.Typer(
    name="leadline",
    help="Predict and measure, layer by layer, how deep your network can go before you train it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"leadline {leadline.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Predict and measure, layer by layer, how deep your network can go before you train it."""


@contextlib.contextmanager
def ending(debug: bool) -> Iterator[None]:
    """End with exit code 2 and one sentence on standard error where something cannot be used.

    Args:
        debug: let the exception through, with its traceback.

    Yields:
        Nothing.

    Raises:
        Exit: with code 2, after the sentence.
        Abort: as it came.
        KeyboardInterrupt: as it came.
        UserError: with ``debug``.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, KeyboardInterrupt):
        raise
    except UserError as error:
        if debug:
            raise
        print_error(error, Console(stderr=True))
        raise typer.Exit(EXIT_UNUSABLE) from error
    except BrokenPipeError:
        # The reader, as head, has gone: nothing more to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_UNUSABLE) from None
    except Exception as error:  # a fault of ours: one sentence all the same
        if debug:
            raise
        said = (
            f"leadline failed on this network ({one_line(error)}): run it with --debug for the traceback and report it."
        )
        print_error(UserError(said), Console(stderr=True))
        raise typer.Exit(EXIT_UNUSABLE) from error


def run() -> None:
    """Run the application with the arguments of the process."""
    app()


# one file a verb; each registers itself with the application above
for _verb in ("check", "diff", "tune", "lr", "criticality", "flow", "phase_diagram"):
    importlib.import_module(f"leadline.cli.{_verb}")
