"""Pointwise nonlinearity, or a chain of pointwise operators fused into one callable."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from leadline.activations import Activation, activation
from leadline.program import Step
from leadline.rules.base import NoRule, Rule, rule
from leadline.rules.context import Context
from leadline.rules.expr import Expr, Lin, Source, apply, gaussian, lin
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
        return State(expr, step.points, step.width, self._noise(state, act, ctx), state.exact)

    def _noise(self, state: State, act: Activation, ctx: Context) -> Noise | None:
        if state.noise is None or not gaussian(state.expr) or not isinstance(state.expr, (Source, Lin)):
            return None
        if state.noise.sampled and not state.noise.pinned:
            return None
        K = ctx.moments.diagonal(state.expr)
        if state.noise.pinned:
            # the sample's own scale is fixed: what is left is the part of f^2 that z^2 does not explain
            slope = act.second_moment_slope(K)
            own = act.fourth_moment(K) - act.second_moment(K).square() - 2 * (slope * K).square()
            return self._passed(state, state.noise, slope, own, None)
        mean, variance = state.noise.scale(K)
        slope = act.second_moment_slope(mean)
        if act.scale_invariant:  # <f^2> and <f^4> go with G and G^2: exact whatever the law of G
            own = act.fourth_moment(mean) - (slope * mean).square()
            own = own * (1 + variance / mean.square().clamp_min(1e-300))
            shift = None if state.noise.shift is None else slope * state.noise.shift
            return self._passed(state, state.noise, slope, own, shift)
        G, weight = lognormal(mean, variance)
        g, fourth = act.second_moment(G), act.fourth_moment(G)
        M = (weight * g).sum(0)
        own = (weight * (fourth - g.square())).sum(0)
        moved = (weight * (g - M).square()).sum(0)
        random = variance > 1e-12 * mean.square()
        gain = torch.where(
            random, (moved / torch.where(random, variance, torch.ones_like(variance))).sqrt(), slope.abs()
        )
        return self._passed(state, state.noise, torch.sign(slope) * gain, own, M - act.second_moment(K))

    def _passed(self, state: State, noise: Noise, gain: Tensor, own: Tensor, shift: Tensor | None) -> Noise:
        parts = {k: gain * v for k, v in noise.parts.items()}
        parts[object()] = (own.clamp_min(0) / state.width).sqrt()
        return Noise(parts, sampled=True, shift=shift)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Multiply the derivative by the slope, which keeps its dependence on the sources."""
        ref = step.arguments["input"]
        state = ctx.state(ref)
        slope = shifted(activation_of(step, ctx), ctx.aligned(state, step.points), 1)
        return {ref.name: cotangent.times(slope)}

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


def lognormal(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes of a log-normal scale at each point, shape (7, P), and their weights (7, 1).

    Its first two moments are exact, so that the spread is right beyond the first order in 1/n.

    Returns:
        The nodes and the weights.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    t = torch.as_tensor(nodes).to(mean)[:, None]
    spread = torch.log1p(variance / torch.where(mean > 0, mean.square(), torch.ones_like(mean)))
    weight = torch.as_tensor(weights / weights.sum()).to(mean)[:, None]
    return mean * torch.exp(t * spread.sqrt() - spread / 2), weight


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
