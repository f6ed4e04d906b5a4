"""Convolutions and their transposes: a dense layer at every site, over the taps that the site sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from leadline.program import Law, Step
from leadline.rules.base import NoRule, Rule, rule
from leadline.rules.context import Context
from leadline.rules.dense import bias_moment
from leadline.rules.expr import Expr, op, source
from leadline.rules.state import Cotangent, Fixed, State, fresh

__all__ = ["Conv", "ConvTranspose", "taps_of"]

_FEW = 16  # channels in a group below which the sum over them is not Gaussian


@rule("conv", cites=["novak2019bayesian", "xiao2018dynamical"])
class Conv(Rule):
    """K'_st = C_b + (C_W / taps) sum over taps of M at the two taps; taps on zero padding are missing.

    Where a group has few channels (depthwise: one) the value is not Gaussian: it is drawn weights, shared by all sites,
    times the channel's own draws.
    """

    def forward(self, step: Step, ctx: Context) -> State:
        """Sum the second moment over taps."""
        law: Law = ctx.weight(step)[1]  # type: ignore[index]
        value = ctx.value(step.arguments["input"])
        taps = self.taps(step, ctx)
        if isinstance(value, Fixed):
            M = _data_moment(value, taps, ctx)
        else:
            M = gather_sum(ctx.moments.second(ctx.state(step.arguments["input"]).expr), taps)
        count = taps.shape[-1] if law.kind != "delta_orthogonal" else 1
        K = (law.C_W / count) * M
        bias = ctx.weight(step, "bias")
        K = K + bias_moment(bias, K)
        few = _group_channels(step, ctx)
        if few < _FEW and not isinstance(value, Fixed) and bias_moment(bias, K) == 0:
            inner = ctx.state(step.arguments["input"]).expr
            expr: Expr = op(inner, _drawn_taps(taps, law.C_W / taps.shape[-1], few), K.shape[0])
            expr.memo["second"] = K
            expr.memo["mean"] = K.new_zeros(K.shape[0])
            return State(expr, step.points, step.width)
        return State(source(K, gaussian=few >= _FEW), step.points, step.width, None, few >= _FEW)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Every input site collects the output sites that see it."""
        ref = step.arguments["input"]
        if isinstance(ctx.value(ref), Fixed):
            return {}
        law: Law = ctx.weight(step)[1]  # type: ignore[index]
        taps = self.taps(step, ctx)
        count = taps.shape[-1] if law.kind != "delta_orthogonal" else 1
        state = ctx.state(ref)
        total = cotangent.total(ctx.moments) * (law.C_W / count)
        return {ref.name: fresh(scatter_sum(total, taps, state.expr.size))}

    def susceptibility(self, step: Step, ctx: Context) -> tuple[float, float] | None:
        """C_W times the share of taps that are not on padding; along the input itself, as its second moment is summed."""
        law: Law = ctx.weight(step)[1]  # type: ignore[index]
        taps = self.taps(step, ctx)
        value = ctx.value(step.arguments["input"])
        if isinstance(value, Fixed):
            return None
        K = ctx.moments.diagonal(ctx.values[step.name].expr)  # type: ignore[union-attr]
        M = ctx.moments.diagonal(ctx.state(step.arguments["input"]).expr)
        weighted = K.mean() - bias_moment(ctx.weight(step, "bias"), K)
        return float(weighted / M.mean().clamp_min(1e-300)), law.C_W * float((taps >= 0).double().mean())

    def taps(self, step: Step, ctx: Context) -> Tensor:
        """Input point of each tap of each output point, -1 on padding; shape (P_out, taps), both with sample axes first."""
        key = f"taps:{step.name}"
        if key not in ctx.cache:
            ctx.cache[key] = self._taps(step, ctx)
        return ctx.cache[key]

    def _taps(self, step: Step, ctx: Context) -> Tensor:
        weight, law = ctx.weight(step)  # type: ignore[misc]
        sizes, out = _spatial(step, weight.dim() - 2, ctx)
        a = step.arguments
        rank = len(sizes)
        kernel = weight.shape[2:]
        padding = a.get("padding", 0)
        dilation = _many(a.get("dilation", 1), rank)
        if isinstance(padding, str):
            padding = [0] * rank if padding == "valid" else [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
        site = taps_of(sizes, out, kernel, _many(a.get("stride", 1), rank), _many(padding, rank), dilation)
        if law.kind == "delta_orthogonal":
            site = site[:, [site.shape[1] // 2]]
        return _with_samples(site, math.prod(sizes), _samples(step))


@rule("conv_transpose")
class ConvTranspose(Conv):
    """The same sum with the taps that reach the output site."""

    def _taps(self, step: Step, ctx: Context) -> Tensor:
        weight, _ = ctx.weight(step)  # type: ignore[misc]
        sizes, out = _spatial(step, weight.dim() - 2, ctx)
        a, rank = step.arguments, len(sizes)
        forward = taps_of(out, sizes, weight.shape[2:], _many(a.get("stride", 1), rank), _many(a.get("padding", 0), rank),
                          _many(a.get("dilation", 1), rank))
        site = torch.full((math.prod(out), forward.shape[1]), -1, dtype=torch.long)
        for tap in range(forward.shape[1]):
            inside = forward[:, tap] >= 0
            site[forward[inside, tap], tap] = torch.arange(forward.shape[0])[inside]
        return _with_samples(site, math.prod(sizes), _samples(step))


def taps_of(sizes: Sequence[int], out: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
            dilation: Sequence[int]) -> Tensor:
    """Flat input site of each tap of each output site, -1 outside; shape (prod(out), prod(kernel))."""
    index = torch.zeros(*([1] * (2 * len(out))), dtype=torch.long)
    valid = torch.ones_like(index, dtype=torch.bool)
    for d, (n, m, k) in enumerate(zip(sizes, out, kernel, strict=True)):
        at = torch.arange(m)[:, None] * stride[d] - padding[d] + torch.arange(k)[None, :] * dilation[d]
        shape = [1] * (2 * len(out))
        shape[d], shape[len(out) + d] = m, k
        index = index * n + at.reshape(shape)
        valid = valid & ((at >= 0) & (at < n)).reshape(shape)
    full = torch.where(valid, index, torch.full_like(index, -1))
    return full.expand([*out, *kernel]).reshape(math.prod(out), math.prod(kernel))


def gather_sum(M: Tensor, taps: Tensor) -> Tensor:
    """Sum over taps of M at the two points' same tap; shape (P_out, P_out)."""
    padded = torch.nn.functional.pad(M, (0, 1, 0, 1))
    total = M.new_zeros(taps.shape[0], taps.shape[0])
    for tap in range(taps.shape[1]):
        i = taps[:, tap]  # -1 reads the padded zero
        total += padded[i][:, i]
    return total


def scatter_sum(D: Tensor, taps: Tensor, size: int) -> Tensor:
    """The transpose of :func:`gather_sum`; shape (size, size)."""
    total = D.new_zeros(size + 1, size + 1)
    for tap in range(taps.shape[1]):
        i = torch.where(taps[:, tap] < 0, size, taps[:, tap])
        rows = D.new_zeros(size + 1, D.shape[1]).index_add_(0, i, D)
        total.index_add_(1, i, rows)
    return total[:size, :size]


def _data_moment(value: Fixed, taps: Tensor, ctx: Context) -> Tensor:
    x = torch.nn.functional.pad(ctx.channels(value.value, value.layout), (0, 1))
    total = x.new_zeros(taps.shape[0], taps.shape[0])
    for tap in range(taps.shape[1]):
        h = x[:, taps[:, tap]]
        total += h.T @ h / x.shape[0]
    return total


def _drawn_taps(taps: Tensor, variance: float, few: int):  # type: ignore[no-untyped-def]
    """Depthwise weights, one set a channel and shared by all sites, on drawn channels."""

    def convolve(h: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(taps.shape[0])
        padded = torch.nn.functional.pad(h, (0, 1))
        out = h.new_zeros(h.shape[0], taps.shape[0])
        for other in range(few):
            channel = padded.roll(other * (h.shape[0] // few), 0)
            w = torch.randn(h.shape[0], taps.shape[1], generator=generator, dtype=torch.float64).to(h) * variance**0.5
            for tap in range(taps.shape[1]):
                out += w[:, tap : tap + 1] * channel[:, taps[:, tap]]
        return out / few**0.5

    return convolve


def _group_channels(step: Step, ctx: Context) -> int:
    weight = ctx.weight(step)[0]  # type: ignore[index]
    return weight.shape[1] if step.op == "conv" else weight.shape[0] // int(step.arguments.get("groups", 1))


def _many(value: int | Sequence[int], rank: int) -> list[int]:
    listed = [value] if isinstance(value, int) else list(value)
    return listed * rank if len(listed) == 1 else listed


def _samples(step: Step) -> int:
    if any(a.kind == "sample" for a in step.points[1:]):
        raise NoRule("a convolution whose sample axis is not the first")
    return math.prod(a.size for a in step.points if a.kind == "sample")


def _spatial(step: Step, rank: int, ctx: Context) -> tuple[list[int], list[int]]:
    shape = ctx.program.nodes[step.arguments["input"].name].meta["val"].shape
    return [int(s) for s in shape[-rank:]], list(step.shape[-rank:])


def _with_samples(site: Tensor, size: int, samples: int) -> Tensor:
    offsets = torch.arange(samples)[:, None, None] * size
    full = torch.where(site[None] >= 0, site[None] + offsets, torch.full_like(site[None], -1))
    return full.reshape(samples * site.shape[0], site.shape[1])
