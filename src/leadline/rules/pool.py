"""Pooling: averages are linear maps over sites, maxima are drawn on the sites of their windows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from leadline.program import Step
from leadline.rules.banded import Banded, band
from leadline.rules.banded_conv import Window, window_sum
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_maximum import maximum, maximum_back
from leadline.rules.banded_move import interpolation_maps, moved, moved_back
from leadline.rules.banded_plan import image_grid
from leadline.rules.banded_pool import average, average_back
from leadline.rules.banded_sites import SiteMap
from leadline.rules.base import NoRule, Rule, argument, rule
from leadline.rules.context import Context
from leadline.rules.conv import _many, _with_samples, taps_of
from leadline.rules.expr import Expr, apply, grid, mix, op, source
from leadline.rules.point_map import SiteMean
from leadline.rules.reduce import site_mean
from leadline.rules.state import Cotangent, Fixed, State, fresh

__all__ = ["Average", "Interpolate", "Maximum"]

_LOOSE = 0.25  # error of a derivative between two sites before a maximum: windows' winners are known by offset alone


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
        pairs = grid(state.expr)
        if pairs is not None:
            return State(self.large(step, state.expr, pairs, ctx), step.points, step.width, None, state.exact)
        A = self.matrix(step, ctx)
        if A.shape[1] != state.expr.size:
            raise NoRule(f"{step.op} over more than the sites")
        return State(mix(state.expr, A), step.points, step.width, None, state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """The transposed map."""
        ref = argument(step, "self", "input")
        pairs = grid(ctx.state(ref).expr)
        if pairs is not None:
            return {ref.name: self.large_back(step, cotangent, pairs, ctx)}
        A = self.matrix(step, ctx)
        return {ref.name: fresh(A.T @ cotangent.total(ctx.moments) @ A)}

    def large(self, step: Step, expr: Expr, pairs: Grid, ctx: Context) -> Expr:
        """The map on a large image."""
        raise NoRule(f"{step.op} of an image of {pairs.sites} pixels")

    def large_back(self, step: Step, cotangent: Cotangent, pairs: Grid, ctx: Context) -> Cotangent:
        """The transposed map on a large image."""
        raise NoRule(f"{step.op} of an image of {pairs.sites} pixels")

    def matrix(self, step: Step, ctx: Context) -> Tensor:
        """The map over points, shape (P_out, P_in)."""
        key = f"map:{step.name}"
        if key not in ctx.cache:
            sizes, _, samples = _sizes(step, ctx)
            n = math.prod(sizes)
            images = torch.eye(n, dtype=torch.float64).reshape(n, 1, *sizes)
            site = run_on(step, images).reshape(n, -1).T.to(ctx.dtype).to(ctx.device)
            ctx.cache[key] = torch.block_diag(*[site] * samples)
        return ctx.cache[key]


def run_on(step: Step, images: Tensor) -> Tensor:
    """The operator on images of our own, shape (images, 1, *sizes)."""
    given = dict(step.arguments)
    given["self" if "self" in given else "input"] = images
    schema = step.node.target._schema.arguments  # type: ignore[union-attr]
    return step.node.target(*[given[a.name] for a in schema if not a.kwarg_only])  # type: ignore[operator]


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
class Average(_Linear):
    """M' = mean over the two windows of M_st."""

    def large(self, step: Step, expr: Expr, pairs: Grid, ctx: Context) -> Expr:
        """Over the whole image by quadrature over offsets; over windows by sums over lags."""
        sizes, out, _ = _sizes(step, ctx)
        if out == sizes:
            return expr
        if math.prod(out) == 1:
            return site_mean(expr, SiteMean(pairs), ctx)
        target = image_grid(step, ctx)
        window = _average_window(step, sizes, out)
        K = average(ctx.moments.second(expr), window, target)  # type: ignore[arg-type]
        planes = ctx.moments.mean(expr).reshape(pairs.samples, *pairs.sizes)
        mean = window_sum(planes, window, out).reshape(-1) / window.count
        return source(K, mean=mean if bool(mean.any()) else None, gaussian=False)

    def large_back(self, step: Step, cotangent: Cotangent, pairs: Grid, ctx: Context) -> Cotangent:
        """The transpose."""
        sizes, out, _ = _sizes(step, ctx)
        if out == sizes:
            return cotangent
        total = cotangent.total(ctx.moments)
        if math.prod(out) == 1:
            return fresh(SiteMean(pairs).adjoint(total))
        return fresh(average_back(band(total, image_grid(step, ctx)), _average_window(step, sizes, out), pairs))  # type: ignore[arg-type]


