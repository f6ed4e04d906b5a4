"""Dense layer z = W h + b, with W_ij ~ (0, C_W / fan_in) and b_i ~ (0, C_b)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from leadline.program import Law, Step
from leadline.rules.banded import dense
from leadline.rules.base import NoRule, Rule, argument, rule
from leadline.rules.context import Context
from leadline.rules.expr import Expr, Source, gaussian, grid, lin, mix, source
from leadline.rules.fluctuation import averaged, known, passed_on, sampled
from leadline.rules.kernel import Kernel, mean_over_groups, spread_over_groups
from leadline.rules.moments import relative_error
from leadline.rules.reuse import Use, entered, given_back, gone_back, origin, returned, unfollowed
from leadline.rules.state import Cotangent, Fixed, Noise, State, merge

__all__ = ["Dense", "bias_moment", "biased", "doubt", "fresh_noise", "law_error"]


@rule("linear", cites=["roberts2022principles"])
class Dense(Rule):
    """K' = C_b + C_W M, with M the second moment of the input over all its channels (and sites, where those are flattened)."""

    def forward(self, step: Step, ctx: Context) -> State:
        """A fresh Gaussian source at every point."""
        weight = ctx.weight(step)
        law = weight[1]  # type: ignore[index]
        state = ctx.state(argument(step, "input"))
        M, index = input_moment(step, state, ctx)
        K = law.C_W * M
        tied = tied_moment(step, state, law, ctx) if index is None else None
        K = K if tied is None else K + tied
        # an orthogonal layer keeps the sample's scale, so the fluctuation of independent weights is not its own
        independent = tied is None and "orthogonal" not in law.kind
        noise = fresh_noise(step, state, ctx, law.C_W, index) if independent else None
        bias = ctx.weight(step, "bias")
        name = origin(step, "weight", ctx.program)
        again = given_back(transposed(name, ctx), state.expr, law.C_W, ctx.moments)
        if again is not None and index is not None:
            raise NoRule("its weight is an earlier step's, transposed, and sites are flattened between them")
        followed = name in ctx.several and grid(state.expr) is None

        def push(use: Use, M: Tensor) -> Tensor:
            return law.C_W * across_groups(M, _flattened(use.step, ctx), index)

        def make(ties: Sequence[tuple[Source, Tensor]]) -> Expr:
            return biased(K, bias, ctx, ties=ties)

        expr, several = (
            entered(step, argument(step, "input"), push if tied is None else None, make, ctx)
            if followed
            else (make([]), False)
        )
        noise = None if several or again is not None else noise
        if again is not None:
            expr = lin([(1.0, expr), (1.0, mix(again[1], again[0]))])
        doubt(expr, state.expr, weight)
        if not followed:
            unfollowed(expr, step, ctx)
        fourth = fourth_of_data(step, ctx, weight, bias, K.diagonal())  # type: ignore[arg-type]
        if fourth is not None and isinstance(expr, Source):
            expr.memo["fourth"] = fourth
        return State(expr, step.points, step.width, known(expr, noise, ctx))

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Squared derivative, summed over channels, times C_W."""
        ref = argument(step, "input")
        value = ctx.value(ref)
        if isinstance(value, Fixed):
            return {}
        law = ctx.weight(step)[1]  # type: ignore[index]
        state = ctx.state(ref)
        total = law.C_W * cotangent.total(ctx.moments)
        groups = flattening(step, state)
        if groups is not None:
            # a site's channels are their own inputs: derivatives at two sites are independent
            total = spread_over_groups(total, groups, state.expr.size, grid(state.expr))

        def pull(use: Use, C: Tensor) -> Tensor:
            rows = _flattened(use.step, ctx)
            return law.C_W * (C if groups is None or rows is None else spread_across(C, rows, groups))

        out = returned(step, cotangent, total, law_error(ctx.weight(step)), pull, ctx)
        twins = transposed(origin(step, "weight", ctx.program), ctx)
        fan = step.width if not twins else ctx.weight(twins[0].step)[1].fan_in  # type: ignore[index]
        more = gone_back(twins, cotangent, fan * law.second_moment, ctx.moments)
        return {ref.name: merge([out, Cotangent(more)]) if more else out}

    def susceptibility(self, step: Step, ctx: Context) -> tuple[float, float] | None:
        """C_W for both: the layer is linear."""
        law = ctx.weight(step)[1]  # type: ignore[index]
        return law.C_W, law.C_W


def transposed(name: tuple[str, int] | None, ctx: Context) -> list[Use]:
    """Uses of a weight the other way round."""
    return [] if name is None else ctx.uses.get((name[0], 1 - name[1]), [])


def input_moment(step: Step, state: State, ctx: Context) -> tuple[Kernel, Tensor | None]:
    """Second moment of a dense layer's input at the layer's points; sites flattened into channels are averaged over."""
    groups = flattening(step, state)
    if groups is None:
        return ctx.moments.second(ctx.aligned(state, step.points)), None
    return mean_over_groups(ctx.moments.second(state.expr), groups), groups


def tied_moment(step: Step, state: State, law: Law, ctx: Context) -> Tensor | None:
    """What a head adds whose weight is also the embedding of its own input.

    The unit of a token that is in the batch has the mean fan_in <h e>, with e that token's embedding; averaged over units
    the squares of these means add to the second moment.

    Returns:
        The addition, shape (P, P); None where the weight is not an embedding's too.
    """
    ref = step.arguments["weight"]
    twins = [
        s for s in ctx.program.steps if s.op == "embedding" and s.arguments["weight"] == ref and s.name in ctx.values
    ]
    if not twins:
        return None
    embedded = ctx.values[twins[0].name]
    ids = ctx.value(argument(twins[0], "indices"))
    expr = ctx.aligned(state, step.points)
    if (
        not isinstance(embedded, State)
        or not isinstance(ids, Fixed)
        or not gaussian(expr)
        or not gaussian(embedded.expr)
    ):
        return None
    tokens = ids.value.reshape(-1).tolist()
    first = torch.tensor([tokens.index(t) for t in sorted(set(tokens))], device=ctx.device)
    means = law.fan_in * dense(ctx.moments.covariance(expr, embedded.expr))[:, first]
    return means @ means.T / step.width


def across_groups(M: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """A matrix over two sets of points, averaged over equal sites where both layers flatten them."""
    if rows is None or columns is None:
        return M
    return torch.stack([M[i][:, j] for i, j in zip(rows.T, columns.T, strict=True)]).mean(0)


def spread_across(C: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The transpose of :func:`across_groups`."""
    out = C.new_zeros(rows.numel(), columns.numel())
    for i, j in zip(rows.T, columns.T, strict=True):
        out[i[:, None], j[None, :]] = C / rows.shape[1]
    return out


