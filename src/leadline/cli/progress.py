"""What a terminal shows while work goes on: a progress bar over what there is to see already."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Working", "working"]

_PATIENCE = 1.0


class Working:
    """A bar that is fed with ``working(what is done, steps done, steps in all)``, over what :meth:`show` was given.

    It appears after a second and is gone at the end.
    """

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
            console=console,
        )  # fmt: skip
        self._live = Live(self._bar, console=console, transient=True)
        self._start = time.monotonic()
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of one kind of work; the others are hidden."""
        if not self._live.is_started and time.monotonic() - self._start > _PATIENCE:
            self._live.start()
        if what not in self._tasks:
            for other in self._tasks.values():
                self._bar.update(other, visible=False)
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=max(total, 1))

    def show(self, first: RenderableType) -> None:
        """Show something beneath the bar until the end; a terminal too short for it cuts its end, not the bar."""
        self._live.update(Group(self._bar, first), refresh=True)

    def stop(self) -> None:
        """Remove everything from the terminal."""
        if self._live.is_started:
            self._live.stop()


@contextlib.contextmanager
def working(wanted: bool) -> Iterator[Working | None]:
    """Show on standard error that work goes on.

    Args:
        wanted: False shows nothing at all.

    Yields:
        The bar; None where nothing is shown, which includes a standard error that is no terminal.
    """
    console = Console(stderr=True)
    if not wanted or not console.is_terminal:
        yield None
        return
    shown = Working(console)
    try:
        yield shown
    finally:
        shown.stop()
