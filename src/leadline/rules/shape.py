"""Views, transpositions, slices, concatenations: the same channels at the same or other points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from leadline.program import Ref, Step
from leadline.rules.banded_move import move_map, moved, moved_back
from leadline.rules.banded_plan import image_grid
from leadline.rules.banded_sites import SiteMap
from leadline.rules.base import NoRule, Rule, Value, argument, rule
from leadline.rules.context import Context, alignment
from leadline.rules.expr import Expr, cat, gather, grid, lin, rename
from leadline.rules.fluctuation import sampled
from leadline.rules.state import Cotangent, Noise, State, Wave, fresh

__all__ = ["Concatenate", "Move", "Rearrange"]


@rule(
    "reshape",
    "transpose",
    "permute",
    "t",
    "unsqueeze",
    "squeeze",
    "clone",
    "alias",
    "contiguous",
    "detach",
    "_to_copy",
    "to",
    "flatten",
    "unflatten",
    "lift_fresh_copy",
    "expand",
    "type_as",
)
class Rearrange(Rule):
    """The same values under other axes: nothing changes but the order of the points."""

    silent = True

    def forward(self, step: Step, ctx: Context) -> Value:
        """Reorder points; an expansion repeats them."""
        value = ctx.value(argument(step, "self", "input"))
        state = value if isinstance(value, State) else ctx.state(argument(step, "self", "input"))
        expr = ctx.aligned(state, step.points)
        same = expr is state.expr
        return State(expr, step.points, step.width, state.noise if same else None, state.exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Reorder back; repeated points add up."""
        ref = argument(step, "self", "input")
        state = ctx.state(ref)
        index = alignment(state.points, step.points)
        if index is None:
            raise NoRule("a view that drops a site axis")
        return {ref.name: cotangent.scatter(index.to(ctx.device), state.expr.size, ctx.moments)}


