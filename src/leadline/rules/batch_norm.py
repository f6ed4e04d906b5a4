"""BatchNorm: over the batch in train mode, an affine map by its buffers in eval mode."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.program import Ref, Step
from leadline.rules.banded import Banded
from leadline.rules.base import Rule, argument, rule
from leadline.rules.batch_norm_back import along_channel
from leadline.rules.context import Context
from leadline.rules.expr import Expr, gaussian, grid, lin, mix, op, source
from leadline.rules.kernel import Kernel
from leadline.rules.norm import affine, gained
from leadline.rules.point_map import Centring
from leadline.rules.state import Cotangent, State, fresh

__all__ = ["BatchNorm"]

_CERTAIN = 0.01  # relative variance of the batch variance below which it is taken as certain
_CORRECTED = 0.05  # the same for large images, where its first-order effect is added
_DRAWN = 1024  # points up to which a large image's channels can be drawn jointly


@rule("batch_norm", cites=["yang2019mean"])
class BatchNorm(Rule):
    """Each channel over the batch and its sites.

    Train mode: drawn jointly where the batch is small, else (h - mean) / sqrt(mean_p K_pp - mean_pq K_pq + eps).
    Eval mode: the stored statistics.
    """

    def forward(self, step: Step, ctx: Context) -> list[State]:
        """Normalise over points, then gain and bias."""
        state = ctx.state(argument(step, "input"))
        expr = ctx.aligned(state, step.points)
        if not training(step):
            out: Expr = stored(step, expr, ctx)
        elif certain(expr, ctx):
            out = centred(step, expr, ctx)
            if gaussian(expr):
                ctx.cache[f"normalised:{step.name}"] = out
        else:
            out = op(expr, standardise(step), expr.size)
        made = State(affine(step, out, ctx), step.points, step.width, None, state.exact)
        return [made] * len(step.shapes)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """The transpose of what the forward half did."""
        ref = argument(step, "input")
        expr = ctx.aligned(ctx.state(ref), step.points)
        cotangent = gained(step, cotangent, ctx)
        if not training(step):
            inverse = (buffer(step, "running_var", ctx).mean() + float(step.arguments["eps"])).rsqrt()
            return {ref.name: cotangent.scaled(float(inverse))}
        if certain(expr, ctx):
            # 1 / variance fluctuates with the batch: <1/s^2> exceeds 1/<s^2> by its relative variance
            total, unit = cotangent.total(ctx.moments), scale(step, expr, ctx)
            factor = unit * (1 + spread(expr, ctx)) ** 0.5
            value = ctx.cache.get(f"normalised:{step.name}")
            lost = None
            if value is not None:
                lost = along_channel(cotangent, value, centred_second(expr, ctx) * unit**2, ctx)
            if isinstance(total, Banded):
                centred = Centring(total.grid, 1.0).adjoint(total)
            else:
                C = centring(expr.size, ctx)
                centred = C @ total @ C.T
            return {ref.name: fresh((centred if lost is None else centred - lost) * factor**2)}
        return {ref.name: ctx.through_draws(expr, standardise(step), cotangent)}


def training(step: Step) -> bool:
    """Whether the step normalises by the batch."""
    return bool(step.arguments.get("training", "running_mean" not in step.arguments)) and "no_training" not in str(
        step.node.target
    )


def buffer(step: Step, slot: str, ctx: Context) -> Tensor:
    """A stored statistic."""
    ref = step.arguments[slot]
    return ctx.program.constants[ref.name].to(ctx.dtype) if isinstance(ref, Ref) else torch.zeros(1, dtype=ctx.dtype)


def stored(step: Step, expr: Expr, ctx: Context) -> Expr:
    """Eval mode: channels share the mean of the stored statistics' effect."""
    mean, var = buffer(step, "running_mean", ctx), buffer(step, "running_var", ctx)
    inverse = (var + float(step.arguments["eps"])).rsqrt()
    factor = float(inverse.square().mean().sqrt())
    shift = float((mean * inverse).mean())
    return lin([(factor, expr)], ctx.full(expr.size, -shift) if shift != 0.0 else None)


def centring(size: int, ctx: Context) -> Tensor:
    """The projection that takes off the mean over points."""
    return torch.eye(size, dtype=ctx.dtype, device=ctx.device) - 1.0 / size


def scale(step: Step, expr: Expr, ctx: Context) -> float:
    """One over the standard deviation over the batch."""
    K = ctx.moments.second(expr)
    mean = K.row_means().mean() if isinstance(K, Banded) else K.mean()
    variance = K.diagonal().mean() - mean
    return float((variance + float(step.arguments["eps"])).rsqrt())


def centred(step: Step, expr: Expr, ctx: Context) -> Expr:
    """Large batches: the statistics are certain and the value stays Gaussian."""
    pairs, factor = grid(expr), scale(step, expr, ctx)
    if pairs is not None:
        out = mix(expr, Centring(pairs, factor))
        # what is not Gaussian is not drawn through a map over points
        return out if gaussian(expr) else source(ctx.moments.second(out), gaussian=False)
    return mix(expr, centring(expr.size, ctx) * factor)


def certain(expr: Expr, ctx: Context) -> bool:
    """Whether the batch variance of a channel fluctuates so little that it can be taken as certain."""
    pairs = grid(expr)
    if pairs is None:
        return spread(expr, ctx) < _CERTAIN
    # joint draws need the whole matrix, which offsets that are not carried would have to be guessed for
    return not pairs.complete or pairs.points > _DRAWN or spread(expr, ctx) < _CORRECTED


def centred_second(expr: Expr, ctx: Context) -> Kernel:
    """Second moment after the mean over the batch is taken off."""
    if "centred" not in expr.memo:
        K = ctx.moments.second(expr)
        if isinstance(K, Banded):
            expr.memo["centred"] = Centring(K.grid, 1.0).kernel(K)
        else:
            C = centring(expr.size, ctx)
            expr.memo["centred"] = C @ K @ C
    return expr.memo["centred"]


def spread(expr: Expr, ctx: Context) -> float:
    """Relative variance, over channels, of the batch variance of a Gaussian value: 2 |C K C|^2 / (tr C K C)^2."""
    if "spread" not in expr.memo:
        centred = centred_second(expr, ctx)
        expr.memo["spread"] = float(2 * centred.square().sum() / centred.diagonal().sum().square())
    return expr.memo["spread"]  # type: ignore[return-value]


def standardise(step: Step):  # type: ignore[no-untyped-def]
    """The norm itself on drawn channels, shape (channels, P)."""
    eps = float(step.arguments["eps"])

    def norm(h: Tensor) -> Tensor:
        return (h - h.mean(1, keepdim=True)) * (h.var(1, unbiased=False, keepdim=True) + eps).rsqrt()

    return norm
