"""Checks on the values of a model and of a batch: finite, not empty, in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leadline.program.errors import UserError, describe_tensor, plain

__all__ = ["check_batch", "check_model", "tensors_in"]

_DEEPEST, _MOST = 6, 10_000


def check_model(model: nn.Module) -> None:
    """Refuse a model without usable parameters.

    Args:
        model: what was given as the model.

    Raises:
        UserError: not a module; no floating-point parameter; one that is uninitialized, empty, on the meta
            device, or holds NaN or Inf; parameters on more than one device.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"the model is of type {plain(type(model).__name__)}, expected a torch.nn.Module: pass the module itself."
        )
    what = plain(type(model).__name__)
    parameters = dict(model.named_parameters())
    if not parameters:
        raise UserError(
            f"the model ({what}) has no parameters, so there is nothing to predict: pass one that has layers."
        )
    for name, parameter in parameters.items():
        _check_parameter(plain(name), parameter)
    if not any(p.is_floating_point() for p in parameters.values()):
        raise UserError(
            f"the model ({what}) has no floating-point parameter, expected at least one: pass the model as "
            "it is before quantization."
        )
    devices: dict[torch.device, str] = {}
    for name, parameter in parameters.items():
        devices.setdefault(parameter.device, name)
    if len(devices) > 1:
        shown = ", ".join(f"'{plain(n)}' on {d}" for d, n in list(devices.items())[:3])
        raise UserError(
            f"the parameters are on {len(devices)} devices ({shown}), expected one: move them with model.to()."
        )
    for name, buffer in model.named_buffers():
        # A buffer may hold -inf on purpose (a causal mask), running statistics may not.
        statistics = name.endswith(("running_mean", "running_var"))
        _check_finite(
            f"buffer '{plain(name)}'",
            buffer,
            allow_infinite=not statistics,
            way_out="set it again or reload it",
        )


def _check_parameter(name: str, parameter: Tensor) -> None:
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise UserError(
            f"parameter '{name}' of a lazy module has no shape yet, expected one: run the model on a batch once before."
        )
    if parameter.is_meta:
        raise UserError(f"parameter '{name}' is on the meta device and holds no values: build the model on cpu.")
    if parameter.numel() == 0:
        raise UserError(
            f"parameter '{name}' is empty with shape {tuple(parameter.shape)}, expected at least one entry "
            "an axis: give its layer a size above zero."
        )
    _check_finite(f"parameter '{name}'", parameter, way_out="initialize it again, or load an earlier checkpoint")


def check_batch(model: nn.Module, named: Mapping[str, Any]) -> None:
    """Refuse a batch that is empty, holds values that are not finite, or is not on the model's device.

    Args:
        model: the model, whose parameters are on one device.
        named: call arguments by name.

    Raises:
        UserError: as said above; the argument is named.
    """
    tensors = list(tensors_in(named))
    if not tensors:
        raise UserError(
            f"the batch holds no tensor, and {plain(type(model).__name__)} cannot be run without one: pass "
            "a batch (on the command line with --batch, or a builder that returns (model, batch))."
        )
    device = next(model.parameters()).device
    for name, tensor in tensors:
        where = f"batch argument '{plain(name)}'"
        if tensor.is_meta:
            raise UserError(f"{where} is on the meta device and holds no values: build it on {device}.")
        if tensor.numel() == 0:
            raise UserError(
                f"{where} is empty with shape {tuple(tensor.shape)}, expected at least one entry an axis: pass data."
            )
        if tensor.dim() and tensor.device != device:
            raise UserError(
                f"{where} is on {tensor.device} and the model on {device}, expected one device: move it "
                f"with .to('{device}')."
            )
        # An additive attention mask holds -inf by design.
        _check_finite(where, tensor, allow_infinite="mask" in name or "bias" in name, way_out="clean the data")


def tensors_in(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested batch with the path to it.

    Args:
        value: a tensor, or tuples, lists and mappings of them; other leaves are passed over.
        name: path so far.
        depth: how many containers that is.

    Yields:
        Path and tensor.

    Raises:
        UserError: nested deeper than a batch has a reason to be.
    """
    if isinstance(value, Tensor):
        yield name, value
        return
    if not isinstance(value, (Mapping, tuple, list)):
        return
    if depth > _DEEPEST or len(value) > _MOST:
        raise UserError(
            f"the batch is nested {depth} deep with {len(value)} entries at '{plain(name)}', expected at "
            f"most {_DEEPEST} levels of at most {_MOST} entries: pass tensors, or a tuple or dict of them."
        )
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, entry in items:
        yield from tensors_in(entry, f"{name}.{key}" if name else str(key), depth + 1)


def _check_finite(what: str, tensor: Tensor, *, way_out: str, allow_infinite: bool = False) -> None:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return
    values = tensor.detach()
    if values.layout is not torch.strided:
        values = values.to_dense()
    if values.element_size() < 2:
        values = values.float()  # eight-bit floats have no isfinite
    nans = int(values.isnan().sum())
    infinite = 0 if allow_infinite else int(values.isinf().sum())
    if nans or infinite:
        raise UserError(
            f"{what} {describe_tensor(tensor)} holds {nans} NaN and {infinite} infinite of {tensor.numel()} "
            f"values, expected finite ones: {way_out}."
        )
