"""The command line: what it is given, what it runs and what it shows."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line; the program ends with its exit code."""
    from leadline.cli.app import run  # loads torch, which takes seconds

    run()
