"""Laws given as text: ``fc1:C_W=2,C_b=0``."""

from __future__ import annotations

from collections.abc import Iterable

from leadline.cli.config import parse_config
from leadline.program.errors import UserError, plain

__all__ = ["parse_laws"]

_KEYS = ("C_W", "C_b")
_HOW = "write MODULE:C_W=2,C_b=0"


def parse_laws(texts: Iterable[str]) -> dict[str, dict[str, float]]:
    """Read laws that override those of the weights.

    Args:
        texts: one module each.

    Returns:
        Module name -> ``{"C_W": …, "C_b": …}``.

    Raises:
        UserError: not of this form, another name, or no number.

    >>> parse_laws(["blocks.0.fc:C_W=2,C_b=0.1"])
    {'blocks.0.fc': {'C_W': 2.0, 'C_b': 0.1}}
    """
    laws: dict[str, dict[str, float]] = {}
    for text in texts:
        module, colon, settings = text.rpartition(":")
        if not colon or not settings.strip():
            raise UserError(f"the law '{plain(text)}' names no module with its values, expected both: {_HOW}.")
        values: dict[str, float] = {}
        for name, value in parse_config(settings).items():
            if name not in _KEYS:
                raise UserError(f"the law '{plain(text)}' sets '{plain(name)}', expected C_W or C_b: {_HOW}.")
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UserError(
                    f"the law '{plain(text)}' sets {name} to {plain(repr(value))}, expected a number: {_HOW}."
                )
            values[name] = float(value)
        laws.setdefault(module, {}).update(values)
    return laws
