"""Scaled-dot-product attention: softmax over logits of drawn queries and keys, at the network's own head size."""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable

import torch
from torch import Tensor

from leadline.program import Step
from leadline.rules.attention_loop import Loop
from leadline.rules.attention_mask import heads_of, logit_bias
from leadline.rules.banded import dense
from leadline.rules.base import Rule, rule
from leadline.rules.context import Context
from leadline.rules.cross import cross
from leadline.rules.expr import Source, source
from leadline.rules.reuse import Input, Use
from leadline.rules.state import Cotangent, State, fresh

__all__ = ["Attention"]

_ENTRIES = 2**20  # attention weights drawn in all: many heads for few points


@rule("scaled_dot_product_attention", cites=["vaswani2017attention", "cowsik2024geometric"])
class Attention(Rule):
    """K'_pq = < sum_st A_ps A_qt K^v_st > over drawn heads; values are averaged exactly, queries and keys are drawn."""

    def forward(self, step: Step, ctx: Context) -> State:
        """Mix the values' second moment with drawn attention weights."""
        value = ctx.state(step.arguments["value"])
        A = self.weights(step, ctx)
        mixed = A @ dense(ctx.moments.second(value.expr)).to(A)
        out = _over_heads(mixed.transpose(1, 2), A.transpose(1, 2)).to(ctx.dtype)
        mean = A.mean(0).to(ctx.dtype) @ ctx.moments.mean(value.expr)
        shifted = bool(mean.any())
        looped = ctx.looped(value.expr) and not shifted
        ties = self.ties(step, value, A, ctx) if looped else ()
        expr = source((out + out.T) / 2, mean=mean if shifted else None, gaussian=False, ties=ties)
        if looped:
            ctx.loops |= expr.sources
            ctx.uses.setdefault(_key(value), []).append(Use(step, Input(value.expr), expr))
        spread = ((mixed * A).sum(-1).std(0) / math.sqrt(A.shape[0])).to(ctx.dtype)
        expr.memo["error"] = float((spread / out.diagonal().clamp_min(1e-300)).max())
        return State(expr, step.points, step.width, None, False)

    def ties(self, step: Step, value: State, A: Tensor, ctx: Context) -> list[tuple[Source, Tensor]]:
        """Covariance with what the same weights have made in other steps, on the same drawn heads."""
        found = []
        for use in ctx.uses.get(_key(value), []):
            V, B = cross(ctx.moments, use.input.expr, value.expr).to(A), self.weights(use.step, ctx)
            found.append((use.source, torch.einsum("hps,st,hqt->pq", B, V, A).to(ctx.dtype) / A.shape[0]))
        return found

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Values exactly through the drawn weights; queries and keys by reverse mode on the drawn heads."""
        total = dense(cotangent.total(ctx.moments))
        A = self.weights(step, ctx)
        refs = {k: step.arguments[k] for k in ("query", "key", "value")}
        value = ctx.state(refs["value"])
        loop = Loop.of(ctx.uses.get(_key(value), []), step, cotangent, ctx)
        q, k, v = self.drawn(step, ctx, with_value=True)
        generator = torch.Generator().manual_seed(zlib.crc32(step.name.encode()))
        z = torch.randn(v.shape[0], v.shape[2], total.shape[0], generator=generator, dtype=q.dtype)
        delta = loop.derivative(z.to(q), total).transpose(1, 2)
        back = _over_heads(A, total.to(A) @ A).to(ctx.dtype)
        ties = tuple(
            (use.back.waves["value"], _over_heads(self.weights(use.step, ctx), C.to(A) @ A).to(ctx.dtype))
            for use, C in loop.before
        )
        out = {refs["value"].name: fresh(back, ties=ties)}
        loop.keep("value", out[refs["value"].name].waves[0].key)
        with torch.enable_grad():
            q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
            y = self.attend(step, q, k, ctx) @ v
        grads = torch.autograd.grad(y, (q, k), delta)
        for slot, g in zip(("query", "key"), grads, strict=True):
            ref = refs[slot]
            share = ctx.state(ref).width / value.width
            squared = _over_heads(g.transpose(1, 2), g.transpose(1, 2)).to(ctx.dtype) * (share / g.shape[2])
            per_head = g.square().sum((1, 2))
            drawn = float(per_head.std() / per_head.mean().clamp_min(1e-300)) / math.sqrt(g.shape[0])
            # queries, keys and values read one sample of channels: their Gram matrices fluctuate together, sites / width
            sites = sum(a.size for a in ctx.program.layouts[ref.name][0][-2])
            error = math.hypot(drawn, sites / ctx.state(ref).width)
            passed = fresh(squared, error, ties=loop.tied(slot, g, share / g.shape[2]))
            loop.keep(slot, passed.waves[0].key, g)
            out[ref.name] = Cotangent(out[ref.name].waves + passed.waves) if ref.name in out else passed
        return out

    def weights(self, step: Step, ctx: Context) -> Tensor:
        """Attention weights of drawn heads between all points, shape (heads, P_query, P_key); zero across samples."""
        key = f"attention:{step.name}"
        if key not in ctx.cache:
            q, k, _ = self.drawn(step, ctx, with_value=False)
            ctx.cache[key] = self.attend(step, q, k, ctx)
        return ctx.cache[key]

    def drawn(self, step: Step, ctx: Context, *, with_value: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (and values) of drawn heads, each (heads, P, head size)."""
        out = []
        heads = max(48, min(1024, _ENTRIES // ctx.state(step.arguments["query"]).expr.size ** 2))
        heads = -(-heads // heads_of(step, ctx)) * heads_of(step, ctx)  # each head as often as the others
        for name in ("query", "key", "value"):
            if name == "value" and not with_value:
                out.append(torch.empty(0))
                continue
            state = ctx.state(step.arguments[name])
            size = self._head_size(step.arguments[name].name, ctx)
            h = ctx.drawn_channels(state.expr, heads * size, seed=zlib.crc32(f"{step.name}:{name}".encode()))
            # single precision: the scatter between heads is far above its rounding
            out.append(h.to(torch.float32).reshape(heads, size, -1).transpose(1, 2))
        q, k, v = out
        return q, k, v

    def _head_size(self, name: str, ctx: Context) -> int:
        return math.prod(a.size for a in ctx.program.layouts[name][0][-1])

    def attend(self, step: Step, q: Tensor, k: Tensor, ctx: Context) -> Tensor:
        """Softmax of masked logits; points of other samples are never attended to."""
        scale = step.arguments.get("scale")
        scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
        logits = scale * q @ k.transpose(1, 2)
        cap = step.arguments.get("cap")
        if cap is not None:
            logits = cap * logits.tanh()
        bias = self.mask(step, ctx)
        if bias.shape[0] > 1:  # the drawn heads take the biases in turn
            bias = bias[torch.arange(logits.shape[0]) % bias.shape[0]]
        return (logits + bias).softmax(-1)

    def mask(self, step: Step, ctx: Context) -> Tensor:
        """What is added to the logits, shape (1 or heads, P_query, P_key)."""
        key = f"mask:{step.name}"
        if key not in ctx.cache:
            ctx.cache[key] = logit_bias(step, ctx)
        return ctx.cache[key]


def _key(value: State) -> tuple[str, frozenset[Hashable]]:
    """Name among the uses of weights of all attention over one layer's values."""
    return ("attention", value.expr.sources)


def _over_heads(one: Tensor, two: Tensor) -> Tensor:
    """Mean over heads of one^T two, for stacks (heads, n, P), as one product."""
    return torch.einsum("hnp,hnq->pq", one, two) / one.shape[0]
