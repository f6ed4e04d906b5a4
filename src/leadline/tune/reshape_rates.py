"""Learning rates of parameters that have taken up a factor, so that training stays what it was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from leadline.program.errors import UserError

if TYPE_CHECKING:
    from leadline.tune.recipe import Group, Recipe

__all__ = ["folded_groups", "rate_power"]

_POWERS = {"sgd": 2, "momentum": 2, "adam": 1, "adamw": 1, "lion": 1, "muon": 1, "lamb": 0}
_DECOUPLED = ("adamw", "lion", "muon", "lamb")


def rate_power(optimizer: str) -> int:
    r"""Power of a parameter's factor that its learning rate follows.

    .. math:: w' = f w \;\Rightarrow\; \nabla_{w'} = \nabla_w / f,\quad \eta' = f^p \eta

    Gradient descent moves by the gradient (p = 2); Adam, Lion and Muon by a step whose size is the rate (p = 1; of Adam the
    epsilon would follow 1/f); LAMB in proportion to the weights (p = 0).

    Args:
        optimizer: name.

    Returns:
        p.

    Source: Yang & Littwin (2023), Tensor Programs IVb, section 2.
    """
    return _POWERS[optimizer]


def folded_groups(recipe: Recipe, lr: float | None) -> tuple[Group, ...]:
    """The groups of a recipe, split by the factors that wraps have on their parameters.

    A weight decay that the recipe sets follows too, so that it takes the same share of the weight in a step.

    Args:
        recipe: with factors.
        lr: learning rate of groups for which the recipe has none.

    Returns:
        Groups, each with a learning rate.

    Raises:
        UserError: the recipe names no optimizer, or there is no rate.
    """
    if recipe.optimizer is None:
        raise UserError(
            "the recipe folds activations into weights and names no optimizer, expected one, since rates follow the factor "
            "(Adam) or its square (SGD): tune with optimizer=…, or apply the recipe with graph=True."
        )
    power = rate_power(recipe.optimizer)
    decay_power = power if recipe.optimizer in _DECOUPLED else 2
    found: list[Group] = []
    for group in recipe.groups:
        rate = lr if group.lr is None else group.lr
        if rate is None:
            raise UserError(
                f"the recipe folds activations into weights, whose rates follow the factor, and the group '{group.name}' has "
                "no learning rate: pass lr=… to param_groups."
            )
        members: dict[float, list[str]] = {}
        for name in group.parameters:
            members.setdefault(float(f"{recipe.scales.get(name, 1.0):.12g}"), []).append(name)
        for factor, names in members.items():
            decay = None if group.weight_decay is None else group.weight_decay / factor**decay_power
            found.append(replace(group, parameters=tuple(names), lr=rate * factor**power, weight_decay=decay))
    return tuple(found)
