"""Rotary positions: pairs of channels are turned by an angle that grows with the position."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.program import Step
from leadline.rules.base import NoRule, Rule, rule
from leadline.rules.context import Context, alignment
from leadline.rules.expr import op
from leadline.rules.state import Cotangent, Fixed, State, fresh

__all__ = ["Rotary"]


@rule("rotary", cites=["su2021roformer"])
class Rotary(Rule):
    """M_pq is multiplied by the mean over channel pairs of cos(angle_p - angle_q): unchanged at equal positions."""

    def forward(self, step: Step, ctx: Context) -> State:
        """Turn drawn channels, head by head; the second moment is exact."""
        state = ctx.state(step.arguments["input"])
        expr = ctx.aligned(state, step.points)
        cos, sin = angles(step, ctx)
        size = cos.shape[0]

        def turn(h: Tensor) -> Tensor:
            short = -h.shape[0] % size
            whole = torch.cat([h, h[:short]]) if short else h  # draws that do not fill the last head are filled up
            heads = whole.reshape(-1, size, h.shape[1])
            half = torch.cat([-heads[:, size // 2 :], heads[:, : size // 2]], 1)
            return (heads * cos + half * sin).reshape(whole.shape)[: h.shape[0]]

        out = op(expr, turn, expr.size)
        out.memo["second"] = ctx.moments.second(expr) * turning(step, ctx)
        out.memo["mean"] = ctx.full(expr.size, 0.0)
        return State(out, step.points, step.width, None, state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """The inverse rotation has the same mean cosine."""
        return {step.arguments["input"].name: fresh(cotangent.total(ctx.moments) * turning(step, ctx))}


def turning(step: Step, ctx: Context) -> Tensor:
    """Mean over channel pairs of the cosine of the angle between two points, shape (P, P)."""
    cos, sin = angles(step, ctx)
    return (cos.T @ cos + sin.T @ sin) / cos.shape[0]


def angles(step: Step, ctx: Context) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each channel's angle at each point, shape (head size, P)."""
    parts = []
    for slot in ("cos", "sin"):
        value = ctx.value(step.arguments[slot])
        if not isinstance(value, Fixed):
            raise NoRule("rotary angles that depend on weights")
        index = alignment(tuple(a for dim in value.layout for a in dim if a.kind != "channel"), step.points)
        if index is None:
            raise NoRule("rotary angles on other sites than the value")
        parts.append(ctx.channels(value.value, value.layout)[:, index.to(ctx.device)])
    return parts[0], parts[1]