@rule(
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "getitem",
    "flip",
    "roll",
    "pad",
    "constant_pad_nd",
    "index_select",
    "narrow",
)
class Move(Rule):
    """Some points or some channels of a value, found by moving the points' own numbers through the operator.

    Other channels of one layer are independent copies: each slice of channels gets sources of its own.
    """

    silent = True

    def forward(self, step: Step, ctx: Context) -> list[State] | State:
        """Gather points; rename sources where only some channels are taken."""
        if step.op == "getitem":
            raise NoRule("tuple access is resolved by the engine")
        ref = argument(step, "self", "input")
        state = ctx.state(ref)
        outs = []
        for number, (index, tag) in enumerate(self.moves(step, ctx)):
            sites = self.sites(step, index, state, ctx)
            expr = gather(state.expr, index) if sites is None else moved(state.expr, sites, ctx.moments)
            expr = rename(expr, tag) if tag is not None else expr
            layout = step.layouts[number]
            points = tuple(a for dim in layout for a in dim if a.kind != "channel")
            width = math.prod(a.size for dim in layout for a in dim if a.kind == "channel")
            outs.append(
                State(expr, points, width, _noise(state, gather(state.expr, index), expr, width, ctx), state.exact)
            )
        return outs if len(step.layouts) > 1 or isinstance(step.node.meta["val"], (list, tuple)) else outs[0]

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Put the derivative back where the values came from; other channels have their own."""
        ref = argument(step, "self", "input")
        state = ctx.state(ref)
        part = ctx.part  # which output the cotangent belongs to
        index, tag = self.moves(step, ctx)[part]
        sites = self.sites(step, index, state, ctx)
        if sites is not None:
            return {ref.name: moved_back(cotangent, sites, ctx.moments)}
        if tag is not None and any(w.factor is not None for w in cotangent.waves):
            cotangent = fresh(cotangent.total(ctx.moments))
        return {ref.name: cotangent.scatter(index, state.expr.size, ctx.moments)}

    def sites(self, step: Step, index: Tensor, state: State, ctx: Context) -> SiteMap | None:
        """The map between the sites of large images; None where a matrix over points will do, or nothing moves."""
        inner = grid(state.expr)
        if inner is None or torch.equal(index, torch.arange(state.expr.size, device=index.device)):
            return None
        key = f"sites:{step.name}"
        if key not in ctx.cache:
            target = image_grid(step, ctx)
            if target is None or len(step.layouts) > 1:
                raise NoRule(f"{step.op} of an image of {inner.sites} pixels")
            ctx.cache[key] = move_map(index, inner, target)
        return ctx.cache[key]

    def moves(self, step: Step, ctx: Context) -> list[tuple[Tensor, object]]:
        """For each output: the input point of each point (-1 for padding), and a tag where channels were cut."""
        key = f"moves:{step.name}"
        if key not in ctx.cache:
            ctx.cache[key] = self._moves(step, ctx)
        return ctx.cache[key]

    def _moves(self, step: Step, ctx: Context) -> list[tuple[Tensor, object]]:
        ref = argument(step, "self", "input")
        layout = ctx.program.layouts[ref.name][0]
        if step.op in ("pad", "constant_pad_nd") and step.arguments.get("value") not in (None, 0, 0.0):
            raise NoRule("padding with a value other than zero")
        axes = [a for dim in layout for a in dim]
        channels = math.prod(a.size for a in axes if a.kind == "channel")
        points = math.prod(a.size for a in axes if a.kind != "channel")
        # one operand carries the number of the point, the other that of the channel; +1 so that padding reads 0
        point = ctx.arrange((torch.arange(points, dtype=torch.float64) + 1).expand(channels, points), layout)
        channel = ctx.arrange(
            (torch.arange(channels, dtype=torch.float64) + 1)[:, None].expand(channels, points), layout
        )
        schema = step.node.target._schema.arguments  # type: ignore[union-attr]
        results = []
        for operand in (point, channel):
            given = {
                k: (operand if isinstance(v, Ref) and v.name == ref.name else v) for k, v in step.arguments.items()
            }
            out = step.node.target(
                *[given[a.name] for a in schema if not a.kwarg_only],  # type: ignore[operator]
                **{a.name: given[a.name] for a in schema if a.kwarg_only and a.name in given},
            )
            results.append(out if isinstance(out, (tuple, list)) else [out])
        moves: list[tuple[Tensor, object]] = []
        for number, (p, c) in enumerate(zip(*results, strict=True)):
            where = ctx.channels(p, step.layouts[number])
            which = ctx.channels(c, step.layouts[number])
            if not bool((where == where[:1]).all()):
                raise NoRule("a move that is not the same for all channels")
            numbers = which.amax(1).long().tolist()
            tag = (
                None if numbers == list(range(1, channels + 1)) else ("channels", numbers[0], numbers[-1], len(numbers))
            )
            moves.append(((where[0].round().long() - 1).to(ctx.device), tag))
        return moves


@rule("cat", "stack")
class Concatenate(Rule):
    """Along channels: the second moment is the mean over parts, by their widths. Along sites: the parts' points in turn."""

    silent = True

    def forward(self, step: Step, ctx: Context) -> State:
        """Lay expressions side by side or one after another."""
        states = [ctx.state(ref) for ref in step.arguments["tensors"]]
        exact = all(s.exact for s in states)
        if self.by_channel(step, ctx):
            parts = [(s.width / step.width, ctx.aligned(s, step.points)) for s in states]
            return State(cat(parts), step.points, step.width, None, exact)
        terms: list[tuple[float | Tensor, Expr]] = []
        for number, s in enumerate(states):
            terms.append((1.0, gather(s.expr, self.index(step, number, ctx))))
        return State(lin(terms), step.points, step.width, None, exact)

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Each part gets its share."""
        out: dict[str, Cotangent] = {}
        for number, ref in enumerate(step.arguments["tensors"]):
            if not isinstance(ctx.values.get(ref.name), State):
                continue
            state = ctx.state(ref)
            if self.by_channel(step, ctx):
                share = state.width / step.width
                # other channels have their own derivatives: two parts that are functions of one value do not interfere
                waves = [Wave((w.key, number), w.squared * share, w.factor, w.error) for w in cotangent.waves]
                index = alignment(state.points, step.points)
                part = _part(waves, number, len(step.arguments["tensors"]), ctx)
                passed = part.scatter(index.to(ctx.device), state.expr.size, ctx.moments)  # type: ignore[union-attr]
            else:
                passed = cotangent.scatter(self.index(step, number, ctx), state.expr.size, ctx.moments)
            out[ref.name] = passed
        return out

    def by_channel(self, step: Step, ctx: Context) -> bool:
        """Whether the parts are joined along a channel axis."""
        if step.op == "stack":
            return False
        dim = step.arguments.get("dim", 0)
        return any(a.kind == "channel" for a in step.layout[dim])

    def index(self, step: Step, number: int, ctx: Context) -> Tensor:
        """For each point of the result, the point of one part, -1 where it comes from another part."""
        refs: Sequence[Ref] = step.arguments["tensors"]
        tensors = []
        for i, ref in enumerate(refs):
            layout = ctx.program.layouts[ref.name][0]
            axes = [a for d in layout for a in d]
            channels = math.prod(a.size for a in axes if a.kind == "channel")
            points = math.prod(a.size for a in axes if a.kind != "channel")
            numbers = (
                torch.arange(points, dtype=torch.float64)
                if i == number
                else torch.full((points,), -1.0, dtype=torch.float64)
            )
            tensors.append(ctx.arrange(numbers.expand(channels, points), layout))
        joined = step.node.target(tensors, step.arguments.get("dim", 0))  # type: ignore[operator]
        return ctx.channels(joined, step.layout)[0].long().to(ctx.device)


def _part(waves: list[Wave], number: int, count: int, ctx: Context) -> Cotangent:
    """The waves as one part of the channels sees them."""
    from leadline.rules.expr import Cat

    out = []
    for w in waves:
        factor = w.factor
        if isinstance(factor, Cat):
            if len(factor.parts) != count:
                return fresh(Cotangent(waves).total(ctx.moments))
            factor = factor.parts[number][1]
        out.append(Wave(w.key, w.squared, factor, w.error))
    return Cotangent(out)


def _noise(state: State, moved: Expr, expr: Expr, width: int, ctx: Context) -> Noise | None:
    """Fluctuation of some channels: a layer's law is that of every part; what was sampled is sampled anew."""
    if state.noise is None or moved is not state.expr:
        return None
    return state.noise if not state.noise.sampled or width == state.width else sampled(expr, width, ctx)
