"""A progress bar on standard error for what takes more than a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["progress_bar"]

_PATIENCE = 1.0


@contextlib.contextmanager
def progress_bar(wanted: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A function to report progress to, shown after a second and gone at the end.

    Args:
        wanted: False shows nothing at all.

    Yields:
        A function of (what is done, steps done, steps in all); None where nothing is shown, which includes a
        standard error that is no terminal.
    """
    console = Console(stderr=True)
    if not wanted or not console.is_terminal:
        yield None
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
        console=console, transient=True,
    )  # fmt: skip
    start, running = time.monotonic(), False
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        nonlocal running
        if not running and time.monotonic() - start > _PATIENCE:
            bar.start()
            running = True
        if what not in tasks:
            for other in tasks.values():
                bar.update(other, visible=False)
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=max(total, 1))

    try:
        yield report
    finally:
        if running:
            bar.stop()
