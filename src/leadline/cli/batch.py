"""Batches and targets from files, none of which can run code while it is read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from leadline.cli.checkpoint import load_checkpoint
from leadline.cli.files import existing_file, read_safetensors, read_torch
from leadline.program.errors import UserError, describe_tensor, one_line, plain
from leadline.program.inputs import batch_from, split_batch
from leadline.program.values import tensors_in

__all__ = ["batch_from", "load_batch", "load_checkpoint", "load_targets", "split_batch"]


def load_batch(path: str | Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read call arguments from a file.

    A tensor is the one positional argument, a tuple or list (or an ``.npz`` of unnamed arrays) are the
    positional arguments, a dict the keyword arguments.

    Args:
        path: ``.pt`` or ``.pth`` (read with ``weights_only=True``), ``.safetensors``, ``.npy`` or ``.npz``
            (read with ``allow_pickle=False``).

    Returns:
        Positional and keyword arguments.

    Raises:
        UserError: no such file, not of these kinds, it holds more than tensors, or no tensor at all.
    """
    batch = _read(path, "batch")
    args, kwargs = batch_from(batch)
    if not list(tensors_in([*args, *kwargs.values()])):
        raise UserError(
            f"batch file {_name(path)} holds {_kind(batch)}, expected at least one tensor: save a tensor, a "
            "tuple or a dict of them."
        )
    return args, kwargs


def load_targets(path: str | Path) -> Tensor:
    """Read the targets of a loss from a file.

    Args:
        path: a file as in :func:`load_batch`, with one tensor in it.

    Returns:
        The tensor.

    Raises:
        UserError: as in :func:`load_batch`; more than one tensor; an empty one; NaN or Inf.
    """
    args, kwargs = load_batch(path)
    found = list(tensors_in([*args, *kwargs.values()]))
    if len(found) != 1:
        raise UserError(f"targets file {_name(path)} holds {len(found)} tensors, expected one: save the targets alone.")
    targets = found[0][1]
    if targets.numel() == 0:
        raise UserError(f"targets file {_name(path)} holds an empty tensor of shape {tuple(targets.shape)}: save some.")
    if targets.is_floating_point() and not bool(targets.isfinite().all()):
        raise UserError(
            f"targets file {_name(path)} ({describe_tensor(targets)}) holds NaN or infinite values, "
            "expected finite ones: clean the data."
        )
    return targets


def _read(path: str | Path, what: str) -> Any:
    readers: dict[str, Callable[[Path, str], Any]] = {
        ".pt": read_torch,
        ".pth": read_torch,
        ".safetensors": read_safetensors,
        ".npy": _read_numpy,
        ".npz": _read_numpy,
    }
    file = existing_file(path, what, tuple(readers))
    return readers[file.suffix.lower()](file, what)


def _read_numpy(path: Path, what: str) -> Any:
    """An array, or a dict or tuple of them, read without unpickling."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except Exception as error:  # a damaged file fails in many ways
        needs_pickle = "allow_pickle" in str(error) or "Object arrays" in str(error)
        if needs_pickle:
            raise UserError(
                f"{what} file {_name(path)} needs unpickling, which can run code, expected plain arrays of "
                "numbers: save it again as such."
            ) from error
        cause = "not a zip archive" if isinstance(error, zipfile.BadZipFile) else one_line(error, 100)
        raise UserError(
            f"{what} file {_name(path)} cannot be read ({cause}), expected what numpy.save or numpy.savez "
            "writes: save it again."
        ) from error
    unnamed = [f"arr_{i}" for i in range(len(arrays))]
    return tuple(arrays[n] for n in unnamed) if set(unnamed) == set(arrays) else arrays


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with {len(value)} entries"
    return f"a {plain(type(value).__name__)}"


def _name(path: str | Path) -> str:
    return f"'{plain(Path(path).name, 60)}'"
