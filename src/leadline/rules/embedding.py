"""Embedding: one random vector a token (or position)."""

from __future__ import annotations

from leadline.program import Step
from leadline.rules.base import NoRule, Rule, argument, rule
from leadline.rules.context import Context
from leadline.rules.dense import doubt
from leadline.rules.expr import source
from leadline.rules.fluctuation import known
from leadline.rules.reuse import Input, Use
from leadline.rules.state import Cotangent, Fixed, Noise, State

__all__ = ["Embedding"]


@rule("embedding")
class Embedding(Rule):
    """K_pq = sigma^2 where the two points hold the same token, else 0; a zeroed padding row gives 0."""

    def forward(self, step: Step, ctx: Context) -> State:
        """A fresh source with the covariance of equal tokens."""
        indices = ctx.value(argument(step, "indices"))
        if not isinstance(indices, Fixed):
            raise NoRule("an embedding of indices that depend on weights")
        weight, law = ctx.weight(step)  # type: ignore[misc]
        ids = ctx.channels(indices.value, indices.layout)[0]
        if not law.random and law.std > 0:
            raise NoRule("an embedding whose table is not drawn at random")
        same = (ids[:, None] == ids[None, :]).to(ctx.dtype)
        K = law.second_moment * same
        padding = step.arguments.get("padding_idx", -1)
        if padding is not None and padding >= 0 and float(weight[padding].abs().max()) == 0.0:
            keep = (ids != padding).to(ctx.dtype)
            K = K * keep[:, None] * keep[None, :]
        if law.std == 0.0:
            return State(source(K, mean=ctx.full(ids.numel(), law.mean) if law.mean else None), step.points, step.width)
        ties = []
        name = ("embedding", step.arguments["weight"].name)
        for use in ctx.uses.get(name, []):
            C = law.second_moment * (use.input.data[0][:, None] == ids[None, :]).to(ctx.dtype)  # type: ignore[index]
            ties.append((use.source, C * (use.source.second.diagonal() > 0)[:, None] * (K.diagonal() > 0)[None, :]))
        expr = source(K, ties=ties)
        ctx.uses.setdefault(name, []).append(Use(step, Input(expr, ids[None]), expr))
        doubt(expr, None, (weight, law))
        noise = None if ties else known(expr, Noise({}, sampled=False), ctx)
        return State(expr, step.points, step.width, noise, law.kind == "gaussian")

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Nothing random above."""
        return {}
