"""How the command line ends: its exit codes, and the one sentence on what it could not use."""

from __future__ import annotations

from rich.console import Console

from leadline.cli.text import literal
from leadline.program.errors import UserError

__all__ = ["EXIT_HEALTHY", "EXIT_UNHEALTHY", "EXIT_UNUSABLE", "UserError", "print_error"]

EXIT_HEALTHY = 0
EXIT_UNHEALTHY = 1
EXIT_UNUSABLE = UserError.exit_code
_LONGEST_MESSAGE = 2000


def print_error(error: UserError, console: Console) -> None:
    """Print the sentence of an error, and nothing else.

    Args:
        error: what could not be used.
        console: usually one that writes to standard error.
    """
    console.print(literal(error, limit=_LONGEST_MESSAGE), soft_wrap=True, highlight=False)
