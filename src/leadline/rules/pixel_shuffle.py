"""Pixel shuffle: groups of channels become the pixels of a finer image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from leadline.program import Step
from leadline.program.axes import CHANNEL, SITE, Atom, Dims, set_kind
from leadline.program.layouts import layout_rule
from leadline.rules.base import Rule, rule
from leadline.rules.context import Context
from leadline.rules.expr import gather, lin, rename
from leadline.rules.state import Cotangent, State, fresh

__all__ = ["PixelShuffle"]


@layout_rule("pixel_shuffle")
def _axes(node: fx.Node, given: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    """(…, C r^2, H, W) -> (…, C, H r, W r): each image axis gets an inner axis of r pixels."""
    x, r = dims(given["self"]), given["upscale_factor"]
    set_kind(x[-3], CHANNEL)
    set_kind([*x[-2], *x[-1]], SITE)
    return [*x[:-3], [Atom(int(node.meta["val"].shape[-3]), CHANNEL)], [*x[-2], Atom(r, SITE)], [*x[-1], Atom(r, SITE)]]


@rule("pixel_shuffle", cites=["shi2016real"])
class PixelShuffle(Rule):
    """M'_pq = M_pq between equal sub-pixels; different sub-pixels read different channels, which are independent copies."""

    def forward(self, step: Step, ctx: Context) -> State:
        """One independent copy of the input a sub-pixel, laid out on the finer image."""
        state = ctx.state(step.arguments["self"])
        terms = [
            (1.0, gather(rename(state.expr, ("sub-pixel", i)), index))
            for i, index in enumerate(self.indices(step, ctx))
        ]
        return State(lin(terms), step.points, step.width, None, state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """A site's channels are those of all its sub-pixels: their squared derivatives add up."""
        total = cotangent.total(ctx.moments)
        size = ctx.state(step.arguments["self"]).expr.size
        back = [fresh(total).scatter(index, size, ctx.moments).total(ctx.moments) for index in self.indices(step, ctx)]
        return {step.arguments["self"].name: fresh(torch.stack(back).sum(0))}

    def indices(self, step: Step, ctx: Context) -> list[Tensor]:
        """For each sub-pixel: the input point of each output point, -1 where the point is another sub-pixel's."""
        r = step.arguments["upscale_factor"]
        shape = ctx.program.nodes[step.arguments["self"].name].meta["val"].shape
        lead, (height, width) = math.prod(shape[:-3]), shape[-2:]
        numbers = (
            torch.arange(lead * height * width).reshape(lead, height, 1, width, 1).expand(lead, height, r, width, r)
        )
        rows, columns = torch.arange(r)[None, None, :, None, None], torch.arange(r)
        sub = (rows * r + columns).expand(numbers.shape)
        return [torch.where(sub == i, numbers, -1).reshape(-1).to(ctx.device) for i in range(r * r)]
