"""Sums and differences: residual connections with any scale, offsets, positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from leadline.program import Ref, Step
from leadline.rules.base import NoRule, Rule, argument, rule
from leadline.rules.context import Context, alignment
from leadline.rules.expr import Expr, lin, scaled
from leadline.rules.fluctuation import sampled
from leadline.rules.state import Cotangent, Fixed, State, Weight

__all__ = ["Add"]


def _operands(step: Step) -> list[tuple[float, Any]]:
    alpha = float(step.arguments.get("alpha", 1) or 1)
    first, second = argument(step, "self"), argument(step, "other")
    if step.op == "rsub":
        return [(-alpha, first), (1.0, second)]
    return [(1.0, first), (-alpha if step.op == "sub" else alpha, second)]


@rule("add", "sub", "rsub")
class Add(Rule):
    """h = x + a y: the same linear combination of sources, so dependent branches keep their joint law."""

    def forward(self, step: Step, ctx: Context) -> State | Fixed:
        """Add expressions; numbers, constant parameters and per-point data become offsets."""
        terms: list[tuple[float | Tensor, Expr]] = []
        offset: Tensor | None = None
        exact, width = True, step.width
        for c, operand in _operands(step):
            constant = _offset(operand, step, ctx)
            if constant is not None:
                offset = c * constant if offset is None else offset + c * constant
                continue
            state = ctx.state(operand)
            exact = exact and state.exact
            terms.append((c, ctx.aligned(state, step.points)))
        if not terms:
            raise NoRule("a sum of constants")
        expr = scaled(terms[0][1], terms[0][0]) if len(terms) == 1 and offset is None else lin(terms, offset)
        return State(expr, step.points, width, sampled(expr, width, ctx), exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """The derivative goes on to every operand, with its coefficient."""
        out: dict[str, Cotangent] = {}
        for c, operand in _operands(step):
            if (
                not isinstance(operand, Ref)
                or isinstance(ctx.values.get(operand.name), Fixed)
                or operand.name not in ctx.values
            ):
                continue
            state = ctx.state(operand)
            passed = cotangent.scaled(c)
            if state.points != step.points:
                passed = sum_back(passed, state, step, ctx)
            out[operand.name] = passed
        return out


def sum_back(cotangent: Cotangent, state: State, step: Step, ctx: Context) -> Cotangent:
    """Derivative towards an operand that was broadcast: the points that read one of its points add up."""
    index = alignment(state.points, step.points)
    if index is None:
        raise NoRule("operands on different sites")
    return cotangent.scatter(index.to(ctx.device), state.expr.size, ctx.moments)


def _offset(operand: Any, step: Step, ctx: Context) -> Tensor | None:
    """A constant over channels, as a vector over the step's points; None where the operand is random or varies by channel."""
    size = 1
    for a in step.points:
        size *= a.size
    if isinstance(operand, (int, float)):
        return ctx.full(size, float(operand))
    value = ctx.value(operand)
    if isinstance(value, Weight) and not value.law.random and value.law.std == 0.0:
        return ctx.full(size, value.law.mean)
    if isinstance(value, Fixed):
        vector = ctx.per_point(value, step.points)
        if vector is not None:
            return vector
    return None
