"""Settings of a model type of the transformers library, checked before any class of the library sees them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from leadline.program.errors import UserError, near, plain

__all__ = ["configuration", "reason"]

_REMOTE = ("auto_map", "trust_remote_code", "name_or_path", "code_revision", "quantization_config")
_ATTENTION = ("sdpa", "eager")


def configuration(kind: Any, model_type: str, config: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Make the configuration of a model type, with caches off unless they are asked for.

    Args:
        kind: the configuration class.
        model_type: the type, for messages.
        config: settings of the class, or ``attn_implementation``.

    Returns:
        The configuration, and the attention that was asked for or None.

    Raises:
        UserError: a setting that the type has not, a value that it refuses, or one that reaches for the hub.
    """
    _check_settings(kind, model_type, config)
    config = dict(config)
    attention = config.pop("attn_implementation", None)
    # A setting that a type does not have is refused above when a user gives it; this one is ours.
    cache = {} if "use_cache" in config or not hasattr(kind(), "use_cache") else {"use_cache": False}
    try:
        settings = kind(**config, **cache)
    except Exception as error:  # each class checks in its own way
        raise UserError(
            f"the configuration of '{model_type}' refuses {plain(_shown(config), 120)} ({reason(error)}): "
            "change these values."
        ) from error
    _uncached(settings, config)
    if settings.architectures is None:
        settings.architectures = []  # a type with more than one class for a task looks for its name here
    return settings, attention


def _uncached(settings: Any, given: Mapping[str, Any]) -> None:
    """Turn caches off in the parts of a model too: what they return is no tensor."""
    for name in getattr(settings, "sub_configs", {}):
        part, said = getattr(settings, name, None), given.get(name)
        said = said if isinstance(said, Mapping) else {}
        if part is not None and hasattr(part, "use_cache") and "use_cache" not in said:
            part.use_cache = False
        if part is not None:
            _uncached(part, said)


def _check_settings(kind: Any, model_type: str, config: Mapping[str, Any]) -> None:
    default = kind()
    known = {*default.to_dict(), *default.attribute_map, *inspect.signature(kind).parameters}
    known = {n for n in known if not n.startswith("_")} - {"self", "kwargs", "args", *_REMOTE}
    known |= {"attn_implementation"}
    for name in _keys(config):
        if name.startswith("_") or name in _REMOTE:
            raise UserError(
                f"config '{plain(name)}' is refused, as nothing is downloaded and no remote code run: leave it out."
            )
    for name, value in config.items():
        shown = plain(name)
        if name not in known:
            raise UserError(
                f"'{model_type}' has no config '{shown}' (got {shown}={plain(repr(value))}): {near(name, known)}."
            )
        if any("/" in text or "\\" in text for text in _strings(value)):
            raise UserError(
                f"config {shown}={plain(repr(value))} looks like a hub id or a path, expected a plain "
                "value, as nothing is downloaded: leave it out."
            )
        if name == "attn_implementation" and value not in _ATTENTION:
            raise UserError(
                f"config {shown}={plain(repr(value))} is not an attention that can be read: use "
                f"{' or '.join(_ATTENTION)}."
            )


def _keys(value: Any) -> Iterator[str]:
    """Names of the settings, those of the parts of a model too."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield str(key)
            yield from _keys(entry)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _strings(key)
            yield from _strings(entry)
    elif isinstance(value, (tuple, list, set)):
        for entry in value:
            yield from _strings(entry)


def _shown(config: Mapping[str, Any]) -> str:
    return ",".join(f"{k}={v!r}" for k, v in config.items()) or "its own defaults"


def reason(error: BaseException) -> str:
    """What an error of the library says, on one line.

    Args:
        error: an error of a configuration or a model class.

    Returns:
        Its type and the last line of its message, which is where a validator quotes the error that it wraps.
    """
    lines = [line.strip(". \t") for line in str(error).splitlines() if line.strip(". \t")]
    said = ": " + "; ".join(lines[-1].split(". ")) if lines else ""
    return plain(type(error).__name__ + said, 160)
