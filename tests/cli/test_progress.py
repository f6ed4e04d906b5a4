"""What a terminal shows while work goes on."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console
from rich.text import Text

from leadline.cli import progress


def test_what_is_there_already_stands_under_the_bar_and_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, height=20)
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    shown = progress.Working(console)
    time.sleep(0.01)
    shown("measuring", 1, 2)
    shown.show(Text("the prediction"))
    shown.stop()
    text = file.getvalue()
    assert "measuring" in text
    assert "the prediction" in text
    assert text.rstrip().endswith("\x1b[2K"), "the last thing written clears what was shown"


def test_quick_work_shows_nothing() -> None:
    file = io.StringIO()
    shown = progress.Working(Console(file=file, force_terminal=True))
    shown("reading the network", 0, 1)
    shown.stop()
    assert file.getvalue() == ""
