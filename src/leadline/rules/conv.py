"""Convolutions and their transposes: a dense layer at every site, over the taps that the site sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from leadline.program import Law, Step
from leadline.rules.banded import Banded, band, dense
from leadline.rules.banded_conv import Window, convolve, data_kernel, scatter, window_sum
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_plan import image_grid, input_grid
from leadline.rules.base import NoRule, Rule, Value, rule
from leadline.rules.context import Context
from leadline.rules.dense import bias_moment, biased, doubt, law_error
from leadline.rules.expr import Expr, Source, grid, op
from leadline.rules.fluctuation import known, mixed, passed_on, sampled
from leadline.rules.kernel import Kernel
from leadline.rules.reuse import Use, entered, origin, returned, unfollowed
from leadline.rules.state import Cotangent, Fixed, Noise, State, fresh

__all__ = ["Conv", "ConvTranspose", "taps_of"]

_PAIRED = 512  # sites (of all samples) up to which the seed-to-seed fluctuation is followed from pair to pair
FEW = 16  # channels in a group below which the sum over them is not Gaussian


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
        M, count = self.moment(step, value, law, ctx)
        K = M * (law.C_W / count)
        bias, few = ctx.weight(step, "bias"), _group_channels(step, ctx)
        narrow = few < FEW and not isinstance(value, Fixed)
        if narrow and bias_moment(bias, K) == 0 and not isinstance(K, Banded):
            taps, inner = self.taps(step, ctx), ctx.state(step.arguments["input"]).expr
            seed = ctx.moments.serial(step.name)
            drawn = op(inner, _drawn_taps(taps, law.C_W / taps.shape[-1], few, seed), K.shape[0])
            drawn.memo["second"] = K
            drawn.memo["mean"] = K.new_zeros(K.shape[0])
            unfollowed(drawn, step, ctx)
            return State(drawn, step.points, step.width)
        followed = origin(step, "weight", ctx.program) in ctx.several and image_grid(step, ctx) is None

        def push(use: Use, M: Tensor) -> Tensor:
            return (law.C_W / count) * gather_sum(M, self.taps(use.step, ctx), self.taps(step, ctx))

        def make(ties: Sequence[tuple[Source, Tensor]]) -> Expr:
            return biased(K, bias, ctx, gaussian=few >= FEW, ties=ties)

        expr, several = entered(step, step.arguments["input"], push, make, ctx) if followed else (make([]), False)
        before = None if isinstance(value, Fixed) else ctx.state(step.arguments["input"]).expr
        doubt(expr, before, ctx.weight(step))
        if not followed:
            unfollowed(expr, step, ctx)
        noise = None if several else known(expr, self.noise(step, value, law, count, ctx), ctx)
        return State(expr, step.points, step.width, noise, few >= FEW)

    def noise(self, step: Step, value: Value, law: Law, count: int, ctx: Context) -> Noise | None:
        """Fluctuation of the scale at each site, from those at the sites that its taps see."""
        if isinstance(value, Fixed):
            return Noise({}, sampled=False)
        state = ctx.state(step.arguments["input"])
        found = state.noise
        if found is None or int(step.arguments.get("groups", 1)) > 1 or "orthogonal" in law.kind:
            return None
        if not found.sampled:
            found = sampled(state.expr, state.width, ctx)
        if found is None or not found.parts:
            return passed_on(found, law.C_W)
        if image_grid(step, ctx) is not None:
            return None
        taps = self.taps(step, ctx)
        if max(taps.shape[0], state.expr.size) > _PAIRED:
            return None
        counts = torch.zeros(taps.shape[0], state.expr.size + 1, dtype=ctx.dtype, device=ctx.device)
        places = torch.where(taps < 0, state.expr.size, taps).to(ctx.device)
        counts.scatter_add_(1, places, torch.ones_like(places, dtype=ctx.dtype))
        return passed_on(mixed(found, counts[:, :-1] / count), law.C_W)

    def moment(self, step: Step, value: Value, law: Law, ctx: Context) -> tuple[Kernel, int]:
        """Second moment summed over taps, and their number."""
        pairs = image_grid(step, ctx)
        centre = law.kind == "delta_orthogonal"
        if pairs is not None:
            window = self.window(step, ctx)
            if isinstance(value, Fixed):
                x = ctx.channels(value.value, value.layout).reshape(-1, pairs.samples, *_spatial(step, ctx)[0])
                return data_kernel(x, window, pairs), window.count
            M = ctx.moments.second(ctx.state(step.arguments["input"]).expr)
            inner = input_grid(step, ctx)
            return self.carry(band(M, inner), window, pairs), window.count
        taps = self.taps(step, ctx)
        count = 1 if centre else taps.shape[-1]
        if isinstance(value, Fixed):
            return _data_moment(value, taps, ctx), count
        return gather_sum(dense(ctx.moments.second(ctx.state(step.arguments["input"]).expr)), taps, taps), count

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Every input site collects the output sites that see it."""
        ref = step.arguments["input"]
        if isinstance(ctx.value(ref), Fixed):
            return {}
        law: Law = ctx.weight(step)[1]  # type: ignore[index]
        total, pairs = cotangent.total(ctx.moments), image_grid(step, ctx)
        state = ctx.state(ref)
        if pairs is not None:
            total = band(total, pairs)
            window = self.window(step, ctx)
            back: Kernel = self.carry_back(total * (law.C_W / window.count), window, input_grid(step, ctx))
            return {ref.name: fresh(back if grid(state.expr) is not None else dense(back), law_error(ctx.weight(step)))}
        taps = self.taps(step, ctx)
        count = taps.shape[-1] if law.kind != "delta_orthogonal" else 1
        total = scatter_sum(total * (law.C_W / count), taps, taps, (state.expr.size,) * 2)

        def pull(use: Use, C: Tensor) -> Tensor:
            sizes = (use.input.expr.size, state.expr.size)
            return scatter_sum(C * (law.C_W / count), self.taps(use.step, ctx), taps, sizes)

        return {ref.name: returned(step, cotangent, total, law_error(ctx.weight(step)), pull, ctx)}

    def carry(self, M: Banded, window: Window, out: Grid) -> Banded:
        """Sum over taps on the pairs of a large map."""
        return convolve(M, window, out)

    def carry_back(self, D: Banded, window: Window, into: Grid) -> Banded:
        """The transpose of :meth:`carry`."""
        return scatter(D, window, into)

    def susceptibility(self, step: Step, ctx: Context) -> tuple[float, float] | None:
        """C_W times the share of taps that are not on padding; along the input itself, as its second moment is summed."""
        law: Law = ctx.weight(step)[1]  # type: ignore[index]
        value = ctx.value(step.arguments["input"])
        if isinstance(value, Fixed):
            return None
        K = ctx.moments.diagonal(ctx.values[step.name].expr)  # type: ignore[union-attr]
        M = ctx.moments.diagonal(ctx.state(step.arguments["input"]).expr)
        weighted = K.mean() - bias_moment(ctx.weight(step, "bias"), K)
        return float(weighted / M.mean().clamp_min(1e-300)), law.C_W * self.seen(step, ctx)

    def seen(self, step: Step, ctx: Context) -> float:
        """Share of the taps of all output sites that are inside the image."""
        if image_grid(step, ctx) is None:
            return float((self.taps(step, ctx) >= 0).double().mean())
        sizes, out = _spatial(step, ctx)
        window = self.window(step, ctx)
        ones = torch.ones(1, *sizes, dtype=torch.float64)
        return float(window_sum(ones, window, out).mean()) / window.count

    def window(self, step: Step, ctx: Context) -> Window:
        """Where the taps are."""
        weight, law = ctx.weight(step)  # type: ignore[misc]
        a, rank = step.arguments, weight.dim() - 2
        kernel, padding = weight.shape[2:], a.get("padding", 0)
        dilation = _many(a.get("dilation", 1), rank)
        if isinstance(padding, str):
            padding = (
                [0] * rank if padding == "valid" else [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
            )
        return Window.of(
            kernel,
            _many(a.get("stride", 1), rank),
            _many(padding, rank),
            dilation,
            centre=law.kind == "delta_orthogonal",
        )

    def taps(self, step: Step, ctx: Context) -> Tensor:
        """Input point of each tap of each output point, -1 on padding; shape (P_out, taps), both with sample axes first."""
        key = f"taps:{step.name}"
        if key not in ctx.cache:
            taps = self._taps(step, ctx)
            layout = ctx.program.layouts[step.arguments["input"].name][0]
            points = math.prod(a.size for dim in layout for a in dim if a.kind != "channel")
            if int(taps.max()) >= points:
                raise NoRule("a convolution over an axis of channels")
            ctx.cache[key] = taps
        return ctx.cache[key]

    def _taps(self, step: Step, ctx: Context) -> Tensor:
        sizes, out = _spatial(step, ctx)
        return _with_samples(taps_of(sizes, out, self.window(step, ctx)), math.prod(sizes), _samples(step))


@rule("conv_transpose")
class ConvTranspose(Conv):
    """The same sum with the taps that reach the output site."""

    def carry(self, M: Banded, window: Window, out: Grid) -> Banded:
        """Sum over the taps that reach both sites."""
        return scatter(M, window, out)

    def carry_back(self, D: Banded, window: Window, into: Grid) -> Banded:
        """The convolution itself."""
        return convolve(D, window, into)

    def seen(self, step: Step, ctx: Context) -> float:
        """Share of the taps that reach an output site."""
        if image_grid(step, ctx) is None:
            return super().seen(step, ctx)
        sizes, out = _spatial(step, ctx)
        window = self.window(step, ctx)
        return (
            float(window_sum(torch.ones(1, *out, dtype=torch.float64), window, sizes).sum())
            / window.count
            / math.prod(out)
        )

    def _taps(self, step: Step, ctx: Context) -> Tensor:
        sizes, out = _spatial(step, ctx)
        forward = taps_of(out, sizes, self.window(step, ctx))
        site = torch.full((math.prod(out), forward.shape[1]), -1, dtype=torch.long)
        for tap in range(forward.shape[1]):
            inside = forward[:, tap] >= 0
            site[forward[inside, tap], tap] = torch.arange(forward.shape[0])[inside]
        return _with_samples(site, math.prod(sizes), _samples(step))


def taps_of(sizes: Sequence[int], out: Sequence[int], window: Window) -> Tensor:
    """Flat input site of each tap of each output site, -1 outside; shape (prod(out), taps)."""
    index = torch.zeros(*([1] * (2 * len(out))), dtype=torch.long)
    valid = torch.ones_like(index, dtype=torch.bool)
    for d, (n, m, taps) in enumerate(zip(sizes, out, window.taps, strict=True)):
        at = torch.arange(m)[:, None] * window.stride[d] + torch.tensor(taps)[None, :]
        shape = [1] * (2 * len(out))
        shape[d], shape[len(out) + d] = m, len(taps)
        index = index * n + at.reshape(shape)
        valid = valid & ((at >= 0) & (at < n)).reshape(shape)
    full = torch.where(valid, index, torch.full_like(index, -1))
    return full.expand([*out, *map(len, window.taps)]).reshape(math.prod(out), window.count)


def gather_sum(M: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sum over taps of M at the two points' same tap; shape (rows' P_out, columns' P_out)."""
    padded = torch.nn.functional.pad(M, (0, 1, 0, 1))
    total = M.new_zeros(rows.shape[0], columns.shape[0])
    for tap in range(rows.shape[1]):
        total += padded[rows[:, tap]][:, columns[:, tap]]  # -1 reads the padded zero
    return total


def scatter_sum(D: Tensor, rows: Tensor, columns: Tensor, sizes: tuple[int, int]) -> Tensor:
    """The transpose of :func:`gather_sum`; shape ``sizes``."""
    total = D.new_zeros(sizes[0] + 1, sizes[1] + 1)
    for tap in range(rows.shape[1]):
        i = torch.where(rows[:, tap] < 0, sizes[0], rows[:, tap])
        j = torch.where(columns[:, tap] < 0, sizes[1], columns[:, tap])
        part = D.new_zeros(sizes[0] + 1, D.shape[1]).index_add_(0, i, D)
        total.index_add_(1, j, part)
    return total[: sizes[0], : sizes[1]]


def _data_moment(value: Fixed, taps: Tensor, ctx: Context) -> Tensor:
    x = torch.nn.functional.pad(ctx.channels(value.value, value.layout), (0, 1))
    total = x.new_zeros(taps.shape[0], taps.shape[0])
    for tap in range(taps.shape[1]):
        h = x[:, taps[:, tap]]
        total += h.T @ h / x.shape[0]
    return total


def _drawn_taps(taps: Tensor, variance: float, few: int, seed: int):  # type: ignore[no-untyped-def]
    """Depthwise weights, one set a channel and shared by all sites, on drawn channels."""

    def convolve(h: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
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


def _spatial(step: Step, ctx: Context) -> tuple[list[int], list[int]]:
    shape = ctx.program.nodes[step.arguments["input"].name].meta["val"].shape
    rank = len(step.shape) - 2
    return [int(s) for s in shape[-rank:]], list(step.shape[-rank:])


def _with_samples(site: Tensor, size: int, samples: int) -> Tensor:
    offsets = torch.arange(samples)[:, None, None] * size
    full = torch.where(site[None] >= 0, site[None] + offsets, torch.full_like(site[None], -1))
    return full.reshape(samples * site.shape[0], site.shape[1])
