"""Text that someone else wrote, such as layer names, on its way to the terminal.

Nothing of a user's goes through console markup: a layer named ``[red]`` or an error message with a bracket in
it is wrapped in a :class:`rich.text.Text`, which tables and consoles print as it stands.
"""

from __future__ import annotations

from rich.text import Text

from leadline.program.errors import plain

__all__ = ["literal", "plain"]


def literal(text: object, style: str = "", limit: int = 80) -> Text:
    r"""Text as it stands: no markup, no emoji codes, no control characters, not too long.

    Args:
        text: anything; its ``str`` is taken.
        style: style of ours for the whole of it, for example ``"bold"``.
        limit: the most characters; longer text loses its middle.

    Returns:
        Text for a console, a table cell or :meth:`rich.text.Text.assemble`.

    >>> literal("[red]a\x1b[0m:smile:").plain
    '[red]a\\x1b[0m:smile:'
    """
    return Text(plain(text, limit), style=style)
