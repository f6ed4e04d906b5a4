"""A parametrization put on a network without a check of its health."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

import leadline
from leadline.program import trace
from leadline.tune.init_places import find_places
from leadline.tune.param_request import Traced, request_scaling
from leadline.tune.param_tune import plan_scaling
from leadline.tune.recipe import Recipe
from leadline.tune.recipe_apply import fingerprint, unwrap

__all__ = ["scaled_recipe"]


def scaled_recipe(
    model: nn.Module,
    base: nn.Module | Traced | int,
    parametrization: str | None,
    optimizer: str,
    *,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    base_lr: float | Recipe | None = None,
    seed: int = 0,
) -> Recipe:
    """The recipe of :func:`leadline.tune.tune` with a base network, without checking health before and after.

    Args:
        model: the network.
        base: the narrower one, traced or not, or a width.
        parametrization: name; None as for :func:`leadline.tune.tune`.
        optimizer: name.
        args: positional call arguments.
        kwargs: keyword call arguments.
        base_lr: rate of the base.
        seed: of the weights that the recipe draws.

    Returns:
        The recipe.

    Raises:
        ExportFailure: the network cannot be written as a graph.
    """
    inner = unwrap(model)
    program = trace(inner, args=args, kwargs=kwargs)
    request = request_scaling(parametrization, base, base_lr, optimizer)
    empty = Recipe(type(inner).__name__, fingerprint(inner), seed, optimizer=optimizer, leadline=leadline.__version__)
    return empty if request is None else plan_scaling(request, program, find_places(program)).onto(empty, inner)
