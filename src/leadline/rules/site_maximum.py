"""Maximum over all sites: global max pooling."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from leadline.program import Axis, Step
from leadline.rules.base import NoRule, Rule, rule
from leadline.rules.context import Context
from leadline.rules.expr import op
from leadline.rules.state import Cotangent, State

__all__ = ["SiteMaximum"]


@rule("amax", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
class SiteMaximum(Rule):
    """<max over sites of one sample, of another> on joint draws of all sites."""

    def forward(self, step: Step, ctx: Context) -> State | list[State]:
        """The maximum of drawn channels."""
        state = ctx.state(step.arguments["self"])
        groups = self.groups(step, state, ctx)
        made = State(
            op(state.expr, _maximum(groups, step.op), groups.shape[0]), step.points, step.width, None, state.exact
        )
        return [made] * len(step.shapes) if isinstance(step.node.meta["val"], (tuple, list)) else made

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """The derivative goes to the site that won, draw by draw."""
        ref = step.arguments["self"]
        state = ctx.state(ref)
        return {ref.name: ctx.through_draws(state.expr, _maximum(self.groups(step, state, ctx), step.op), cotangent)}

    def groups(self, step: Step, state: State, ctx: Context) -> Tensor:
        """Points that each point of the result is the maximum of, shape (points, sites)."""
        gone = self._gone(step, ctx)
        if any(a.kind == "channel" for a in gone):
            raise NoRule("a maximum over channels")
        sizes = [a.size for a in state.points]
        order = [i for i, a in enumerate(state.points) if a not in gone]
        order += [i for i, a in enumerate(state.points) if a in gone]
        count = math.prod(a.size for a in gone)
        return torch.arange(state.expr.size).reshape(sizes).permute(order).reshape(-1, count)

    def _gone(self, step: Step, ctx: Context) -> list[Axis]:
        layout = ctx.program.layouts[step.arguments["self"].name][0]
        if step.op != "amax":
            if math.prod(step.arguments["output_size"]) != 1:
                raise NoRule("adaptive max pooling to more than one site")
            return [a for dim in layout for a in dim if a.kind == "site"]
        dims = step.arguments.get("dim") or list(range(len(layout)))
        return [a for d in dims for a in layout[d % len(layout)]]


def _maximum(groups: Tensor, op: str) -> Callable[[Tensor], Tensor]:
    def pool(h: Tensor) -> Tensor:
        # where sites are tied, amax shares the derivative among them and max pooling gives it to one
        return h[:, groups].amax(-1) if op == "amax" else h[:, groups].max(-1).values

    return pool