def _average_window(step: Step, sizes: list[int], out: list[int]) -> Window:
    rank = len(sizes)
    if "adaptive" in step.op:
        if any(n % m for n, m in zip(sizes, out, strict=True)):
            raise NoRule("adaptive pooling to a size that does not divide the image's")
        kernel = stride = [n // m for n, m in zip(sizes, out, strict=True)]
        padding = [0] * rank
    else:
        kernel = _many(step.arguments["kernel_size"], rank)
        stride = _many(step.arguments["stride"], rank) if step.arguments.get("stride") else kernel
        padding = _many(step.arguments.get("padding", 0), rank)
        if any(padding) and not step.arguments.get("count_include_pad", True):
            raise NoRule("average pooling that leaves padding out of its count")
    return Window.of(kernel, stride, padding, [1] * rank)


@rule(
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
)
class Interpolate(_Linear):
    """Interpolation is linear in the sites."""

    def large(self, step: Step, expr: Expr, pairs: Grid, ctx: Context) -> Expr:
        """Each pixel is a mean of a few; the nearest one alone only moves."""
        for sites in self.sites(step, pairs, ctx):
            expr = moved(expr, sites, ctx.moments)
        return expr

    def large_back(self, step: Step, cotangent: Cotangent, pairs: Grid, ctx: Context) -> Cotangent:
        """The transpose."""
        for sites in reversed(self.sites(step, pairs, ctx)):
            cotangent = moved_back(cotangent, sites, ctx.moments)
        return cotangent

    def sites(self, step: Step, pairs: Grid, ctx: Context) -> list[SiteMap]:
        """The maps over sites, one dimension after another."""
        key = f"sites:{step.name}"
        if key not in ctx.cache:
            target = image_grid(step, ctx)
            if target is None:
                raise NoRule(f"{step.op} of an image of {pairs.sites} pixels")
            ctx.cache[key] = interpolation_maps(lambda images: run_on(step, images), pairs, target)
        return ctx.cache[key]


@rule("max_pool1d", "max_pool2d", "max_pool3d")
class Maximum(Rule):
    """<max over one window, max over another> on joint draws of the windows' sites."""

    def forward(self, step: Step, ctx: Context) -> State:
        """The maximum of drawn channels over each window."""
        state = ctx.state(argument(step, "self", "input"))
        target = image_grid(step, ctx) if grid(state.expr) is not None else None
        if target is not None:
            pooled = maximum(state.expr, self.window(step, ctx), target, ctx.moments.second, ctx.moments.seed)
            ctx.cache[f"pooled:{step.name}"] = pooled
            made = source(pooled.second, mean=pooled.mean, gaussian=False)
            made.memo.update(error=pooled.error, pair=pooled.pair_error)
            return State(made, step.points, step.width, None, False)
        taps = self.taps(step, ctx)
        return State(op(state.expr, _window_max(taps), len(taps)), step.points, step.width, None, state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """The derivative goes to the site that won, draw by draw."""
        ref = argument(step, "self", "input")
        expr = ctx.state(ref).expr
        pairs = grid(expr)
        if pairs is not None:
            pooled, target = ctx.cache[f"pooled:{step.name}"], image_grid(step, ctx)
            total = band(cotangent.total(ctx.moments), target)  # type: ignore[arg-type]
            D = maximum_back(total, pooled, self.window(step, ctx), pairs)
            D.loose = _LOOSE
            winners = None
            if pooled.slope is not None:
                # the slope of the activation before the maximum is that of the winners; pairs whose slopes agree more than
                # others at their lag win together more often
                sloped = maximum_back(total, pooled, self.window(step, ctx), pairs, sloped=True)
                usual = by_lag(ctx.moments.second(apply(expr.activation, expr.inner, 1)))  # type: ignore[attr-defined]
                given = D * usual
                winners = Banded(sloped.values / given.values.where(given.values.abs() > 1e-30, torch.ones(())), pairs)
            return {ref.name: fresh(D, winners=winners)}
        return {ref.name: ctx.through_draws(expr, _window_max(self.taps(step, ctx)), cotangent)}

    def window(self, step: Step, ctx: Context) -> Window:
        """Where the sites of a window are."""
        rank, a = len(_sizes(step, ctx)[0]), step.arguments
        kernel = _many(a["kernel_size"], rank)
        stride = _many(a["stride"], rank) if a.get("stride") else kernel
        return Window.of(kernel, stride, _many(a.get("padding", 0), rank), _many(a.get("dilation", 1), rank))

    def taps(self, step: Step, ctx: Context) -> Tensor:
        """Points of each window, -1 outside."""
        sizes, out, samples = _sizes(step, ctx)
        return _with_samples(taps_of(sizes, out, self.window(step, ctx)), math.prod(sizes), samples)


def by_lag(K: Banded) -> Banded:
    """The mean correlation at each offset of each pair of samples, times the sizes at the two points."""
    p, q, place = K.grid.index
    root = K.diagonal().clamp_min(0).sqrt()
    size = root[p] * root[q]
    plane = place // K.grid.sites
    sums = [
        torch.zeros(K.grid.starts[-1], dtype=torch.float64).index_add(0, plane, v.double()) for v in (K.values, size)
    ]
    mean = sums[0] / sums[1].clamp_min(1e-30)
    return Banded(size * mean.to(size)[plane], K.grid)


def _window_max(taps: Tensor):  # type: ignore[no-untyped-def]
    def pool(h: Tensor) -> Tensor:
        padded = F.pad(h, (0, 1), value=-torch.inf)
        return padded[:, taps].max(-1).values  # one winner, as the operator has it where a window is tied

    return pool
