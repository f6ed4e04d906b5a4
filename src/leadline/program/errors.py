"""The error a user sees, and how text that someone else wrote is quoted in it."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable

from torch import Tensor

__all__ = ["UserError", "describe_tensor", "near", "one_line", "plain"]

_LONGEST_NAME_HINT = 6


class UserError(Exception):
    r"""Something the user gave that cannot be used: one sentence with place, value and way out.

    The command line prints the message alone and ends with ``exit_code``. Control characters are made visible
    here, so that no message can move the cursor or colour the terminal, whatever was quoted in it.

    >>> str(UserError("no layer '\x1b[31mred'"))
    "no layer '\\x1b[31mred'"
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(_visible(message))


def _visible(text: str) -> str:
    """Replace line breaks by a space and every other character that does not print by its escape code."""
    flat = " ".join(text.split())
    return "".join(c if c.isprintable() else _escape_code(ord(c)) for c in flat)


def _escape_code(point: int) -> str:
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def plain(text: object, limit: int = 80) -> str:
    r"""Text of a user on one line: nothing that a terminal would act on, and not too long.

    Args:
        text: anything; its ``str`` is taken. Line breaks become spaces, unprintable characters (control
            codes, direction marks, lone surrogates) become ``\x1b`` and the like.
        limit: the most characters to return; longer text loses its middle.

    Returns:
        A printable string of at most ``limit`` characters.

    >>> plain("a\x07b\nc")
    'a\\x07b c'
    """
    try:
        given = str(text)
    except Exception:  # a user's own __str__ may raise anything
        given = object.__repr__(text)
    # Long text is cut first too, so that a megabyte is not escaped for the sake of eighty characters.
    if len(given) > 4 * limit:
        given = given[: 2 * limit] + " … " + given[-2 * limit :]
    return _cut(_visible(given), limit)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 3
    return text[: limit - 1 - tail] + "…" + text[len(text) - tail :]


def near(name: str, known: Iterable[str]) -> str:
    """Say which known names a mistyped one may have meant.

    Args:
        name: what the user wrote.
        known: the names that exist.

    Returns:
        ``"did you mean 'a' or 'b'"``, or else the first few known names, or else that there are none.

    >>> near("n_layr", ["n_layer", "n_head"])
    "did you mean 'n_layer'"
    """
    names = sorted(dict.fromkeys(known))
    by_lower = {n.lower(): n for n in names}
    close = [by_lower[n] for n in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)]
    if close:
        return "did you mean " + " or ".join(f"'{plain(n)}'" for n in close)
    if not names:
        return "there is none to choose from"
    shown = ", ".join(f"'{plain(n)}'" for n in names[:_LONGEST_NAME_HINT])
    return f"there are {shown}" + (", …" if len(names) > _LONGEST_NAME_HINT else "")


def one_line(error: BaseException, limit: int = 160, file: str | None = None) -> str:
    r"""An exception as its type and the first line of its message.

    Args:
        error: any exception.
        limit: the most characters of the message to keep.
        file: if given, the last line of this file that the exception passed through is named.

    Returns:
        ``"ValueError: bad width (line 7)"``, without a full stop at the end.

    >>> one_line(ValueError("bad width.\nmore"))
    'ValueError: bad width'
    """
    try:
        message = str(error.msg) if isinstance(error, SyntaxError) else str(error)
    except Exception:  # a user's own exception may fail to print
        message = ""
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    # Several sentences are joined, since a message of ours is one.
    said = plain("; ".join(first.rstrip(". ").split(". ")), limit)
    text = type(error).__name__ + (f": {said}" if said else "")
    line = _line_in(error, file) if file else None
    return plain(text, limit + 80) + (f" (line {line})" if line else "")


def _line_in(error: BaseException, file: str) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return lines[-1] if lines else None


def describe_tensor(tensor: Tensor) -> str:
    """Shape and dtype of a tensor as a message shows them.

    Args:
        tensor: any tensor.

    Returns:
        For example ``"(2, 3) float32"``.
    """
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