def _flattened(step: Step, ctx: Context) -> Tensor | None:
    return flattening(step, ctx.state(argument(step, "input")))


def flattening(step: Step, state: State) -> Tensor | None:
    """Point indices (layer's points, flattened sites) where the layer contracts site axes; None where it contracts none."""
    kept = {a.serial for a in step.points}
    gone = [a for a in state.points if a.serial not in kept]
    if not gone:
        return None
    sizes = [a.size for a in state.points]
    index = torch.arange(state.expr.size).reshape(sizes)
    order = [i for i, a in enumerate(state.points) if a.serial in kept]
    order += [i for i, a in enumerate(state.points) if a.serial not in kept]
    rows = 1
    for a in step.points:
        rows *= a.size
    return index.permute(order).reshape(rows, -1)


def biased(
    K: Tensor,
    bias: tuple[Tensor, Law] | None,
    ctx: Context,
    *,
    gaussian: bool = True,
    ties: Sequence[tuple[Source, Tensor]] = (),
) -> Expr:
    """A fresh source with the bias: its variance joins the kernel, its mean over units is an offset."""
    if bias is None:
        return source(K, gaussian=gaussian, ties=ties)
    mean, second = bias[1].mean, bias[1].second_moment
    fresh_source = source(K + (second - mean**2), gaussian=gaussian, ties=ties)
    return fresh_source if mean == 0.0 else lin([(1.0, fresh_source)], ctx.full(K.shape[0], mean))


def law_error(weight: tuple[Tensor, Law] | None) -> float:
    """Relative standard error of a second moment that was read from a finite number of entries; zero where it is stated."""
    if weight is None or weight[1].stated or not weight[1].random:
        return 0.0
    excess = 0.8 if weight[1].kind == "uniform" else 2.0  # kurtosis less one
    return (excess / weight[0].numel()) ** 0.5


def doubt(expr: Expr, before: Expr | None, weight: tuple[Tensor, Law] | None) -> None:
    """Note what a fresh kernel takes over from the value before: its error by draws, and how well the laws are known."""
    known = 0.0 if before is None else relative_error(before, "law")
    expr.memo["law"] = math.hypot(known, law_error(weight))
    for kind in ("error", "pair"):
        expr.memo[kind] = 0.0 if before is None else relative_error(before, kind)


def bias_moment(bias: tuple[Tensor, Law] | None, like: Tensor) -> Tensor:
    """Second moment that a bias adds: its variance and the square of its mean over units."""
    return like.new_tensor(0.0 if bias is None else bias[1].second_moment)


def fresh_noise(step: Step, state: State, ctx: Context, C_W: float, groups: Tensor | None = None) -> Noise | None:
    """Fluctuation of the scale of a layer's law, from that of its input; sites flattened into channels are averaged over."""
    noise = state.noise
    if noise is None or (groups is None and ctx.aligned(state, step.points) is not state.expr):
        return None
    if not noise.sampled:
        # a source fed straight on: its own finite sample of channels counts too
        noise = sampled(state.expr, state.width, ctx)
    return passed_on(noise if groups is None else averaged(noise, groups), C_W)


def fourth_of_data(
    step: Step, ctx: Context, weight: tuple[Tensor, Law], bias: tuple[Tensor, Law] | None, like: Tensor
) -> Tensor | None:
    """Fourth cumulant of a first layer's values, whose few uniform weights do not make a Gaussian (P,)."""
    value = ctx.value(argument(step, "input"))
    laws = [weight[1]] + ([] if bias is None else [bias[1]])
    if not isinstance(value, Fixed) or not any(law.kind == "uniform" for law in laws):
        return None
    x = ctx.channels(value.value, value.layout)
    if x.shape[1] != like.numel():
        return None
    total = torch.zeros_like(like)
    if laws[0].kind == "uniform":
        total = total - 1.2 * laws[0].std ** 4 * x.pow(4).sum(0)
    if len(laws) > 1 and laws[1].kind == "uniform":
        total = total - 1.2 * laws[1].std ** 4
    return total
