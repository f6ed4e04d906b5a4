"""Apply a recipe to a copy of a network, its reshaped nonlinearities included."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from leadline.program.errors import UserError, plain
from leadline.tune.graph_hooks import install, installed
from leadline.tune.recipe_apply import apply, check_fit, unwrap

if TYPE_CHECKING:
    from leadline.tune.recipe import Recipe

__all__ = ["apply_graph"]


def apply_graph(recipe: Recipe, model: nn.Module, redraw: Iterable[str] = ()) -> nn.Module:
    """See :meth:`Recipe.apply` with ``graph=True``."""
    inner = unwrap(model)
    check_fit(recipe, inner)
    wraps = {r.place: r.wrap for r in recipe.reshapes}
    present = installed(inner)
    if present and present != wraps:
        raise UserError(
            f"the activations of this {plain(type(inner).__name__)} are reshaped by another recipe: apply this one to the "
            "network as it was."
        )
    twin = copy.deepcopy(inner)
    laws = recipe.graph_laws if recipe.reshapes else recipe.laws
    apply(recipe.replace(laws=laws, scales={}), twin, redraw)
    if not present:
        install(twin, wraps)
    return twin
