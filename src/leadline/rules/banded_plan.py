"""Which maps of a program are images too large for all pairs of their sites, and the offsets that they carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from leadline.program import Program, Ref, Step
from leadline.rules.banded_grid import Grid, Plan
from leadline.rules.banded_offsets import Images, Offset, choose_offsets, window_offsets
from leadline.rules.expr import NoRule, grid
from leadline.rules.state import State

if TYPE_CHECKING:
    from leadline.rules.context import Context

__all__ = ["image_grid", "image_levels", "input_grid", "make_plan"]

MOVES = ("slice", "pad", "constant_pad_nd", "flip", "roll", "index_select", "narrow")
Level = tuple[Fraction, ...]  # pixels a step of a map; less than one where it is finer than the input
_SMALL_WINDOW = 25  # sites of a window whose own pairs are carried


def _many(value: int | Sequence[int], rank: int) -> list[int]:
    listed = [value] if isinstance(value, int) else list(value)
    return listed * rank if len(listed) == 1 else listed


def image_levels(program: Program) -> dict[str, tuple[Offset, Offset]]:
    """Steps of the finest map that a step of each map takes, and sites, of every value that is a map over an image.

    Returns:
        Node name -> (finest steps a step, sites) by dimension; values without sites, or before any convolution, are left out.
    """
    levels: dict[str, tuple[Level, Offset]] = {}
    for step in program.steps:
        images = [n for n in step.inputs if n in levels]
        source = max(images, key=lambda n: math.prod(levels[n][1])) if images else None
        if step.op in ("conv", "conv_transpose") and source is None and _is_image(step):
            found = _image_sizes(program, step.inputs[0], _rank(step))
            if math.prod(found) > 1:
                source = step.inputs[0]
                levels[source] = ((Fraction(1),) * _rank(step), found)
        if source is None:
            continue
        level, sizes = levels[source]
        rank = len(level)
        if step.op in ("conv", "conv_transpose") or "pool" in step.op or "upsample" in step.op:
            if len(step.shape) != rank + 2:
                continue
            out = tuple(step.shape[-rank:])
            made = _level(step, level, sizes, out)
            if made is not None:
                levels[step.name] = (made, out)
        elif step.op in MOVES and len(_sites(step)) == rank:
            skipped = int(step.arguments.get("step", 1)) if step.op == "slice" else 1
            out = _sites(step)
            made = tuple(t if n == m else t * skipped for t, n, m in zip(level, sizes, out, strict=True))
            levels[step.name] = (made, out)
        elif math.prod(_sites(step)) == math.prod(sizes):
            levels[step.name] = (level, sizes)
    finest = math.lcm(*(t.denominator for level, _ in levels.values() for t in level))
    return {name: (tuple(int(t * finest) for t in level), sizes) for name, (level, sizes) in levels.items()}


def _sites(step: Step) -> Offset:
    return tuple(a.size for a in step.points if a.kind == "site")


def _level(step: Step, level: Level, sizes: Offset, out: Offset) -> Level | None:
    rank = len(level)
    if step.op == "conv":
        return tuple(t * s for t, s in zip(level, _many(step.arguments.get("stride", 1), rank), strict=True))
    if step.op == "conv_transpose":
        ratio = _many(step.arguments.get("stride", 1), rank)
    elif "adaptive" in step.op:
        if all(n == m for n, m in zip(sizes, out, strict=True)):
            return level
        if math.prod(out) == 1 or any(n % m for n, m in zip(sizes, out, strict=True)):
            return None
        return tuple(t * (n // m) for t, n, m in zip(level, sizes, out, strict=True))
    elif "pool" in step.op:
        kernel = _many(step.arguments["kernel_size"], rank)
        if math.prod(out) == 1:
            return None
        ratio = _many(step.arguments["stride"], rank) if step.arguments.get("stride") else kernel
        return tuple(t * s for t, s in zip(level, ratio, strict=True))
    else:
        made = []
        for t, n, m in zip(level, sizes, out, strict=True):  # a ratio that is no integer is rounded: lags are looked up
            made.append(t / max(round(m / n), 1) if m >= n else t * max(round(n / m), 1))
        return tuple(made)
    return tuple(t / r for t, r in zip(level, ratio, strict=True))


def image_grid(step: Step, ctx: Context) -> Grid | None:
    """Pairs at which the kernel of a step over images is carried; None where it is a full matrix."""
    inputs = [ctx.values[n] for n in step.inputs if n in ctx.values]
    carried = any(isinstance(v, State) and grid(v.expr) is not None for v in inputs)
    if not carried and math.prod(a.size for a in step.points) <= ctx.images.all_pairs:
        return None
    return _grid(step.name, ctx)


def input_grid(step: Step, ctx: Context) -> Grid:
    """Pairs of the map that a step over images reads."""
    found = _grid(step.inputs[0], ctx)
    if found is None:
        raise NoRule("an image step whose input is not a map")
    return found


def _grid(name: str, ctx: Context) -> Grid | None:
    if "plan" not in ctx.cache:
        ctx.cache["plan"] = make_plan(ctx.program, ctx.images)
        ctx.cache["levels"] = image_levels(ctx.program)
    plan, levels = ctx.cache["plan"], ctx.cache["levels"]
    return None if plan is None or name not in levels else plan.grid(*levels[name])


def make_plan(program: Program, images: Images) -> Plan | None:
    """Offsets for the whole program; None where no map is too large for all pairs.

    Args:
        program: from :func:`leadline.trace`.
        images: how many of them.

    Returns:
        The plan, or None.
    """
    levels = image_levels(program)
    if not levels:
        return None
    rank = len(next(iter(levels.values()))[0])
    if any(len(level) != rank for level, _ in levels.values()):
        return None
    samples = next(_samples(s) for s in program.steps if s.name in levels)
    made = {name: value for name, value in levels.items() if any(s.name == name for s in program.steps)}
    if max(samples * math.prod(sizes) for _, sizes in made.values()) <= images.all_pairs:
        return None
    largest: dict[Offset, Offset] = {}
    for level, sizes in made.values():
        largest[level] = max(largest.get(level, sizes), sizes, key=math.prod)
    ordered = sorted(largest, key=math.prod)
    extra: list[Offset] = []
    for step in program.steps:
        if (
            "pool" in step.op
            and "adaptive" not in step.op
            and step.inputs
            and step.inputs[0] in levels
            and step.name in levels
        ):
            kernel = _many(step.arguments["kernel_size"], rank)
            dilation = _many(step.arguments.get("dilation", 1) or 1, rank)
            if math.prod(kernel) <= _SMALL_WINDOW:
                extra += window_offsets(kernel, dilation, levels[step.inputs[0]][0])
    offsets = choose_offsets(ordered, [largest[t] for t in ordered], extra, each=images.each, last=images.last)
    return Plan(tuple(offsets), tuple(ordered), samples)


def _is_image(step: Step) -> bool:
    return (
        isinstance(step.arguments.get("input"), Ref)
        and _rank(step) >= 1
        and not any(a.kind == "sample" for a in step.points[1:])
    )


def _rank(step: Step) -> int:
    return len(step.shape) - 2


def _image_sizes(program: Program, name: str, rank: int) -> Offset:
    return tuple(int(n) for n in program.nodes[name].meta["val"].shape[-rank:])


def _samples(step: Step) -> int:
    return math.prod(a.size for a in step.points if a.kind == "sample")
