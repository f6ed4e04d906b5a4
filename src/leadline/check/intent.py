"""Whether a model's own initializer means to scale its residual projections by 1/sqrt(2L)."""

from __future__ import annotations

import dis
import inspect
import math
from types import CodeType

from torch import nn

__all__ = ["residual_scale"]

_DEPTHS = ("n_layer", "n_layers", "num_layers", "num_hidden_layers")
_INITIALIZERS = ("_init_weights", "init_weights", "reset_parameters", "__init__")


def residual_scale(model: nn.Module) -> float | None:
    r"""The factor :math:`1/\sqrt{2L}` if an initializer of the model computes it, whether it reaches a weight or not.

    It is recognised in the initializer's own code: it takes the square root of an expression with the number of
    layers, and divides.

    Args:
        model: any module; those of its submodules that have a ``config`` are looked at.

    Returns:
        The factor, or None where no such intention is seen.

    Source: Radford et al. (2019), section 2.3; huggingface/transformers issue 47458.
    """
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is None:
            continue
        depth = next((getattr(config, d) for d in _DEPTHS if isinstance(getattr(config, d, None), int)), None)
        if depth and any(_takes_root_of_depth(code) for code in _initializers(type(module))):
            return 1 / math.sqrt(2 * depth)
    return None


def _initializers(cls: type[nn.Module]) -> tuple[CodeType, ...]:
    """Code of the initializers that a class has or inherits."""
    found = []
    for base in cls.__mro__:
        if issubclass(base, nn.Module) and base is not nn.Module:
            own = [inspect.unwrap(vars(base)[name]) for name in _INITIALIZERS if name in vars(base)]
            found += [f.__code__ for f in own if hasattr(f, "__code__")]
    return tuple(found)


def _takes_root_of_depth(code: CodeType) -> bool:
    codes = [code, *(c for c in code.co_consts if isinstance(c, CodeType))]
    names = {n for c in codes for n in c.co_names}
    # The factor 2 counts two branches a block; other roots of the depth, as in DeepNorm, have none.
    doubled = any(
        i.argval in (2, 2.0) for c in codes for i in dis.get_instructions(c) if isinstance(i.argval, (int, float))
    )
    return "sqrt" in names and bool(names.intersection(_DEPTHS)) and doubled
