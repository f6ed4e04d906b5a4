"""Dropout in train mode: an independent mask on every entry."""

from __future__ import annotations

from leadline.program import Step
from leadline.rules.base import Rule, argument, rule
from leadline.rules.context import Context
from leadline.rules.expr import grid, product, source
from leadline.rules.fluctuation import sampled
from leadline.rules.kernel import constant, identity
from leadline.rules.state import Cotangent, State

__all__ = ["Dropout"]


@rule("dropout", cites=["schoenholz2017deep"])
class Dropout(Rule):
    """M_pp / (1 - p) on the diagonal, the rest unchanged: two samples see different masks."""

    def forward(self, step: Step, ctx: Context) -> list[State]:
        """Multiply by an independent mask of mean one."""
        state = ctx.state(argument(step, "input", "self"))
        expr = ctx.aligned(state, step.points)
        p = float(step.arguments["p"])
        one = ctx.full(expr.size, 1.0)
        pairs = grid(expr)
        second = constant(1.0, expr.size, one, pairs) + identity(expr.size, one, pairs) * (p / (1 - p))
        mask = source(second, mean=one, gaussian=False, drop=p, key=("mask", step.name))
        dropped = product(expr, mask)
        made = State(dropped, step.points, step.width, sampled(dropped, step.width, ctx), state.exact)
        return [made] * len(step.shapes)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """The same mask on the derivative."""
        ref = argument(step, "input", "self")
        expr = ctx.values[step.name]
        mask = expr.expr.right  # type: ignore[union-attr]
        return {ref.name: cotangent.times(mask)}
