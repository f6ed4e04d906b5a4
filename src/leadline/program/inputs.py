"""What a model is called with: a batch in any of the usual forms, and whether it can be used at all.

:func:`batch_from` turns what a user has into call arguments, :func:`split_batch` also keeps a loader's
targets apart, :func:`validate` refuses what would fail later, in one sentence with the layer and the way out.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from leadline.program.batches import batch_from, split_batch
from leadline.program.errors import UserError, near, one_line, plain
from leadline.program.trial import trial_forward
from leadline.program.values import check_batch, check_model

__all__ = ["batch_from", "device_from", "split_batch", "validate"]


def device_from(name: str | torch.device) -> torch.device:
    """A device that is there.

    Args:
        name: for example ``"cpu"`` or ``"cuda:1"``.

    Returns:
        The device.

    Raises:
        UserError: there is no such kind of device, or not on this machine.
    """
    try:
        device = torch.device(name)
        # The only test that holds for every kind of device is to use it.
        torch.empty(1, device=device)
    except Exception as error:  # each backend raises its own kind
        raise UserError(
            f"device '{plain(name)}' is not there ({one_line(error, 80)}), expected one of this machine's: "
            f"use {' or '.join(_devices())}."
        ) from error
    return device


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        found += [f"{kind}:{i}" for i in range(torch.accelerator.device_count())]
    return found


def validate(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a model or a batch that cannot be predicted or measured, before anything is.

    Looks at values, devices and the call's signature, then runs the forward pass once without gradients on a
    copy; the model, the batch and the random states are left as they were.

    Args:
        model: the model, in the mode in which it is to be read.
        args: positional call arguments.
        kwargs: keyword call arguments.

    Raises:
        UserError: anything wrong: one sentence with the layer, the value got, what was expected, the way out.
    """
    check_model(model)
    named = _bind(model, args, kwargs)
    check_batch(model, named)
    trial_forward(model, args, kwargs)


def _bind(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Call arguments by the names that forward gives them."""
    if not args and not kwargs:
        return {}  # the check of the batch says it best
    signature = inspect.signature(model.forward)
    try:
        return dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as error:
        names = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        unknown = [k for k in kwargs if k not in names]
        what = f"{near(unknown[0], names)} for '{plain(unknown[0])}'" if unknown else "give it those"
        given = [f"{len(args)} positional", *(f"'{plain(k)}'" for k in list(kwargs)[:6])]
        raise UserError(
            f"forward of {plain(type(model).__name__)} takes "
            f"({', '.join(plain(n) for n in names[:8])}{', …' if len(names) > 8 else ''}) and the batch "
            f"gives {', '.join(given)} ({one_line(error)}): {what}."
        ) from error
