"""What every refusal must be: one printable sentence that says the expected thing."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest

from leadline.program.errors import UserError


def assert_one_sentence(message: str) -> None:
    assert message.endswith("."), message
    assert ". " not in message, message
    assert message.isprintable(), message
    assert "Traceback" not in message, message
    assert len(message) < 700, message


@contextlib.contextmanager
def refused(*parts: str) -> Iterator[None]:
    """Expect a `UserError` of one sentence with all the parts, which are taken literally, in this order."""
    with pytest.raises(UserError, match=".*".join(re.escape(p) for p in parts)) as caught:
        yield
    assert_one_sentence(str(caught.value))
    assert caught.value.exit_code == 2
