"""LayerNorm, RMSNorm, GroupNorm: division by a statistic that a wide layer makes certain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from leadline.program import Axis, Step
from leadline.rules.base import NoRule, Rule, argument, rule
from leadline.rules.context import Context
from leadline.rules.expr import Expr, lin, op, product, scaled
from leadline.rules.fluctuation import Normalised
from leadline.rules.state import Cotangent, Fixed, Noise, State, Weight

__all__ = ["GroupNorm", "LayerNorm", "affine"]

CERTAIN = 32  # channels from which a statistic over channels is taken as certain


@rule("layer_norm", "rms_norm", cites=["ba2016layer", "zhang2019root"])
class LayerNorm(Rule):
    """h' = (h - m) / sqrt(M - m^2 + eps) over the channels (RMSNorm: m = 0), then gain and bias."""

    def forward(self, step: Step, ctx: Context) -> State | Fixed:
        """Scale each point by its own statistic."""
        value = ctx.value(argument(step, "input"))
        state = ctx.state(argument(step, "input"))
        expr = ctx.aligned(state, step.points)
        if isinstance(value, Fixed) and not isinstance(value, Weight):
            exact = False
        else:
            exact = state.exact
        inverse, shift = statistic(step, expr, ctx)
        offset = None if shift is None else -shift * inverse
        divided = lin([(inverse, expr)], offset)
        noise = None
        if not _normalised_sites(step):  # over sites too, a point's own scale is not fixed
            noise = Noise({}, sampled=True, pinned=True) if _plain(step, ctx) else None
            divided.memo["norm"] = Normalised(expr, inverse, step.op == "layer_norm", step.width)
        return State(affine(step, divided, ctx), step.points, step.width, noise, exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Division by the statistic; the two directions that it takes out are 1/width of the derivative."""
        ref = argument(step, "input")
        if isinstance(ctx.value(ref), Fixed):
            return {}
        inverse, _ = statistic(step, ctx.aligned(ctx.state(ref), step.points), ctx)
        removed = 1 if step.op == "rms_norm" else 2
        return {ref.name: gained(step, cotangent, ctx).scaled(inverse).uncertain(removed / step.width)}

    def susceptibility(self, step: Step, ctx: Context) -> tuple[float, float] | None:
        """A rescaling is divided out; a random change is divided by the variance."""
        expr = ctx.aligned(ctx.state(argument(step, "input")), step.points)
        inverse, _ = statistic(step, expr, ctx)
        gain = ctx.weight(step, "weight")
        squared = 1.0 if gain is None else gain[1].second_moment
        M, m = ctx.moments.diagonal(expr), ctx.moments.mean(expr)
        eps = epsilon(step)
        variance = M if step.op == "rms_norm" else M - m.square()
        # what eps adds to the variance is not rescaled with the input
        parallel = float((eps * variance * inverse**4).sum() / M.sum().clamp_min(1e-300))
        removed = 1 if step.op == "rms_norm" else 2
        return parallel * squared, float(inverse.square().mean()) * squared * (1 - removed / step.width)


def statistic(step: Step, expr: Expr, ctx: Context) -> tuple[Tensor, Tensor | None]:
    """One over the standard deviation, and the mean that is taken off, at each point."""
    eps = epsilon(step)
    M = ctx.moments.diagonal(expr)
    axes = _normalised_sites(step)
    if step.op == "rms_norm":
        return (_over(M, step.points, axes) + eps).rsqrt(), None
    m = _over(ctx.moments.mean(expr), step.points, axes)
    inverse = (_over(M, step.points, axes) - m.square() + eps).rsqrt()
    return inverse, None if bool((m == 0).all()) else m


def _plain(step: Step, ctx: Context) -> bool:
    """Whether gain and bias are the same in every channel, and the bias zero."""
    gain, bias = ctx.weight(step, "weight"), ctx.weight(step, "bias")
    return (gain is None or gain[1].std == 0.0) and (bias is None or bias[1].second_moment == 0.0)


def epsilon(step: Step) -> float:
    """What the norm adds to the variance."""
    eps = step.arguments.get("eps")
    return torch.finfo(torch.float32).eps if eps is None else float(eps)


def _normalised_sites(step: Step) -> tuple[Axis, ...]:
    count = len(step.arguments["normalized_shape"])
    return tuple(a for dim in step.layout[-count:] for a in dim if a.kind != "channel")


def _over(vector: Tensor, points: tuple[Axis, ...], axes: tuple[Axis, ...]) -> Tensor:
    """Average a vector over some of its axes, kept at full size."""
    if not axes:
        return vector
    gone = [i for i, a in enumerate(points) if a in axes]
    split = vector.reshape([a.size for a in points])
    return split.mean(gone, keepdim=True).expand(split.shape).reshape(-1)


def affine(step: Step, expr: Expr, ctx: Context) -> Expr:
    """Learned gain and bias: constants scale and shift, random entries add their law."""
    gain, bias = ctx.weight(step, "weight"), ctx.weight(step, "bias")
    if gain is not None:
        law = gain[1]
        expr = scaled(expr, law.mean) if law.std == 0.0 else product(expr, ctx.parameter(law, expr))
    if bias is not None and bias[1].second_moment > 0.0:
        law = bias[1]
        if law.std == 0.0:
            expr = lin([(1.0, expr)], ctx.full(expr.size, law.mean))
        else:
            expr = lin([(1.0, expr), (1.0, ctx.parameter(law, expr))])
    return expr


def gained(step: Step, cotangent: Cotangent, ctx: Context) -> Cotangent:
    """The derivative after the learned gain."""
    gain = ctx.weight(step, "weight")
    return cotangent if gain is None else cotangent.scaled(gain[1].second_moment ** 0.5)


@rule("group_norm", "instance_norm", cites=["wu2018group"])
class GroupNorm(Rule):
    """The statistic of a group's channels and all sites: certain where the group is wide, drawn where it is not."""

    def forward(self, step: Step, ctx: Context) -> State:
        """Scale each sample, or run the norm on drawn channels."""
        state = ctx.state(argument(step, "input"))
        expr = ctx.aligned(state, step.points)
        if _group_width(step) >= CERTAIN:
            inverse, shift = _group_statistic(step, expr, ctx)
            out: Expr = lin([(inverse, expr)], None if bool((shift == 0).all()) else -shift * inverse)
        else:
            out = op(expr, _drawn(step), expr.size)
        return State(affine(step, out, ctx), step.points, step.width, None, state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Division by the statistic; through draws where the group is narrow."""
        ref = argument(step, "input")
        expr = ctx.aligned(ctx.state(ref), step.points)
        cotangent = gained(step, cotangent, ctx)
        if _group_width(step) >= CERTAIN:
            return {ref.name: cotangent.scaled(_group_statistic(step, expr, ctx)[0])}
        return {ref.name: ctx.through_draws(expr, _drawn(step), cotangent)}


def _group_width(step: Step) -> int:
    return step.width // int(step.arguments.get("num_groups", step.width))


def _group_statistic(step: Step, expr: Expr, ctx: Context) -> tuple[Tensor, Tensor]:
    sites = tuple(a for a in step.points if a.kind == "site")
    M, m = ctx.moments.diagonal(expr), ctx.moments.mean(expr)
    shift = _over(m, step.points, sites)
    variance = _over(M, step.points, sites) - shift.square()
    return (variance + float(step.arguments.get("eps", 1e-5))).rsqrt(), shift


def _drawn(step: Step):  # type: ignore[no-untyped-def]
    """The norm itself on drawn channels, shape (channels, P)."""
    samples = 1
    for a in step.points:
        samples *= a.size if a.kind == "sample" else 1
    group = _group_width(step)
    eps = float(step.arguments.get("eps", 1e-5))

    def norm(h: Tensor) -> Tensor:
        x = h.reshape(h.shape[0], samples, -1).transpose(0, 1)
        return F.group_norm(x, h.shape[0] // group, eps=eps).transpose(0, 1).reshape(h.shape)

    if any(a.kind == "sample" for a in step.points[1:]):
        raise NoRule("a group norm whose sample axis is not the first")
    return norm
