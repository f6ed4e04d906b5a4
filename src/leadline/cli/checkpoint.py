"""Putting a checkpoint's weights into a model, all of them or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from leadline.cli.files import existing_file, read_safetensors, read_torch
from leadline.program.errors import UserError, one_line, plain

__all__ = ["CheckpointReport", "load_checkpoint"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")
_SHOWN = 3


@dataclass(frozen=True)
class CheckpointReport:
    """What was taken from a checkpoint.

    ``tensors``: how many were put into the model. ``container``: the entry of the file that held them, if
    any. ``stripped``: prefixes of wrappers taken off the names. ``ignored``: names left out because the model
    keeps these buffers out of its own checkpoints. ``cast``: names whose dtype became the model's.
    """

    name: str
    tensors: int
    container: str | None = None
    stripped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    cast: tuple[str, ...] = ()


def load_checkpoint(model: nn.Module, path: str | Path) -> CheckpointReport:
    """Put a checkpoint's weights into a model; if anything does not fit, nothing is changed.

    Args:
        model: the model whose parameters and buffers are overwritten.
        path: ``.safetensors``, or ``.pt``, ``.pth``, ``.bin``, ``.ckpt`` (read with ``weights_only=True``),
            with a state dict in it, or a dict that has one under ``state_dict``, ``model_state_dict`` or
            ``model``. The prefixes ``module.`` (data parallel) and ``_orig_mod.`` (compiled) are taken off
            where the model has no such names.

    Returns:
        What was taken.

    Raises:
        UserError: no such file, not such a file, names missing or unknown, shapes or kinds of number that
            differ.
    """
    file = existing_file(path, "checkpoint", _SUFFIXES)
    shown = f"checkpoint '{plain(file.name, 60)}'"
    read = read_safetensors if file.suffix.lower() == ".safetensors" else read_torch
    given, container = _state_dict(read(file, "checkpoint"), shown)
    own = model.state_dict(keep_vars=True)
    given, stripped = _unwrap(given, own, shown)
    ignored = tuple(sorted(n for n in given if n not in own and _is_private_buffer(model, n)))
    given = {n: v for n, v in given.items() if n not in ignored}
    _check_names(shown, given, own)
    cast = _check_values(shown, given, own)
    try:
        model.load_state_dict(given, strict=False)
    except Exception as error:  # hooks of the model's own may raise anything
        raise UserError(f"{shown} could not be loaded ({one_line(error)}): check that it is of this model.") from error
    return CheckpointReport(plain(file.name), len(given), container, stripped, ignored, cast)


def _state_dict(loaded: Any, shown: str) -> tuple[dict[str, Any], str | None]:
    container = None
    if isinstance(loaded, Mapping):
        for key in _CONTAINERS:
            if isinstance(loaded.get(key), Mapping):
                loaded, container = loaded[key], key
                break
    named = isinstance(loaded, Mapping) and all(isinstance(k, str) for k in loaded)
    if not named or not any(isinstance(v, Tensor) for v in loaded.values()):
        inside = f"a {plain(type(loaded).__name__)}"
        if isinstance(loaded, Mapping):
            inside = f"a dict with {_list(loaded) or 'nothing'}"
        raise UserError(
            f"{shown} holds {inside}, expected a state dict (names to tensors), alone or under "
            f"{', '.join(_CONTAINERS)}: save model.state_dict()."
        )
    other = [k for k, v in loaded.items() if not isinstance(v, Tensor) and not k.endswith("_extra_state")]
    if other:
        raise UserError(
            f"{shown} has {_list(other)} of type {plain(type(loaded[other[0]]).__name__)} among its "
            "tensors, expected tensors only: save model.state_dict()."
        )
    return dict(loaded), container


def _unwrap(given: dict[str, Any], own: Mapping[str, Any], shown: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take the prefixes of wrappers off names that the model does not have."""
    stripped: list[str] = []
    result: dict[str, Any] = {}
    for name, value in given.items():
        bare = name
        while bare not in own and bare.startswith("module."):
            bare = bare.removeprefix("module.")
            stripped.append("module.")
        if bare not in own and "_orig_mod." in bare:
            bare = bare.replace("_orig_mod.", "")
            stripped.append("_orig_mod.")
        while bare not in own and bare.startswith("module."):
            bare = bare.removeprefix("module.")
            stripped.append("module.")
        if bare in result:
            raise UserError(
                f"{shown} names '{plain(bare)}' twice, with and without the prefix of a wrapper, expected "
                "it once: save model.state_dict() again."
            )
        result[bare] = value
    return result, tuple(w for w in _WRAPPERS if w in stripped)


def _is_private_buffer(model: nn.Module, name: str) -> bool:
    """Whether the model has this buffer but keeps it out of its state dict."""
    return name in dict(model.named_buffers(remove_duplicate=False))


def _check_names(shown: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    # One name of a tied weight is enough: safetensors files hold no tensor twice.
    held = {id(own[n]) for n in given if n in own}
    missing = [n for n in own if n not in given and id(own[n]) not in held]
    unknown = [n for n in given if n not in own]
    if missing or unknown:
        parts = []
        if missing:
            parts.append(f"lacks {len(missing)} of the model's {len(own)} names ({_list(missing)})")
        if unknown:
            parts.append(f"has {len(unknown)} that the model has not ({_list(unknown)})")
        raise UserError(f"{shown} {' and '.join(parts)}: build the model with the settings it was trained with.")


def _check_values(shown: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[str, ...]:
    pairs = {n: (v, own[n]) for n, v in given.items() if isinstance(v, Tensor) and isinstance(own[n], Tensor)}
    differ = [n for n, (got, wanted) in pairs.items() if got.shape != wanted.shape]
    if differ:
        listed = "; ".join(
            f"'{plain(n)}' got {tuple(pairs[n][0].shape)}, expected {tuple(pairs[n][1].shape)}" for n in differ[:_SHOWN]
        )
        more = f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
        raise UserError(
            f"{shown} has shapes that are not the model's ({listed}{more}): build the model with the "
            "settings it was trained with."
        )
    for name, (got, wanted) in pairs.items():
        if got.is_floating_point() != wanted.is_floating_point() or got.is_complex() != wanted.is_complex():
            raise UserError(
                f"{shown} has '{plain(name)}' as {got.dtype}, expected {wanted.dtype}: save the weights as "
                "the model has them, before quantization."
            )
    return tuple(n for n, (got, wanted) in pairs.items() if got.dtype != wanted.dtype)


def _list(names: Iterable[Any]) -> str:
    listed = [plain(n, 60) for n in names]
    return ", ".join(f"'{n}'" for n in listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
