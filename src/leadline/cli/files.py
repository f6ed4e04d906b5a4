"""Reading files of tensors without running anything in them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from leadline.program.errors import UserError, one_line, plain

__all__ = ["existing_file", "read_safetensors", "read_torch"]


def existing_file(path: str | Path, what: str, suffixes: tuple[str, ...]) -> Path:
    """A file that is there and has one of the endings that are read.

    Args:
        path: what the user wrote.
        what: what it is for, for messages: ``"batch"``.
        suffixes: endings, with the dot.

    Returns:
        The path.

    Raises:
        UserError: not there, a folder, a URL, or another ending.
    """
    shown = plain(path)
    if "://" in str(path):
        raise UserError(f"{what} '{shown}' is a URL, expected a file on this machine: download it first.")
    try:
        file = Path(path).expanduser()
        is_file, is_folder = file.is_file(), file.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # NUL bytes, too long, no home
        raise UserError(f"{what} '{shown}' is no path ({one_line(error, 60)}): give a file.") from error
    if is_folder:
        raise UserError(f"{what} '{shown}' is a folder, expected a file: name the file in it.")
    if not is_file:
        raise UserError(f"there is no {what} file '{shown}', expected an existing one: check the path.")
    if file.suffix.lower() not in suffixes:
        raise UserError(
            f"{what} file '{shown}' ends in '{plain(file.suffix)}', expected {', '.join(suffixes)}: save it "
            "as one of these."
        )
    return file


def read_torch(path: Path, what: str) -> Any:
    """What ``torch.save`` wrote, if it is tensors and plain containers.

    Args:
        path: an existing file.
        what: what it is for, for messages.

    Returns:
        The object, with its tensors on the CPU.

    Raises:
        UserError: reading it would unpickle other objects, or it is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways
        name = f"{what} file '{plain(path.name, 60)}'"
        culprit = re.search(r"GLOBAL\s+([A-Za-z_][\w.]*)", str(error))
        if culprit or "TorchScript" in str(error):
            inside = plain(culprit.group(1)) if culprit else "a TorchScript program"
            raise UserError(
                f"{name} needs unpickling of {inside}, which can run code, expected tensors and plain "
                "containers: save the tensors alone (for a model, its state_dict()), or use safetensors."
            ) from error
        raise UserError(
            f"{name} cannot be read ({type(error).__name__}), expected what torch.save writes for tensors: "
            "save it again, or use safetensors."
        ) from error


def read_safetensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name.

    Args:
        path: an existing file.
        what: what it is for, for messages.

    Returns:
        Name to tensor, on the CPU.

    Raises:
        UserError: it is damaged, or the safetensors library is not there.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"{what} file '{plain(path.name, 60)}' needs the safetensors library, which is not installed: "
            "pip install safetensors."
        ) from error
    try:
        found: dict[str, torch.Tensor] = load_file(path)
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(
            f"{what} file '{plain(path.name, 60)}' cannot be read ({one_line(error, 100)}), expected a "
            "safetensors file: save it again."
        ) from error
    return found
