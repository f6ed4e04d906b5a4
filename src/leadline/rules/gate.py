"""Products: gates (two channels multiplied), constants, learned gains, per-point factors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from leadline.program import Ref, Step
from leadline.rules.base import NoRule, Rule, argument, rule
from leadline.rules.context import Context
from leadline.rules.expr import product, scaled
from leadline.rules.fluctuation import sampled
from leadline.rules.residual import sum_back
from leadline.rules.state import Cotangent, Fixed, State, Weight, merge

__all__ = ["Divide", "Multiply"]


@rule("mul")
class Multiply(Rule):
    """h = x y: a number or per-point factor scales; a learned gain adds its law; two channels multiply draw by draw."""

    def forward(self, step: Step, ctx: Context) -> State | Fixed:
        """Scale or multiply expressions."""
        one, two = argument(step, "self"), argument(step, "other")
        for operand, other in ((two, one), (one, two)):
            factor = constant_factor(operand, step, ctx)
            if factor is not None:
                state = ctx.state(other)
                expr = scaled(ctx.aligned(state, step.points), factor)
                return State(expr, step.points, step.width, sampled(expr, step.width, ctx), state.exact)
        left, right = ctx.state(one), ctx.state(two)
        expr = product(ctx.aligned(left, step.points), ctx.aligned(right, step.points))
        noise = sampled(expr, step.width, ctx) if left.width == right.width == step.width else None
        return State(expr, step.points, step.width, noise, left.exact and right.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Each factor's derivative is the output's times the other factor."""
        one, two = argument(step, "self"), argument(step, "other")
        out: dict[str, Cotangent] = {}
        for operand, other in ((one, two), (two, one)):
            if not isinstance(operand, Ref) or not isinstance(ctx.values.get(operand.name), State):
                continue
            if ctx.state(operand).points != step.points:
                if operand.name in ctx.program.weight_side:
                    continue
                passed = sum_back(
                    cotangent.times(ctx.aligned(ctx.state(other), step.points)), ctx.state(operand), step, ctx
                )
                out[operand.name] = passed if operand.name not in out else merge([out[operand.name], passed])
                continue
            factor = constant_factor(other, step, ctx)
            if factor is not None:
                passed = cotangent.scaled(factor)
            else:
                passed = cotangent.times(ctx.aligned(ctx.state(other), step.points))
            # a tensor times itself has two paths of one wave
            out[operand.name] = passed if operand.name not in out else merge([out[operand.name], passed])
        return out

    def susceptibility(self, step: Step, ctx: Context) -> tuple[float, float] | None:
        """The squared factor where it is a number; two channels start anew."""
        for operand in (argument(step, "self"), argument(step, "other")):
            factor = constant_factor(operand, step, ctx)
            if isinstance(factor, float):
                return factor**2, factor**2
        return None


@rule("div")
class Divide(Rule):
    """h = x / y for a number or per-point y."""

    def forward(self, step: Step, ctx: Context) -> State:
        """Scale by the inverse."""
        factor = constant_factor(argument(step, "other"), step, ctx)
        if factor is None:
            raise NoRule("division by a random channel")
        state = ctx.state(argument(step, "self"))
        expr = scaled(ctx.aligned(state, step.points), 1 / factor)
        return State(expr, step.points, step.width, sampled(expr, step.width, ctx), state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """The derivative, divided."""
        factor = constant_factor(argument(step, "other"), step, ctx)
        return {argument(step, "self").name: cotangent.scaled(1 / factor)}  # type: ignore[operator]

    def susceptibility(self, step: Step, ctx: Context) -> tuple[float, float] | None:
        """One over the squared factor where it is a number."""
        factor = constant_factor(argument(step, "other"), step, ctx)
        return (factor**-2, factor**-2) if isinstance(factor, float) else None


@rule("neg")
class Negate(Rule):
    """h = -x."""

    def forward(self, step: Step, ctx: Context) -> State:
        """Flip the sign."""
        state = ctx.state(argument(step, "self"))
        expr = scaled(ctx.aligned(state, step.points), -1.0)
        return State(expr, step.points, step.width, sampled(expr, step.width, ctx), state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Flip the sign."""
        return {argument(step, "self").name: cotangent.scaled(-1.0)}

    def susceptibility(self, step: Step, ctx: Context) -> tuple[float, float] | None:
        """One for both."""
        return 1.0, 1.0


def constant_factor(operand: Any, step: Step, ctx: Context) -> float | Tensor | None:
    """A factor that does not vary by channel: a number, a constant gain, or a vector over points."""
    if isinstance(operand, (int, float)):
        return float(operand)
    if not isinstance(operand, Ref):
        return None
    value = ctx.value(operand)
    if isinstance(value, Weight) and not value.law.random:
        return value.law.mean if value.law.std == 0.0 else None
    if isinstance(value, Fixed):
        return ctx.per_point(value, step.points)
    return None
