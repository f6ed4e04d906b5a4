"""From whatever names an activation (module, function, name, callable) to the Activation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from leadline.activations.base import Activation
from leadline.activations.differences import autodiff_agrees, central_differences, opaque
from leadline.activations.recognise import find_kinks, in_float64, match
from leadline.activations.registry import REGISTRY
from leadline.gaussian.arguments import checked

__all__ = ["activation"]


@checked()
def activation(obj: Any, *, kinks: Sequence[float] | None = None, name: str | None = None) -> Activation:
    """The Activation of a module, a torch function, a name, or any pointwise callable.

    A torch module or function is looked up, with its own parameters; a callable is compared on a grid with
    the known activations, so that a chain of primitive operations gets their closed forms; anything else is
    integrated, cut at ``kinks`` or at those that a scan finds.

    Args:
        obj: nn.Module, function, functools.partial of one, lower-case name, callable, or Activation (passes
            through).
        kinks: points where the callable or a derivative of it jumps, units of z; None: look up or scan.
        name: how reports call it; None: the registered or the callable's own name.
    Returns:
        Activation.
    Raises:
        ValueError: the name is unknown, or the callable is not pointwise and deterministic.
        TypeError: obj is none of the above.

    >>> import torch
    >>> activation(torch.nn.Hardtanh(-2, 2)).kinks
    (-2.0, 2.0)
    >>> activation(lambda z: z * 0.5 * (1 + torch.erf(z / 2**0.5))).name
    'gelu'
    """
    found = _known(obj)
    if found is None:
        if not callable(obj):
            raise TypeError(
                f"cannot read an activation from {type(obj).__name__}; pass a module, a function, a name or a callable"
            )
        found = _from_callable(obj, kinks, name)
    elif kinks is not None and not isinstance(obj, Activation):
        found = Activation(found.fn, name=found.name, kinks=kinks, jumps=found.jumps, derivative=found.derivative)
    if name is not None and not isinstance(obj, Activation):
        found.name = name
    return found


def _known(obj: Any) -> Activation | None:
    """Registered activation of obj, or None."""
    if isinstance(obj, Activation):
        return obj
    if isinstance(obj, str):
        if obj.lower() not in REGISTRY.names:
            raise ValueError(f"no activation called {obj!r}; pass one of {', '.join(sorted(REGISTRY.names))}")
        return REGISTRY.names[obj.lower()]()
    if isinstance(obj, nn.Module):
        for kind, build in REGISTRY.modules.items():
            if isinstance(obj, kind) and type(obj).forward is kind.forward:
                return build(obj)
        return None
    if isinstance(obj, functools.partial):
        build_from = _function(obj.func)
        return None if build_from is None else build_from(*obj.args, **obj.keywords)
    build_from = _function(obj)
    return None if build_from is None else build_from()


def _function(obj: Any) -> Callable[..., Activation] | None:
    try:
        return REGISTRY.functions.get(obj)
    except TypeError:
        return None


def _from_callable(obj: Callable[[Tensor], Tensor], kinks: Sequence[float] | None, name: str | None) -> Activation:
    fn, precision = in_float64(obj)
    if kinks is None:
        same = match(fn, (template(fn) for template in REGISTRY.templates), precision)
        if same is not None:
            return same
    slope = None
    if not autodiff_agrees(fn, precision):
        fn = opaque(fn)
        slope = functools.partial(central_differences, fn, precision=precision)
    found, jumps = find_kinks(fn, precision=precision, slope=slope)
    if kinks is None:
        kinks = found
    else:
        jumps = tuple(k for k in jumps if any(abs(k - given) < 1e-6 for given in kinks))
    label = name or getattr(obj, "__name__", None) or type(obj).__name__
    derivative = None if slope is None else slope(kinks)
    return Activation(fn, name=label, kinks=kinks, jumps=jumps, derivative=derivative, precision=precision)
