"""What is added to attention logits besides query times key: masks, slopes by distance, learned biases by position."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from leadline.program import Layout, Ref, Step
from leadline.program.law_draw import draw_law
from leadline.rules.base import NoRule
from leadline.rules.context import Context
from leadline.rules.state import Fixed

__all__ = ["NEVER", "logit_bias", "heads_of"]

NEVER = -1e30  # logit of a point that is not attended to
_COPIES = 8  # drawn copies of a learned bias


def heads_of(step: Step, ctx: Context) -> int:
    """Heads that a sample has."""
    layout = ctx.program.layouts[step.arguments["query"].name][0]
    return math.prod(a.size for dim in layout[:-2] for a in dim if a.kind == "channel")


def logit_bias(step: Step, ctx: Context) -> Tensor:
    """What is added to the logits between all query and key points, shape (1 or heads, P_query, P_key).

    Args:
        step: an attention; ``attn_mask`` is a tensor of the graph or a list of them, ``dropped`` those that are true
            where nothing is attended to.
        ctx: the prediction that runs.

    Returns:
        ``NEVER`` between samples and where a mask says so. A learned bias is drawn from the law of its parameters, a few
        copies after one another along the heads.
    """
    query = ctx.program.layouts[step.arguments["query"].name][0]
    keys = ctx.program.layouts[step.arguments["key"].name][0]
    rows, columns = coordinates(query), coordinates(keys)
    allowed = (rows["sample"][:, None] == columns["sample"][None, :])[None]
    extra = torch.zeros(allowed.shape)
    given = step.arguments.get("attn_mask")
    listed = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
    shapes = step.arguments.get("shapes") or {"masks": [None] * len(listed), "dropped": []}
    refs = [(ref, shape, False) for ref, shape in zip(listed, shapes["masks"], strict=True)]
    refs += [
        (ref, shape, True) for ref, shape in zip(step.arguments.get("dropped", ()), shapes["dropped"], strict=True)
    ]
    for ref, shape, dropped in refs:
        m = by_head(_values(ref, ctx), shape, query, keys)
        picked = m[:, rows["sample"][:, None], rows["site"][:, None], columns["site"][None, :]]
        if picked.dtype == torch.bool:
            allowed = allowed & (~picked if dropped else picked)
        else:
            extra = _together(extra, picked.to(torch.float32))
    if step.arguments.get("is_causal"):
        allowed = allowed & (rows["site"][:, None] >= columns["site"][None, :])
    if allowed.shape[0] > 1:
        extra = _together(extra, torch.zeros(allowed.shape[0], 1, 1))
        allowed = allowed.repeat(extra.shape[0] // allowed.shape[0], 1, 1)
    return extra.clamp_min(NEVER).masked_fill(~allowed, NEVER).to(ctx.device)


def _together(one: Tensor, two: Tensor) -> Tensor:
    """The sum of two biases, the one with fewer heads repeated."""
    count = math.lcm(one.shape[0], two.shape[0])
    return one.repeat(count // one.shape[0], 1, 1) + two.repeat(count // two.shape[0], 1, 1)


def _values(ref: Ref, ctx: Context) -> list[Tensor]:
    """The tensor, or drawn copies where it is a function of parameters."""
    if ref.name in ctx.program.constants:
        value = ctx.program.constants[ref.name]
        if not isinstance(value, Tensor):
            raise NoRule("an attention mask that is not a tensor")
        return [value]
    if isinstance(ctx.values.get(ref.name), Fixed):
        return [ctx.values[ref.name].value]  # type: ignore[union-attr]
    if ref.name not in ctx.program.weight_side:
        raise NoRule("an attention mask that depends on data")
    node = ctx.program.nodes[ref.name]
    return [_drawn(node, ctx, zlib.crc32(ref.name.encode()) + copy) for copy in range(_COPIES)]


def _drawn(node: fx.Node, ctx: Context, seed: int) -> Tensor:
    """A function of parameters, of parameters drawn from their laws."""
    exported = ctx.program.exported
    known: dict[fx.Node, Any] = {}

    def value(n: fx.Node) -> Any:
        if n not in known:
            known[n] = found(n)
        return known[n]

    def found(n: fx.Node) -> Any:
        if n.name in ctx.program.constants:
            return ctx.program.constants[n.name]
        if n.name in exported.parameters:
            name = exported.parameters[n.name]
            like, law = exported.state[name].detach(), ctx.program.laws[name]
            generator = torch.Generator(like.device).manual_seed(seed + zlib.crc32(name.encode()))
            return draw_law(law, like, generator=generator) if law.random else like
        if n.name in exported.buffers:
            return exported.state[exported.buffers[n.name]]
        args, kwargs = pytree.tree_map(lambda a: value(a) if isinstance(a, fx.Node) else a, (n.args, n.kwargs))
        return n.target(*args, **kwargs)  # type: ignore[operator]

    with torch.no_grad():
        return value(node)


def by_head(values: list[Tensor], shape: tuple[int, ...] | None, query: Layout, keys: Layout) -> Tensor:
    """Masks as (1 or heads, samples, query sites, key sites); ``shape``: that of the logits where they come in."""
    lead = [math.prod(a.size for a in dim) for dim in query[:-2]]
    axes = [a for dim in query[:-2] for a in dim]
    first = [i for i, a in enumerate(axes) if a.kind == "channel"]
    rest = [i for i, a in enumerate(axes) if a.kind != "channel"]
    sizes = [a.size for a in axes]
    sites = (math.prod(a.size for a in query[-2]), math.prod(a.size for a in keys[-2]))
    out = []
    for m in values:
        full = (*lead, *sites) if shape is None else shape
        if math.prod(full) != math.prod(lead) * math.prod(sites):
            raise NoRule(f"an attention mask among logits of shape {tuple(full)}, of {lead} heads and samples")
        m = m.expand(full)
        m = m.reshape(*sizes, *sites).permute(*first, *rest, len(sizes), len(sizes) + 1)
        m = m.reshape(math.prod(sizes[i] for i in first), -1, *sites)
        out.append(m[:1] if bool((m == m[:1]).all()) else m)
    return torch.cat(out)


def coordinates(layout: Layout) -> dict[str, Tensor]:
    """Sample number and site number of each point of a (…, sites, head size) tensor."""
    site_axes = {a.serial for a in layout[-2]}
    axes = [a for dim in layout for a in dim if a.kind != "channel"]
    sizes = [a.size for a in axes]
    grids = torch.meshgrid(*[torch.arange(s) for s in sizes], indexing="ij") if sizes else ()
    sample = torch.zeros(math.prod(sizes), dtype=torch.long)
    site = torch.zeros(math.prod(sizes), dtype=torch.long)
    for axis, grid in zip(axes, grids, strict=True):
        target = site if axis.serial in site_axes else sample
        target.mul_(axis.size).add_(grid.reshape(-1))
    return {"sample": sample, "site": site}
