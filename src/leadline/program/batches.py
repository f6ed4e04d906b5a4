"""A batch in any of the usual forms, as the arguments of a call."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leadline.program.errors import UserError, one_line, plain
from leadline.program.trial import preserved_rng

__all__ = ["batch_from", "by_name", "split_batch"]

Batch = tuple[tuple[Any, ...], dict[str, Any]]

_FORMS = (Tensor, np.ndarray, tuple, list, Mapping)
_WAYS = "a tensor, a tuple of tensors, a dict of keyword arguments or a DataLoader"


def batch_from(batch: Any, model: nn.Module | None = None) -> Batch:
    """Call arguments from a batch in any of the usual forms.

    A tensor or array is the one positional argument, a tuple or list are the positional arguments, a mapping
    (a dict, a tokenizer's output) the keyword arguments; of a DataLoader the first batch is taken, read in
    the same way, and random states are put back after.

    Args:
        batch: tensor, array, tuple, list, mapping, or an iterable of those such as a DataLoader.
        model: if given, the targets of an (inputs, targets) pair are left out; see :func:`split_batch`.

    Returns:
        Positional and keyword arguments, for ``model(*args, **kwargs)``.

    Raises:
        UserError: none of these, or an entry that is no tensor where one is needed.

    >>> batch_from({"x": torch.zeros(2, 3)})
    ((), {'x': tensor([[0., 0., 0.],
            [0., 0., 0.]])})
    """
    args, kwargs, _ = split_batch(batch, model)
    return args, kwargs


def by_name(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Call arguments under the names that a report gives them."""
    return {**{f"argument {i}": a for i, a in enumerate(args)}, **kwargs}


def split_batch(batch: Any, model: nn.Module | None) -> tuple[tuple[Any, ...], dict[str, Any], Tensor | None]:
    """Call arguments and, where a pair holds them, the targets.

    A pair of tensors is read as (inputs, targets) if the model takes one positional argument, or if the pair
    comes out of a loader, the model needs at most one, and the second is not a mask.

    Args:
        batch: as in :func:`batch_from`.
        model: the model that is called; None: a pair is two arguments.

    Returns:
        Positional arguments, keyword arguments, and the targets or None.

    Raises:
        UserError: as in :func:`batch_from`.
    """
    loaded = not isinstance(batch, _FORMS)
    if loaded:
        batch = _first(batch)
    if isinstance(batch, Mapping):
        return (), {_keyword(k): _entry(v, f"'{plain(k)}'") for k, v in batch.items()}, None
    if isinstance(batch, (tuple, list)):
        args = tuple(_entry(v, f"number {i}") for i, v in enumerate(batch))
        if model is not None and _has_targets(model, args, loaded):
            return args[:1], {}, args[1]
        return args, {}, None
    return (_entry(batch, "number 0"),), {}, None


def _first(loader: Any) -> Any:
    """The first batch of a loader, with every random state put back."""
    if isinstance(loader, Iterator):
        raise UserError(
            f"the batch is an iterator ({plain(type(loader).__name__)}), and taking from it would change "
            "it: pass what next() returned, or the loader itself."
        )
    if not isinstance(loader, Iterable) or isinstance(loader, (str, bytes, nn.Module)):
        raise UserError(f"the batch is of type {plain(type(loader).__name__)}, expected {_WAYS}: pass one of these.")
    owners = (loader, getattr(loader, "sampler", None))
    generators = [g for g in (getattr(o, "generator", None) for o in owners) if isinstance(g, torch.Generator)]
    states = [g.get_state() for g in generators]
    try:
        with preserved_rng():
            found = next(iter(loader), None)
    except Exception as error:  # a user's dataset may raise anything
        raise UserError(
            f"the loader ({plain(type(loader).__name__)}) raised {one_line(error)} on its first batch: make "
            "next(iter(loader)) work first."
        ) from error
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
    if found is None:
        raise UserError(
            f"the loader ({plain(type(loader).__name__)}) is empty, expected at least one batch: give it "
            "data, or a batch_size no larger than the data set if it drops the last one."
        )
    if not isinstance(found, _FORMS):
        raise UserError(
            f"the first batch of the loader ({plain(type(loader).__name__)}) is a "
            f"{plain(type(found).__name__)}, expected a tensor, a tuple or a dict: change its collate_fn, "
            "or pass the tensors themselves."
        )
    return found


def _keyword(key: Any) -> str:
    if not isinstance(key, str):
        raise UserError(
            f"the batch has the key {plain(repr(key))} of type {plain(type(key).__name__)}, expected the "
            "name of an argument of the model's forward: use names, or a tuple for positional arguments."
        )
    return key


def _entry(value: Any, name: str) -> Any:
    """A tensor for an array, other values as they are where a call can take them."""
    if isinstance(value, np.ndarray):
        native = value.astype(value.dtype.newbyteorder("="), copy=False) if value.dtype.kind in "biufc" else value
        try:
            return torch.as_tensor(native)
        except TypeError as error:
            raise UserError(
                f"batch entry {name} is an array of dtype {plain(value.dtype)}, which has no tensor type: "
                "convert it to numbers such as float32 or int64."
            ) from error
    numbers = isinstance(value, (list, tuple)) and value and not any(isinstance(v, (Tensor, Mapping)) for v in value)
    if numbers or isinstance(value, (str, bytes)):
        raise UserError(
            f"batch entry {name} is a {plain(type(value).__name__)}, expected a tensor: convert it with "
            "torch.tensor (for a tokenizer, ask for return_tensors='pt')."
        )
    return value


def _has_targets(model: nn.Module, args: tuple[Any, ...], loaded: bool) -> bool:
    if len(args) != 2 or not all(isinstance(a, Tensor) for a in args):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = list(inspect.signature(model.forward).parameters.values())
    positional = [p for p in parameters if p.kind in kinds]
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return False
    if len(positional) == 1:
        return True
    needed = sum(p.default is inspect.Parameter.empty for p in positional)
    is_mask = len(positional) > 1 and "mask" in positional[1].name and args[1].shape == args[0].shape
    return loaded and needed <= 1 and not is_mask
