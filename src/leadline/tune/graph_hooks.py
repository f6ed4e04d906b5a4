"""Affine wraps around the nonlinearities of a module: as hooks on it, or around calls of functions in its forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leadline.program.errors import UserError
from leadline.tune.graph_places import Place
from leadline.tune.reshape_wrap import Wrap

__all__ = ["install", "installed"]


class Before:
    """Hook that gives a module a x + b in place of x."""

    def __init__(self, wrap: Wrap) -> None:
        self.wrap = wrap

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the module is called with."""
        return self.wrap.before(args[0]), *args[1:]


class After:
    """Hook that makes gamma (y + d + e x) of a module's value y."""

    def __init__(self, wrap: Wrap) -> None:
        self.wrap = wrap

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """What the module is taken to return."""
        return self.wrap.after(output, (args[0] - self.wrap.b) / self.wrap.a if self.wrap.skip else output)


class Calls(TorchFunctionMode):
    """Wraps chosen calls of functions by kind, name and number."""

    def __init__(self, wraps: Mapping[tuple[str, int], Wrap]) -> None:
        super().__init__()
        self.wraps = wraps
        self.made: Counter[str] = Counter()
        self.used = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = f"{type(func).__name__}.{getattr(func, '__name__', '')}"
        index = self.made[name]
        self.made[name] += 1
        wrap = self.wraps.get((name, index))
        if wrap is None:
            return func(*args, **kwargs)
        self.used += 1
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        x = args[0] if args else kwargs.pop("input")
        return wrap.after(func(wrap.before(x), *args[1:], **kwargs), x)


class Forward:
    """A forward pass in which chosen calls are wrapped."""

    def __init__(self, module: nn.Module, wraps: Mapping[tuple[str, int], Wrap]) -> None:
        self.module, self.wraps = module, dict(wraps)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward pass, with the calls wrapped."""
        with Calls(self.wraps) as calls:
            value = type(self.module).forward(self.module, *args, **kwargs)
        if calls.used != len(self.wraps):
            raise UserError(
                f"the forward pass of {type(self.module).__name__} made {calls.used} of the {len(self.wraps)} calls that are "
                "reshaped: tune the network in the mode and with the arguments that it is used with."
            )
        return value


def install(model: nn.Module, wraps: Mapping[Place, Wrap]) -> None:
    """Put wraps around nonlinearities of a module, in place.

    Args:
        model: the module, whose tree, parameters and keys stay as they are.
        wraps: constants by place.

    Raises:
        UserError: the module has no such submodule.
    """
    modules = dict(model.named_modules())
    missing = next((p for p in wraps if p.module not in modules), None)
    if missing is not None:
        raise UserError(
            f"the network has no submodule '{missing.module}' whose activation the recipe reshapes: tune this network itself."
        )
    calls: dict[str, dict[tuple[str, int], Wrap]] = {}
    for place, wrap in wraps.items():
        if place.call:
            calls.setdefault(place.module, {})[place.call, place.index] = wrap
            continue
        module = modules[place.module]
        if getattr(module, "inplace", False):
            module.inplace = False  # the value before is needed after
        module.register_forward_pre_hook(Before(wrap))
        module.register_forward_hook(After(wrap))
    for path, found in calls.items():
        modules[path].forward = Forward(modules[path], found)


def installed(model: nn.Module) -> dict[Place, Wrap]:
    """The wraps that a module has.

    Args:
        model: any module.

    Returns:
        Constants by place; empty for a network as its author wrote it.
    """
    found: dict[Place, Wrap] = {}
    for path, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, Before):
                found[Place(path)] = hook.wrap
        forward = module.__dict__.get("forward")
        if isinstance(forward, Forward):
            found |= {Place(path, call, index): wrap for (call, index), wrap in forward.wraps.items()}
    return found
