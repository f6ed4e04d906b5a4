"""How much memory a prediction will take, from the shapes of the program alone."""

from __future__ import annotations

import math

from leadline.program import Program, Step
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_offsets import Images
from leadline.rules.banded_plan import image_levels, make_plan

__all__ = ["predicted_memory"]

_KEPT = 3  # kernels that stay for each step: of its value, of the derivative, and of what either is made of
_WORKING = 12  # kernels in double precision while one step is worked on
_INDEX = 7 * 8  # bytes a pair of the tables that say which points it joins
_HEADS, _COPIES = 48, 5  # drawn attention heads, and tensors of their weights at a time
_DRAWN = 2**22  # attention weights that are drawn at least
_BASE = 2**26  # what the libraries take for themselves


def predicted_memory(program: Program, images: Images | None = None) -> int:
    """Bytes that :func:`leadline.predict` needs at most beside the model and the program: an upper estimate.

    A kernel has an entry for every pair of (sample, site) points; over large images only for pairs at some offsets.

    Args:
        program: from :func:`leadline.trace`.
        images: how many pairs of sites of a large image are carried.

    Returns:
        Bytes.
    """
    plan = make_plan(program, images or Images())
    levels = image_levels(program) if plan is not None else {}
    grids: dict[str, Grid] = {name: plan.grid(*level) for name, level in levels.items()} if plan is not None else {}
    wide = max((_points(s) for s in program.steps), default=1) <= 512
    item = 8 if wide else 4
    kept, largest = 0, 0
    for step in program.steps:
        entries = _entries(step, grids)
        kept += _KEPT * entries * item if step.op != "getitem" else 0
        working = _WORKING * entries * 8
        if step.op == "scaled_dot_product_attention":
            working += _COPIES * max(_HEADS * entries, _DRAWN) * item
            kept += max(_HEADS * entries, _DRAWN) * item  # the weights are used again on the way back
        largest = max(largest, working)
    first = [grids[s.inputs[0]] for s in program.steps if s.name in grids and s.inputs and s.inputs[0] in grids]
    pixels = max((g.sites * g.samples**2 * item * 4 for g in first), default=0)
    used = {id(grids[s.name]): grids[s.name] for s in program.steps if s.name in grids}
    return kept + largest + pixels + sum(g.pairs * _INDEX for g in used.values()) + _BASE


def _entries(step: Step, grids: dict[str, Grid]) -> int:
    if step.name in grids:
        return grids[step.name].pairs
    return _points(step) ** 2


def _points(step: Step) -> int:
    return math.prod(a.size for a in step.points)
