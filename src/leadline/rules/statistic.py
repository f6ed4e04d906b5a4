"""A statistic over all channels (norm, variance, deviation): a number at each point that a wide layer makes certain."""

from __future__ import annotations

from torch import Tensor

from leadline.program import Step
from leadline.rules.base import NoRule, Rule, rule
from leadline.rules.context import Context
from leadline.rules.state import Cotangent, Fixed, State

__all__ = ["ChannelStatistic"]


@rule("linalg_vector_norm", "var", "std")
class ChannelStatistic(Rule):
    """Norm sqrt(n M), variance M - m^2: what `normalize` and a written-out norm divide by."""

    silent = True

    def forward(self, step: Step, ctx: Context) -> Fixed:
        """The statistic's limit, as a value that does not vary by channel."""
        ref = step.arguments["self"]
        state = ctx.value(ref)
        layout = ctx.program.layouts[ref.name][0]
        dims = step.arguments.get("dim")
        rank = len(layout)
        listed = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        axes = [a for d in listed for a in layout[d % rank]]
        if not isinstance(state, State) or any(a.kind != "channel" for a in axes):
            raise NoRule("a statistic that is not over all channels alone")
        return Fixed(ctx.arrange(self.limit(step, state, ctx)[None], step.layout), step.layout)

    def limit(self, step: Step, state: State, ctx: Context) -> Tensor:
        """The statistic at each point in the wide limit, shape (P,)."""
        M = ctx.moments.diagonal(state.expr)
        if step.op == "linalg_vector_norm":
            if step.arguments.get("ord", 2) not in (2, 2.0, None):
                raise NoRule("a norm that is not Euclidean")
            return (state.width * M).sqrt()
        variance = M - ctx.moments.mean(state.expr).square()
        return variance if step.op == "var" else variance.clamp_min(0).sqrt()

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """One over the width: nothing in the wide limit."""
        return {}
