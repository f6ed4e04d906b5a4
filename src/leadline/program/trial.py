"""One forward pass on a copy of a model, to say at which layer and why it cannot run."""

from __future__ import annotations

import contextlib
import copy
import random
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leadline.program.errors import UserError, describe_tensor, one_line, plain
from leadline.program.expected import advice

__all__ = ["preserved_rng", "trial_forward"]


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Put the random states of torch (all devices), Python and NumPy back at the end."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (a user's code may use it)
    try:
        # A device that nobody has used yet has no state to keep, and asking for it would start it.
        used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=list(used)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextlib.contextmanager
def _twin(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model; where it cannot be copied, the model itself, its tensors put back after."""
    try:
        twin = copy.deepcopy(model)
    except Exception:  # modules with non-leaf tensors or open handles cannot be copied
        kept = [(t, t.detach().clone()) for t in [*model.parameters(), *model.buffers()]]
        try:
            yield model
        finally:
            with torch.no_grad():
                for tensor, value in kept:
                    if not torch.equal(tensor, value):
                        tensor.copy_(value)
    else:
        yield twin


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {k: _clone(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_clone(v) for v in value)
    return value


class _Watch:
    """The tensors that each submodule was last called with."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[nn.Module, list[Tensor]] = {}
        self.handles = [
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            for module in model.modules()
            if not isinstance(module, torch.jit.ScriptModule)
        ]

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.inputs[module] = [v for v in [*args, *kwargs.values()] if isinstance(v, Tensor)]

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def innermost(self, error: BaseException) -> nn.Module | None:
        """The deepest submodule whose call the error passed through."""
        # From the traceback: a record of calls would blame a layer whose error the forward pass has caught.
        selves = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        modules = [s for s in selves if isinstance(s, nn.Module) and s in self.inputs]
        return modules[-1] if modules else None


def trial_forward(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Run the forward pass once, without gradients, on copies of model and batch.

    Args:
        model: the model; it, its mode and all random states are left as they were.
        args: positional call arguments.
        kwargs: keyword call arguments.

    Raises:
        UserError: the pass raised; the message names the innermost layer that was running, the shape it was
            given and, where the kind of layer says it, the shape or type it expected.
    """
    with preserved_rng(), _twin(model) as twin, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {module: name for name, module in twin.named_modules()}
        watch = _Watch(twin)
        try:
            with torch.no_grad():
                twin(*_clone(args), **_clone(dict(kwargs)))
        except Exception as error:  # the user's forward may raise anything
            raise UserError(_explain(error, watch, names)) from error
        finally:
            watch.close()


def _explain(error: Exception, watch: _Watch, names: dict[nn.Module, str]) -> str:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error):
        return (
            f"one forward pass ran out of memory ({one_line(error, 100)}): use a smaller batch, shorter "
            "inputs or another device."
        )
    module = watch.innermost(error)
    if module is None:
        return f"the forward pass raised {one_line(error)}{_place(error)}: make model(batch) run first."
    tensors = watch.inputs[module]
    where = f"layer '{plain(names[module])}'" if names[module] else "the model"
    kind = f"{where} ({plain(type(module).__name__)})"
    listed = f"got {', '.join(describe_tensor(t) for t in tensors[:3]) or 'no tensor'}"
    known = advice(module, tensors)
    if known is not None:
        expected, way_out = known
        return f"{kind} got {describe_tensor(tensors[0])}, expected {expected}: {way_out}."
    way_out = "make model(batch) run first"
    if "dtype" in str(error) and any(not t.is_floating_point() for t in tensors):
        way_out = "convert the batch with .to(torch.float32), or make model(batch) run first"
    return f"{kind} {listed} and raised {one_line(error)}{_place(error)}: {way_out}."


def _place(error: BaseException) -> str:
    """The last line of code outside torch and this package that the error passed through."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*ours, "<"))]
    return f" at line {frames[-1].lineno} of {plain(Path(frames[-1].filename).name, 40)}" if frames else ""
