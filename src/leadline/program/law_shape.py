"""What the shapes and the sharing of parameters say: fan-in and tied names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

__all__ = ["fan_in", "tied_parameters"]


def fan_in(shape: Sequence[int], *, op: str, transposed: bool = False, groups: int = 1) -> int:
    """Number of input values that one output value sums.

    A transposed convolution with a stride sums this number divided by the product of its strides, on average.

    Args:
        shape: shape of the weight: (out, in) of "linear", (in, out) when transposed;
            (out, in / groups, *k) of "conv"; (in, out / groups, *k) of "conv_transpose"; anything for
            "embedding" and "bias".
        op: one of these five names.
        transposed: the linear weight is stored as (in, out).
        groups: groups of the convolution; counts only where the first axis holds all of them (transposed).

    Returns:
        The fan-in; 1 for an embedding, which looks a row up, and for a bias.

    Raises:
        ValueError: the operator is not known, or the shape has too few axes for it.
    """
    if op in {"embedding", "bias"}:
        return 1
    if op not in {"linear", "conv", "conv_transpose"}:
        raise ValueError(f"got the operator {op!r}: give linear, conv, conv_transpose, embedding or bias.")
    if len(shape) < 2:
        raise ValueError(f"the weight of {op} has shape {tuple(shape)}: at least two axes are needed.")
    if op == "linear":
        return int(shape[0] if transposed else shape[1])
    if op == "conv":
        return math.prod(int(s) for s in shape[1:])
    return int(shape[0]) // groups * math.prod(int(s) for s in shape[2:])


def tied_parameters(model: nn.Module) -> dict[str, str]:
    """Canonical name of every parameter name: the first under which the same tensor object is found.

    Args:
        model: any module, also on the meta device (objects are compared, not storage).

    Returns:
        Every qualified name, in the order of the module, mapped to its canonical name.
    """
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
