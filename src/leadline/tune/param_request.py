"""What is asked of a parametrization, checked before anything is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from leadline.program import Program
from leadline.program.errors import UserError, near, plain
from leadline.tune.init_places import Places
from leadline.tune.param_abc import PARAMETRIZATIONS, kind_of
from leadline.tune.recipe import Recipe

__all__ = ["REFERENCE_WIDTH", "Request", "Traced", "request_scaling"]

Traced = tuple[Program, Places]
REFERENCE_WIDTH = 128  # counts as the base where none is given: rates passed for all are those of such a width


@dataclass(frozen=True)
class Request:
    """A parametrization that is asked for.

    Attributes:
        name: of it; None for muP, with depth where the numbers of residual branches differ.
        base: a narrower network, its Program and places, or a width that counts as the base.
        base_lr: rate that was found for the base, or the base's recipe with its rates, or None.
        optimizer: name.
    """

    name: str | None
    base: nn.Module | Traced | int
    base_lr: float | Recipe | None
    optimizer: str


def request_scaling(
    name: str | None, base: nn.Module | Traced | int | None, base_lr: float | Recipe | None, optimizer: str | None
) -> Request | None:
    """Check what is asked for.

    Args:
        name: of the parametrization, or None.
        base: a small network, traced or not, or a width, or None.
        base_lr: rate that was found for the base, or its recipe, or None.
        optimizer: name, or None.

    Returns:
        The request; None where neither a parametrization nor a base is given.

    Raises:
        UserError: something is missing or cannot be used; the message says what.
    """
    if name is None and base is None:
        if base_lr is not None:
            raise UserError("base_lr is given without a base network, expected one: pass base=… or parametrization=….")
        return None
    if optimizer is None:
        raise UserError(
            "a parametrization is asked for without an optimizer, expected one: pass optimizer='adamw' or another."
        )
    kind_of(optimizer)
    if name is not None and name not in PARAMETRIZATIONS:
        raise UserError(f"there is no parametrization '{plain(name)}': {near(name, PARAMETRIZATIONS)}.")
    width = REFERENCE_WIDTH if base is None else base
    if not isinstance(width, (nn.Module, tuple)):
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise UserError(f"the base is {plain(repr(width))}, expected a module or a width of 1 or more: pass one.")
        if name == "depth_mup":
            raise UserError(
                "depth is counted against a base network, and none is given: pass base=… or parametrization='mup'."
            )
    if base_lr is not None and not isinstance(base_lr, Recipe) and not (math.isfinite(base_lr) and base_lr > 0):
        raise UserError(f"base_lr is {base_lr}, expected a positive number: pass the rate that was found for the base.")
    return Request(name, width, base_lr, optimizer)
