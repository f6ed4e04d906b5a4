"""Pooling: averages are linear maps over sites, maxima are drawn on the sites of their windows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from leadline.program import Step
from leadline.rules.base import NoRule, Rule, argument, rule
from leadline.rules.context import Context
from leadline.rules.conv import _many, _with_samples, taps_of
from leadline.rules.expr import mix, op
from leadline.rules.state import Cotangent, Fixed, State, fresh

__all__ = ["Average", "Interpolate", "Maximum"]


def _sizes(step: Step, ctx: Context) -> tuple[list[int], list[int], int]:
    shape = ctx.program.nodes[argument(step, "self", "input").name].meta["val"].shape
    rank = len(shape) - 2
    if any(a.kind == "sample" for a in step.points[1:]):
        raise NoRule("pooling whose sample axis is not the first")
    return [int(s) for s in shape[-rank:]], list(step.shape[-rank:]), int(shape[0])


class _Linear(Rule):
    """A fixed linear map over sites, found by running the operator on unit images."""

    def forward(self, step: Step, ctx: Context) -> State | Fixed:
        """Map the expression over points."""
        state = ctx.state(argument(step, "self", "input"))
        return State(mix(state.expr, self.matrix(step, ctx)), step.points, step.width, None, state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """The transposed map."""
        A = self.matrix(step, ctx)
        return {argument(step, "self", "input").name: fresh(A.T @ cotangent.total(ctx.moments) @ A)}

    def matrix(self, step: Step, ctx: Context) -> Tensor:
        """The map over points, shape (P_out, P_in)."""
        key = f"map:{step.name}"
        if key not in ctx.cache:
            sizes, _, samples = _sizes(step, ctx)
            n = math.prod(sizes)
            images = torch.eye(n, dtype=torch.float64).reshape(n, 1, *sizes)
            given = dict(step.arguments)
            given["self" if "self" in given else "input"] = images
            schema = step.node.target._schema.arguments  # type: ignore[union-attr]
            answer = step.node.target(*[given[a.name] for a in schema if not a.kwarg_only])  # type: ignore[operator]
            site = answer.reshape(n, -1).T.to(ctx.dtype).to(ctx.device)
            ctx.cache[key] = torch.block_diag(*[site] * samples)
        return ctx.cache[key]


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
class Average(_Linear):
    """M' = mean over the two windows of M_st."""


@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d")
class Interpolate(_Linear):
    """Interpolation is linear in the sites."""


@rule("max_pool1d", "max_pool2d", "max_pool3d")
class Maximum(Rule):
    """<max over one window, max over another> on joint draws of the windows' sites."""

    def forward(self, step: Step, ctx: Context) -> State:
        """The maximum of drawn channels over each window."""
        state = ctx.state(argument(step, "self", "input"))
        return State(op(state.expr, _window_max(self.taps(step, ctx)), len(self.taps(step, ctx))), step.points, step.width,
                     None, state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """The derivative goes to the site that won, draw by draw."""
        ref = argument(step, "self", "input")
        state = ctx.state(ref)
        return {ref.name: ctx.through_draws(state.expr, _window_max(self.taps(step, ctx)), cotangent)}

    def taps(self, step: Step, ctx: Context) -> Tensor:
        """Points of each window, -1 outside."""
        sizes, out, samples = _sizes(step, ctx)
        rank, a = len(sizes), step.arguments
        kernel = _many(a["kernel_size"], rank)
        stride = _many(a["stride"], rank) if a.get("stride") else kernel
        site = taps_of(sizes, out, kernel, stride, _many(a.get("padding", 0), rank), _many(a.get("dilation", 1), rank))
        return _with_samples(site, math.prod(sizes), samples)


def _window_max(taps: Tensor):  # type: ignore[no-untyped-def]
    def pool(h: Tensor) -> Tensor:
        padded = F.pad(h, (0, 1), value=-torch.inf)
        return padded[:, taps].amax(-1)

    return pool
