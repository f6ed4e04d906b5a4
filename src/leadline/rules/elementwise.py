"""Pointwise nonlinearity, or a chain of pointwise operators fused into one callable."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from leadline.activations import Activation, activation
from leadline.program import Step
from leadline.rules.base import NoRule, Rule, rule
from leadline.rules.context import Context
from leadline.rules.expr import Apply, Expr, Lin, apply, gaussian, lin
from leadline.rules.fluctuation import sampled
from leadline.rules.fourth import tilt
from leadline.rules.state import Cotangent, Fixed, Noise, State, Weight

__all__ = ["Elementwise", "activation_of"]


@rule("pointwise", cites=["roberts2022principles"])
class Elementwise(Rule):
    """h = f(z): M' = <f_p f_q>, derivative times f'(z) of the same draw."""

    def forward(self, step: Step, ctx: Context) -> State | Fixed:
        """Apply the chain to the expression of its input."""
        value = ctx.value(step.arguments["input"])
        if isinstance(value, (Fixed, Weight)) and step.fn is not None:
            return Fixed(step.fn(value.value), value.layout)
        state = ctx.state(step.arguments["input"])
        act = activation_of(step, ctx)
        expr = shifted(act, ctx.aligned(state, step.points), 0)
        made = State(expr, step.points, step.width, None, state.exact)
        return replace(made, noise=self._noise(made, ctx))

    def _noise(self, state: State, ctx: Context) -> Noise | None:
        return sampled(state.expr, state.width, ctx)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Multiply the derivative by the slope, which keeps its dependence on the sources."""
        ref = step.arguments["input"]
        state = ctx.state(ref)
        slope = shifted(activation_of(step, ctx), ctx.aligned(state, step.points), 1)
        passed = cotangent.times(slope)
        if isinstance(slope, Apply) and gaussian(slope.inner):
            # a first layer of few uniform weights is not quite Gaussian; its derivatives are taken as if it were
            act = slope.activation
            left_out = tilt(lambda z: act.derivative(z).square(), slope.inner, ctx.moments, act.kinks)
            if isinstance(left_out, Tensor):
                mean = act.derivative_moment(ctx.moments.diagonal(slope.inner)).mean()
                passed = passed.uncertain(float(left_out.abs().mean() / mean.clamp_min(1e-300)))
        return {ref.name: passed}

    def susceptibility(self, step: Step, ctx: Context) -> tuple[float, float] | None:
        """d<f^2>/dK and <f'^2>, over all points: chi_parallel = sum of g'(K) K / sum of K."""
        inner = ctx.state(step.arguments["input"]).expr
        if not gaussian(inner):
            return None
        slope = shifted(activation_of(step, ctx), inner, 1)
        perp = float(ctx.moments.diagonal(slope).mean())
        K = ctx.moments.diagonal(inner)
        g = activation_of(step, ctx).second_moment_slope(K)
        return float((g * K).sum() / K.sum().clamp_min(1e-300)), perp


def shifted(act: Activation, inner: Expr, order: int) -> Expr:
    """``f(z)``; a constant offset of z goes into f, which leaves a function of a centred Gaussian."""
    if isinstance(inner, Lin) and inner.offset is not None and inner.terms and _uniform(inner.offset):
        centred = lin(inner.terms)
        if gaussian(centred):
            offset = float(inner.offset[0])
            if offset != 0.0:
                act = _displaced(act, offset)
            return apply(act, centred, order)
    return apply(act, inner, order)


def _displaced(act: Activation, offset: float) -> Activation:
    """f(z + offset) as an activation."""

    def moved(z: Tensor) -> Tensor:
        return act.fn(z + offset)

    return activation(moved, name=f"{act.name} shifted by {offset:.4g}", kinks=tuple(k - offset for k in act.kinks))


def _uniform(vector: Tensor) -> bool:
    return bool((vector == vector[0]).all())


def activation_of(step: Step, ctx: Context) -> Activation:
    """The step's chain as an activation, made once."""
    cache = ctx.activations
    if step.name not in cache:
        if step.fn is None:
            raise NoRule(f"{step.op} has no callable")
        cache[step.name] = activation(step.fn)
    return cache[step.name]
