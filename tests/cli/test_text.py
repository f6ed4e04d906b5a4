"""No text of a user's moves the cursor, colours the screen or is read as markup."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from leadline.cli.errors import EXIT_HEALTHY, EXIT_UNHEALTHY, EXIT_UNUSABLE, print_error
from leadline.cli.text import literal, plain
from leadline.program.errors import UserError, near, one_line

HOSTILE = "[red]a[/red]\x1b[31mb\x07:smile:\u202ec\\[bold]\r\nd"
SHOWN = "[red]a[/red]\\x1b[31mb\\x07:smile:\\u202ec\\[bold] d"


def printed(what: object) -> str:
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system=None, width=200, emoji=True).print(what)
    return stream.getvalue()


def test_hostile_text_is_printed_as_it_stands() -> None:
    assert plain(HOSTILE) == SHOWN
    assert printed(literal(HOSTILE)) == SHOWN + "\n"
    table = Table("layer")
    table.add_row(literal(HOSTILE))
    assert SHOWN in printed(table)
    stream = io.StringIO()
    print_error(UserError(f"no layer {HOSTILE}."), Console(file=stream, width=20, force_terminal=True))
    assert stream.getvalue() == f"no layer {SHOWN}.\n"


def test_exit_codes() -> None:
    assert (EXIT_HEALTHY, EXIT_UNHEALTHY, EXIT_UNUSABLE) == (0, 1, 2)


@given(st.text(max_size=300), st.integers(10, 90))
def test_plain_text_is_printable_short_and_stable(text: str, limit: int) -> None:
    shown = plain(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert plain(shown, limit) == shown
    if text.isprintable() and text == " ".join(text.split()) and len(text) <= limit:
        assert shown == text


def test_long_text_keeps_both_ends() -> None:
    shown = plain("start " + "x" * 10**6 + " end")
    assert shown.startswith("start")
    assert shown.endswith("end")
    assert "…" in shown


def test_near_names() -> None:
    assert near("n_layr", ["n_layer", "n_head"]) == "did you mean 'n_layer'"
    assert near("N_LAYER", ["n_layer"]) == "did you mean 'n_layer'"
    assert near("zzz", []) == "there is none to choose from"
    assert near("zzz", ["a", "b"]) == "there are 'a', 'b'"
    assert near("q", [f"name{i}" for i in range(9)]).endswith("…")


def test_errors_whose_text_cannot_be_had() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert one_line(Mute()) == "Mute"
    assert one_line(ValueError("a. b. ")) == "ValueError: a; b"
    assert "Mute object at" in plain(Mute(), limit=200)
