"""A step's row: its quantities from its state and its cotangent."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from leadline.program import Step
from leadline.rules import Context, Cotangent, State
from leadline.rules.banded import Banded
from leadline.rules.dense import input_moment
from leadline.rules.elementwise import activation_of
from leadline.rules.expr import Apply, gaussian
from leadline.rules.kernel import Kernel
from leadline.rules.moments import relative_error
from leadline.theory.criticality import fixed_point
from leadline.theory.rows import Estimate, Row

__all__ = ["correlations", "describe"]

_NODES = 256


def describe(step: Step, ctx: Context, cotangent: Cotangent | None, drawn: bool) -> Row:
    """Quantities of one step."""
    state = ctx.values[step.name]
    row = Row(step.name, step.layer, step.op, ruled=not drawn)
    if not isinstance(state, State):
        return row
    K = ctx.moments.second(state.expr)
    error = ctx.moments.error(state.expr)
    kernel = float(K.diagonal().mean())
    finite = 0.0
    if state.noise is not None and state.noise.shift is not None:
        finite = float(state.noise.shift.abs().mean())  # the 1/n correction, stated and not added
    row.values["kernel"] = Estimate(
        kernel, math.hypot(abs(kernel) * error, abs(kernel) * relative_error(state.expr, "law"), finite)
    )
    row.values["peak"] = Estimate(float(K.diagonal().max().clamp_min(0).sqrt()))
    for name, value in correlations(K, [(a.kind, a.size) for a in state.points]).items():
        sampled = quadrature_error(K) if isinstance(K, Banded) and name == "site_correlation" else 0.0
        row.values[name] = Estimate(value, math.hypot(error, relative_error(state.expr, "pair"), sampled))
    if state.noise is not None:
        variance = state.noise.variance()
        if variance is not None:
            relative = variance / state.noise.scale(K.diagonal())[0].square().clamp_min(1e-300)
            row.values["spread"] = Estimate(float(relative.mean()))
        elif not state.noise.pinned:
            row.values["spread"] = Estimate(0.0)
    if step.op == "pointwise":
        _flat(step, ctx, row)
    if step.op == "linear":
        _fixed(step, ctx, row)
    chi = ctx.susceptibility.get(step.name)
    if chi is not None:
        row.values["chi_parallel"], row.values["chi_perp"] = Estimate(chi[0]), Estimate(chi[1])
    if cotangent is not None:
        _gradients(step, ctx, cotangent, K, row)
    return row


def _flat(step: Step, ctx: Context, row: Row) -> None:
    inner = ctx.state(step.arguments["input"]).expr
    if gaussian(inner):
        act = activation_of(step, ctx)
        K = ctx.moments.diagonal(inner).sort().values
        few = 1 if act.scale_invariant else _NODES
        if K.numel() > few:  # a mean over points from equally many of each part of their distribution
            K = K[(torch.arange(few) + 0.5).mul(K.numel() / few).long()]
        row.values["flat_fraction"] = Estimate(float(act.flat_fraction(K).mean()))


def _fixed(step: Step, ctx: Context, row: Row) -> None:
    """Fixed point of the pair (nonlinearity, layer), where the layer follows a nonlinearity of a Gaussian."""
    name = step.arguments["input"].name
    act, weight = ctx.activations.get(name), ctx.weight(step)
    value = ctx.values.get(name)
    if act is None or weight is None or not isinstance(value, State) or not isinstance(value.expr, Apply):
        return
    if not gaussian(value.expr.inner):
        return
    bias = ctx.weight(step, "bias")
    C_W, C_b = weight[1].C_W, 0.0 if bias is None else bias[1].second_moment
    K = float(ctx.moments.diagonal(value.expr.inner).mean())
    key = f"fixed:{act.name}:{C_W:.3g}:{C_b:.3g}"
    if key not in ctx.cache:
        ctx.cache[key] = fixed_point(act, C_W, C_b, K)
    found = ctx.cache[key]
    row.values["fixed_point"], row.values["depth_scale"] = Estimate(found.K), Estimate(found.depth_scale)


def _gradients(step: Step, ctx: Context, cotangent: Cotangent, K: Tensor, row: Row) -> None:
    D = cotangent.total(ctx.moments)
    size = float(D.diagonal().sum())
    row.values["partial_jacobian"] = Estimate(size, size * cotangent.error())
    if not step.weighted:
        return
    weight = ctx.weight(step)
    if weight is None:
        return
    law = weight[1]
    bias = ctx.weight(step, "bias") if step.op != "embedding" else None
    share, sampled = 0.0, 0.0
    if law.second_moment > 0 and (step.op == "linear" and not isinstance(D, Banded)):
        M = input_moment(step, ctx.state(step.arguments["input"]), ctx)[0]
        share += float((D * M).sum()) * law.fan_in
    elif law.second_moment > 0:
        offset = 0.0 if bias is None else bias[1].second_moment
        total, sampled = (x / law.C_W * law.fan_in for x in _inner(D, K - offset))
        share += total
    if bias is not None:
        share += float(D.sum())
    row.values["tangent_kernel"] = Estimate(share, math.hypot(share * cotangent.error(), sampled))


def banded_correlations(K: Banded, inverse: Tensor) -> dict[str, float]:
    """The same from a kernel that is carried at offsets; pairs of sites by quadrature."""
    pairs = K.grid
    p, q, _ = pairs.index
    C = K.values * inverse.index_select(0, p) * inverse.index_select(0, q)
    alive = (inverse > 0).to(inverse)
    everywhere = bool(alive.all())
    P, same_site = pairs.points, pairs.counts[0] * len(pairs.sample_pairs[0])
    out: dict[str, float] = {}
    between = float(same_site - P) if everywhere else float((alive[p[P:same_site]] * alive[q[P:same_site]]).sum())
    if between > 0:
        out["correlation"] = float(C[P:same_site].sum()) / between
    weights = pairs.within(K.comb).to(inverse)
    within = float(weights.sum()) if everywhere else float(weights @ (alive[p] * alive[q]))
    if within > 0:
        out["site_correlation"] = float(weights @ C) / within
    if "correlation" not in out and "site_correlation" in out:
        out["correlation"] = out["site_correlation"]
    return out


def quadrature_error(K: Banded) -> float:
    """Standard error of the mean correlation between sites of a kernel that is carried at offsets."""
    return float(K.quadrature_error()) / max(float(K.diagonal().mean()), 1e-30)


def _inner(D: Kernel, K: Kernel) -> tuple[float, float]:
    """Sum of the product over all pairs of points, and its standard error where only some offsets between sites are carried."""
    if isinstance(D, Banded) and isinstance(K, Banded):
        product = D.meet(K)
        drawn = float(product.quadrature_error()) * D.grid.points**2
        return float(product.sum()), math.hypot(drawn, float(product.loose_error()))
    return float((D * K).sum()), 0.0


def correlations(K: Kernel, axes: list[tuple[str, int]]) -> dict[str, float]:
    """Mean correlation between samples at equal sites, and between sites of one sample, from a kernel over points.

    Args:
        K: second moment, shape (P, P).
        axes: (kind, size) of each axis that the points run over, in order.

    Returns:
        ``correlation`` (between samples; between sites where there is one sample) and ``site_correlation``.
    """
    norm = K.diagonal().clamp_min(0).sqrt()
    inverse = torch.where(norm > 0, 1 / norm.clamp_min(1e-30), norm)
    if isinstance(K, Banded):
        return banded_correlations(K, inverse)
    C = K * inverse[:, None] * inverse[None, :]
    alive = (norm > 0).to(K)
    out: dict[str, float] = {}
    for name, mask in zip(("correlation", "site_correlation"), _masks(tuple(axes)), strict=True):
        mask = mask.to(K)
        count = float(alive @ mask @ alive)
        if count > 0:
            out[name] = float((C * mask).sum()) / count
    if "correlation" not in out and "site_correlation" in out:
        out["correlation"] = out["site_correlation"]
    return out


@lru_cache(maxsize=32)
def _masks(axes: tuple[tuple[str, int], ...]) -> tuple[Tensor, Tensor]:
    """Pairs of points at equal sites of two samples, and at two sites of one sample."""
    sample, site = coordinates(list(axes))
    same_sample, same_site = sample[:, None] == sample[None, :], site[:, None] == site[None, :]
    return ~same_sample & same_site, same_sample & ~same_site


def coordinates(axes: list[tuple[str, int]]) -> tuple[Tensor, Tensor]:
    """Sample number and site number of each point."""
    count = math.prod(size for _, size in axes)
    sample, site = torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)
    flat, stride = torch.arange(count), count
    for kind, size in axes:
        stride //= size
        at = (flat // stride) % size
        target = sample if kind == "sample" else site
        target.mul_(size).add_(at)
    return sample, site
