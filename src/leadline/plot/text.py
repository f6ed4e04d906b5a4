"""What a terminal would show, as plain text."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

__all__ = ["as_text"]


def as_text(what: RenderableType, width: int) -> str:
    """Print something without colours, whatever the terminal.

    Args:
        what: anything that :mod:`rich` prints.
        width: columns.

    Returns:
        The lines, without a line break at the end.
    """
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False, color_system=None, legacy_windows=False).print(what)
    return out.getvalue().rstrip("\n")
