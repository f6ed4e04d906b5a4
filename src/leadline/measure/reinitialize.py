"""Run the initializers that modules bring along, without touching the user's random state."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["isolated_randomness", "private_copy", "reinitialize"]

_HF_FLAG = "_is_hf_initialized"


@contextmanager
def isolated_randomness(seed: int, devices: set[torch.device]) -> Iterator[None]:
    """Seed torch (CPU and the given devices), numpy and random inside; restore all of them afterwards.

    Args:
        seed: from 0 to 2^63 - 1.
        devices: devices on which random numbers may be drawn.

    Yields:
        Nothing.

    Raises:
        ValueError: the seed is negative or too large.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"got the seed {seed}: give an integer from 0 to 2**63 - 1.")
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  some reset methods use it
    others = {device for device in devices if device.type != "cpu"}
    types = {device.type for device in others}
    # torch.manual_seed would also reseed devices that are not saved here: each generator is seeded by itself.
    cpu = torch.default_generator.get_state()
    saved = {kind: _device_states(kind, others) for kind in types}
    try:
        torch.default_generator.manual_seed(seed)
        for kind in types:
            _seed_devices(kind, others, seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.default_generator.set_state(cpu)
        for kind, states in saved.items():
            module = torch.get_device_module(kind)
            for index, state in states.items():
                module.set_rng_state(state, *index)


def _device_states(kind: str, devices: set[torch.device]) -> dict[tuple[int, ...], Tensor]:
    module = torch.get_device_module(kind)
    if kind == "mps":
        return {(): module.get_rng_state()}
    return {(d.index or 0,): module.get_rng_state(d.index or 0) for d in devices if d.type == kind}


def _seed_devices(kind: str, devices: set[torch.device], seed: int) -> None:
    module = torch.get_device_module(kind)
    for index in {device.index or 0 for device in devices if device.type == kind}:
        with nullcontext() if kind == "mps" else module.device(index):
            module.manual_seed(seed)


def private_copy(model: nn.Module) -> nn.Module:
    """Deep copy of a module, without gradients and without transformers' "already initialized" flags.

    Args:
        model: any module; it is only read.

    Returns:
        The copy; tied parameters stay tied.

    Raises:
        ValueError: the module cannot be copied.
    """
    # Weights computed from others (the old weight_norm) are no leaves, and deepcopy refuses these.
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}): "
            "make copy.deepcopy(model) work, or measure this very network with draws=0."
        ) from error
    for thing in [*twin.modules(), *twin.parameters(), *twin.buffers()]:
        if hasattr(thing, _HF_FLAG):
            delattr(thing, _HF_FLAG)
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


def reinitialize(model: nn.Module) -> dict[str, str]:
    """Run every module's own initializer in place, children before parents as at construction.

    A transformers model brings `_init_weights`, which is applied to each of its modules; any other module is
    asked for `reset_parameters` or `_reset_parameters`. An initializer that raises is passed over and named.

    Args:
        model: a private copy; its parameters are overwritten.

    Returns:
        Message of the error by name of the module, for initializers that raised.
    """
    failed: dict[str, str] = {}
    with torch.no_grad():
        _walk(model, "", None, set(), failed)
    return failed


def _walk(
    module: nn.Module,
    name: str,
    init_weights: Callable[[nn.Module], object] | None,
    seen: set[int],
    failed: dict[str, str],
) -> None:
    if id(module) in seen:
        return
    seen.add(id(module))
    own = getattr(module, "_init_weights", None)
    if callable(own) and hasattr(module, "config"):
        init_weights = own
    for child_name, child in module.named_children():
        _walk(child, f"{name}.{child_name}" if name else child_name, init_weights, seen, failed)
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    try:
        if init_weights is not None:
            init_weights(module)
        elif callable(reset):
            reset()
    except Exception as error:  # a user's initializer may raise anything, and the law is there to fall back on
        failed[name] = f"{type(error).__name__}: {error}"
