"""Files of figures: refused before anything takes time, written at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from leadline.cli.errors import UserError
from leadline.program.errors import one_line, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_figure", "write_figure"]

_FIGURES = (".png", ".svg", ".pdf")


def check_figure(path: Path) -> None:
    """Refuse a figure that could not be written before anything takes time.

    Args:
        path: where it shall go.

    Raises:
        UserError: another ending, no such folder, or no matplotlib.
    """
    if path.suffix.lower() not in _FIGURES:
        raise UserError(
            f"figure '{plain(path)}' ends in '{plain(path.suffix)}', expected {', '.join(_FIGURES)}: name it so."
        )
    if not path.expanduser().absolute().parent.is_dir():
        raise UserError(f"there is no folder for the figure '{plain(path)}', expected an existing one: make it first.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError('figures need matplotlib, which is not installed: pip install "leadline[plot]".') from error


def write_figure(draw: Callable[[], Figure], path: Path) -> None:
    """Draw a figure and write it.

    Args:
        draw: makes the figure.
        path: where it goes.

    Raises:
        UserError: there is nothing to draw, or the file cannot be written.
    """
    try:
        draw().savefig(path.expanduser())
    except (OSError, ValueError) as error:
        raise UserError(
            f"the figure '{plain(path)}' could not be written ({one_line(error)}): choose another place."
        ) from error
