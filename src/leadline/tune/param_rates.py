"""Learning rates and weight decays of groups that have a factor on the one that is passed for all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from leadline.program.errors import UserError, plain

if TYPE_CHECKING:
    from leadline.tune.recipe import Group

__all__ = ["rated_groups"]


def rated_groups(groups: tuple[Group, ...], lr: float | None, weight_decay: float | None) -> tuple[Group, ...]:
    """Give groups without a rate or decay the one that is passed for all, times their factor.

    Args:
        groups: of a recipe.
        lr: for all.
        weight_decay: for all.

    Returns:
        The groups.

    Raises:
        UserError: groups differ in their factor, and there is no rate to put it on.
    """
    bare = next((g for g in groups if g.lr is None and g.lr_factor != 1), None)
    if lr is None and bare is not None:
        raise UserError(
            f"the group '{plain(bare.name)}' trains at {bare.lr_factor:.4g} times the base rate, and the recipe has none: "
            "pass lr=… to param_groups, the rate that was found at the base width."
        )
    return tuple(
        replace(
            g,
            lr=g.lr if g.lr is not None or lr is None else lr * g.lr_factor,
            weight_decay=g.weight_decay
            if g.weight_decay is not None or weight_decay is None
            else weight_decay * g.weight_decay_factor,
        )
        for g in groups
    )
