"""Means over sites (global pooling written as a mean) and over channels (a statistic that a wide layer makes certain)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from leadline.program import Axis, Step
from leadline.rules.banded import Banded
from leadline.rules.banded_grid import Grid
from leadline.rules.base import NoRule, Rule, argument, rule
from leadline.rules.context import Context
from leadline.rules.expr import Expr, grid, mix
from leadline.rules.point_map import SiteMean
from leadline.rules.state import Cotangent, Fixed, State, fresh

__all__ = ["Mean", "site_mean"]


@rule("mean", "sum")
class Mean(Rule):
    """Over sites: a linear map over points. Over all channels: a number at each point, certain in the wide limit."""

    def forward(self, step: Step, ctx: Context) -> State | Fixed:
        """Average."""
        state = ctx.state(argument(step, "self"))
        axes = _reduced(step, ctx)
        if any(a.kind == "channel" for a in axes):
            if any(a.kind != "channel" for a in axes):
                raise NoRule("a mean over channels and sites at once")
            mean = ctx.moments.mean(state.expr) * (state.width if step.op == "sum" else 1)
            return Fixed(ctx.arrange(mean[None], step.layout), step.layout)
        pairs = grid(state.expr)
        if pairs is not None:
            return State(
                site_mean(state.expr, _site_mean(step, axes, state, pairs), ctx),
                step.points,
                step.width,
                None,
                state.exact,
            )
        return State(mix(state.expr, self._matrix(step, axes, state, ctx)), step.points, step.width, None, state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Spread back."""
        ref = argument(step, "self")
        state = ctx.state(ref)
        pairs = grid(state.expr)
        if pairs is not None:
            total = cotangent.total(ctx.moments)
            return {ref.name: fresh(_site_mean(step, _reduced(step, ctx), state, pairs).adjoint(total))}
        A = self._matrix(step, _reduced(step, ctx), state, ctx)
        return {ref.name: fresh(A.T @ cotangent.total(ctx.moments) @ A)}

    def _matrix(self, step: Step, axes: list[Axis], state: State, ctx: Context) -> Tensor:
        sizes = [a.size for a in state.points]
        gone = [i for i, a in enumerate(state.points) if a in axes]
        numbers = torch.arange(state.expr.size).reshape(sizes)
        kept = [i for i in range(len(sizes)) if i not in gone]
        groups = numbers.permute(*kept, *gone).reshape(-1, math.prod(sizes[i] for i in gone))
        A = torch.zeros(groups.shape[0], state.expr.size, dtype=ctx.dtype, device=ctx.device)
        weight = 1.0 if step.op == "sum" else 1.0 / groups.shape[1]
        A.scatter_(1, groups.to(ctx.device), weight)
        return A


def site_mean(expr: Expr, mean: SiteMean, ctx: Context) -> Expr:
    """The mean over an image's sites, with the error of its quadrature over offsets."""
    out = mix(expr, mean)
    K = ctx.moments.second(expr)
    if isinstance(K, Banded):
        size = float(ctx.moments.second(out).diagonal().mean()) / mean.factor**2
        out.memo["error"] = float(K.quadrature_error()) / max(abs(size), 1e-30)
    return out


def _site_mean(step: Step, axes: list[Axis], state: State, pairs: Grid) -> SiteMean:
    if {a.serial for a in axes} != {a.serial for a in state.points if a.kind == "site"}:
        raise NoRule("a mean over some of the sites of a large image")
    return SiteMean(pairs, float(pairs.sites) if step.op == "sum" else 1.0)


def _reduced(step: Step, ctx: Context) -> list[Axis]:
    """The axes that are averaged over."""
    layout = ctx.program.layouts[argument(step, "self").name][0]
    dims = step.arguments.get("dim")
    rank = len(layout)
    if dims is None or dims == []:
        dims = list(range(rank))
    return [a for d in ([dims] if isinstance(dims, int) else dims) for a in layout[d % rank]]
