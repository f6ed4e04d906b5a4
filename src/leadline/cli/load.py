"""The target of a command: a model of a user's own file, or a model type of the transformers library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from leadline.cli.build import build, build_pointwise
from leadline.program.errors import UserError, plain
from leadline.program.inputs import device_from, split_batch

__all__ = ["Loaded", "load_pointwise", "load_target", "to_device"]

_TYPE_PREFIX = "transformers:"
_FORMS = "name FILE.py:NAME, where NAME is a function that returns the model or (model, batch), or transformers:TYPE"


@dataclass(frozen=True)
class Loaded:
    """A model and what to call it with.

    ``args`` and ``kwargs`` are both empty where the target came without a batch; ``targets`` is there where
    the batch was an (inputs, targets) pair.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    targets: Tensor | None = field(default=None)


def load_target(
    target: str,
    *,
    config: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    seq: int | None = None,
    batch_size: int = 2,
    image_size: int | None = None,
    seed: int = 0,
) -> Loaded:
    """Build the model that a target names.

    Naming ``FILE.py:NAME`` runs that file. Naming ``transformers:TYPE`` downloads nothing: the model is built
    from its configuration, with random weights, in eval mode, and inputs are drawn for it.

    Args:
        target: ``FILE.py:NAME`` or ``transformers:TYPE``.
        config: keyword arguments of the builder, or settings of the model type.
        device: where model and batch go.
        seq: tokens an input; only for model types, by default 64 or the most the type allows.
        batch_size: inputs that are drawn; only for model types.
        image_size: pixels a side; only for model types whose configuration does not say.
        seed: seed of the random states while building; they are put back after.

    Returns:
        Model, call arguments and name.

    Raises:
        UserError: anything that cannot be used; one sentence.
    """
    place = device_from(device)
    config = dict(config or {})
    if target.startswith(_TYPE_PREFIX):
        from leadline.cli.model_types import build_type  # transformers takes seconds to import

        model, kwargs = build_type(
            target.removeprefix(_TYPE_PREFIX),
            config,
            seq=seq,
            batch_size=batch_size,
            image_size=image_size,
            seed=seed,
        )
        return Loaded(model.to(place), (), to_device(kwargs, place), plain(target))
    for name, value in (("seq", seq), ("image_size", image_size)):
        if value is not None:
            raise UserError(
                f"{name}={value} was given with '{plain(target)}', expected only with transformers:TYPE: "
                "leave it out, and let the builder or --batch give the inputs."
            )
    file, attribute = _split(target)
    model, batch = build(file, attribute, config, seed)
    args, kwargs, targets = ((), {}, None) if batch is None else split_batch(batch, model)
    return Loaded(
        model.to(place),
        to_device(args, place),
        to_device(kwargs, place),
        plain(target),
        to_device(targets, place),
    )


def load_pointwise(target: str) -> Callable[[Tensor], Tensor]:
    """Take the function of one tensor, or the module, that a target names; this runs its file.

    Args:
        target: ``FILE.py:NAME``.

    Returns:
        The function or module.

    Raises:
        UserError: anything that cannot be used; one sentence.
    """
    return build_pointwise(*_split(target))


def _split(target: str) -> tuple[str, str]:
    shown = plain(target)
    if "://" in target:
        raise UserError(f"target '{shown}' is a URL, expected something on this machine: {_FORMS}.")
    file, colon, attribute = target.rpartition(":")
    if not colon and target.endswith(".py"):
        raise UserError(f"target '{shown}' names no attribute, expected '{shown}:NAME': {_FORMS}.")
    if not colon or not file or not attribute:
        raise UserError(f"target '{shown}' is neither a file with a name nor a model type: {_FORMS}.")
    return file, attribute


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor of nested tuples, lists and dicts.

    Args:
        value: tensors, containers of them, or anything else.
        device: where to.

    Returns:
        The same structure; what is not a tensor is as it was.
    """
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {k: to_device(v, device) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_device(v, device) for v in value)
    return value
