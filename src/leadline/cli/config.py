"""Settings given as text: ``a=1,b=(2,3),c=relu``."""

from __future__ import annotations

import ast
import warnings
from typing import Any

from leadline.program.errors import UserError, plain

__all__ = ["parse_config"]

_LONGEST = 10_000
_HOW = "write NAME=VALUE,NAME=VALUE with Python literals, such as n_layer=24,sizes=(32,64),act='relu'"
_MEANT = {"true": "True", "false": "False", "none": "None", "null": "None"}


def parse_config(text: str) -> dict[str, Any]:
    """Read a comma-separated list of settings; nothing in it is run.

    Args:
        text: for example ``"n_layer=24,hidden_sizes=(32,64),hidden_act=relu"``: values are Python literals,
            nested as they like, or one bare word for a string.

    Returns:
        Names and values, in the order given; empty for empty text.

    Raises:
        UserError: not of this form, a value that is no literal, or a name given twice.

    >>> parse_config("n_layer=24, hidden_sizes=(32,64), act=relu")
    {'n_layer': 24, 'hidden_sizes': (32, 64), 'act': 'relu'}
    """
    if not text.strip():
        return {}
    if len(text) > _LONGEST:
        raise UserError(f"the config is {len(text)} characters long, expected at most {_LONGEST}: shorten it.")
    config: dict[str, Any] = {}
    for name, value in _settings(text):
        if name in config:
            raise UserError(f"the config gives '{plain(name)}' twice, expected once: leave one out.")
        config[name] = _literal(name, value)
    return config


def _settings(text: str) -> list[tuple[str, ast.expr]]:
    """Name and value of each setting: read as the keywords of a call, which knows brackets and quotes."""
    broken = f"the config '{plain(text)}' cannot be read, expected a list of settings: {_HOW}."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes in the text
            call = ast.parse(f"f({text}\n)", mode="eval").body
    except SyntaxError as error:
        raise UserError(broken) from error
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes, absurd nesting
        raise UserError(broken) from error
    is_call = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "f"
    if not isinstance(call, ast.Call) or not is_call or call.args:
        raise UserError(broken)
    settings = [(k.arg, k.value) for k in call.keywords if k.arg is not None]
    if len(settings) != len(call.keywords):
        raise UserError(broken)
    return settings


def _literal(name: str, value: ast.expr) -> Any:
    if isinstance(value, ast.Name):
        if value.id.lower() in _MEANT:
            raise UserError(
                f"config value {plain(name)}={value.id} is not a Python literal, expected "
                f"{_MEANT[value.id.lower()]}: mind the capital letter."
            )
        return value.id
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(
            f"config value {plain(name)}={_source(value)} is not a Python literal, expected a number, a "
            f"quoted string, a tuple, a list, a dict, True, False or None: {_HOW}."
        ) from error


def _source(value: ast.expr) -> str:
    try:
        return plain(ast.unparse(value))
    except (ValueError, RecursionError):
        return "…"
