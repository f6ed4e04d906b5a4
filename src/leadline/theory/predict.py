"""Prediction of a Program: one forward pass of the rules over its steps, one adjoint pass back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from leadline.program import Program, Step
from leadline.rules import RULES, Context, Cotangent, Fixed, Moments, NoRule, Rule, State, rule_for
from leadline.rules.banded import Banded
from leadline.rules.banded_offsets import Images
from leadline.rules.expr import grid
from leadline.rules.fallback import Drawn
from leadline.rules.kernel import identity
from leadline.rules.state import collapse, fresh, merge
from leadline.theory.quantities import describe
from leadline.theory.rows import Row
from leadline.theory.steps import chains

__all__ = ["Prediction", "predict"]

Progress = Callable[[int, int], None]


@dataclass
class Prediction:
    """Rows of predicted quantities, one a step, and the kernels behind them.

    ``rows``: steps that only rearrange values have none. ``drawn``: names of steps without a rule, taken by Monte Carlo.
    """

    program: Program = field(repr=False)
    rows: list[Row]
    drawn: dict[str, str]
    context: Context = field(repr=False)

    def kernel(self, step: str) -> Tensor | Banded:
        """Second moment of a step's value over its channels, shape (points, points)."""
        state = self.context.values[step]
        if not isinstance(state, State):
            raise KeyError(f"{step} is not a random value; the steps are those of `prediction.rows`.")
        return self.context.moments.second(state.expr)

    def output_kernel(self) -> Tensor:
        """Second moment of the output per unit between inputs, averaged over equal sites; shape (inputs, inputs)."""
        state = self.context.state(_Name(self.program.output))
        K = self.context.moments.second(state.expr)
        if isinstance(K, Banded):
            return K.select().mean(0)
        sites = [a for a in state.points if a.kind != "sample"]
        if not sites:
            return K
        order = [i for i, a in enumerate(state.points) if a.kind == "sample"]
        order += [i for i, a in enumerate(state.points) if a.kind != "sample"]
        index = torch.arange(state.expr.size).reshape([a.size for a in state.points]).permute(order)
        count = 1
        for a in sites:
            count *= a.size
        index = index.reshape(-1, count)
        return torch.stack([K[index[:, s]][:, index[:, s]] for s in range(count)]).mean(0)

    def row(self, step: str) -> Row:
        """The row of a step, by the step's name or its layer's."""
        for row in self.rows:
            if row.step == step or row.layer == step:
                return row
        raise KeyError(f"no row for {step!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Rows as plain numbers; a quantity that does not exist is None."""
        from leadline.theory.rows import QUANTITIES

        rows = [{"layer": r.layer, "op": r.op, **{q.name: r.get(q.name) for q in QUANTITIES}} for r in self.rows]
        return {"rows": rows, "drawn": dict(self.drawn)}


@dataclass(frozen=True)
class _Name:
    name: str


def predict(
    program: Program,
    x: Any = None,
    *,
    seed: int = 0,
    budget: int = 2**20,
    images: Images | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Predict every step of a Program from the laws of its weights.

    Args:
        program: from :func:`leadline.trace`.
        x: not needed (the Program holds the batch that it was traced with); accepted for symmetry with ``measure``.
        seed: of the draws that some expectations take.
        budget: draws times points of one such expectation.
        images: how many pairs of sites of a large image are carried.
        progress: called with (steps done, steps in all).

    Returns:
        The prediction, one row a step.

    Raises:
        ValueError: the batch is not the one that the Program was traced with.
    """
    size = max((_size(step) for step in program.steps), default=1)
    dtype = torch.float64 if size <= 512 else torch.float32
    device = next((p.device for p in program.model.parameters()), torch.device("cpu"))
    if device.type == "mps":
        dtype = torch.float32  # no float64 there
    ctx = Context(program, Moments(seed=seed, budget=budget), dtype=dtype, device=device, images=images or Images())
    total = 2 * len(program.steps)
    drawn: dict[str, str] = {}
    origins = chains(program)
    for number, step in enumerate(program.steps):
        _forward(step, ctx, drawn, origins)
        if progress is not None:
            progress(number + 1, total)
    cotangents = _backward(program, ctx, drawn, progress)
    rows = [
        describe(step, ctx, cotangents.get(step.name), step.name in drawn)
        for step in program.steps
        if not _silent(step) and isinstance(ctx.values.get(step.name), State)
    ]
    return Prediction(program, [r for r in rows if r is not None], drawn, ctx)


def _size(step: Step) -> int:
    total = 1
    for a in step.points:
        total *= a.size
    return total


def _silent(step: Step) -> bool:
    rule = rule_for(step)
    return step.op == "getitem" or (rule is not None and rule.silent)


def _forward(step: Step, ctx: Context, drawn: dict[str, str], origins: Mapping[str, str | None]) -> None:
    if step.op == "getitem":
        source, index = step.arguments["0"].name, step.arguments["1"]
        ctx.values[step.name] = ctx.parts[source][index]
        if source in ctx.chain:
            ctx.chain[step.name] = ctx.chain[source]
        return
    rule = RULES.get(step.op)
    if _certain(step, ctx):
        ctx.values[step.name] = Fixed(Drawn().run(step, ctx, 0)[0], step.layout)
        return
    try:
        if rule is None:
            raise NoRule("no rule for this operator")
        value: Any = rule.forward(step, ctx)
    except NoRule as reason:
        if step.name in ctx.program.weight_side:
            return  # a weight on its way to an operator without a rule, which will draw it
        drawn[step.name] = str(reason)
        value = Drawn().forward(step, ctx)
        value = value if isinstance(step.node.meta["val"], (tuple, list)) else value[0]
    if isinstance(value, list):
        ctx.parts[step.name] = value
        ctx.values[step.name] = value[0]
    else:
        ctx.values[step.name] = value
    _track(step, ctx, None if step.name in drawn else rule, origins)


def _certain(step: Step, ctx: Context) -> bool:
    """Whether all that a step reads is fixed (a statistic of a wide layer, and constants): it is then just computed."""
    if step.weighted or step.node.op != "call_function" or step.op in ("pointwise", "dropout") or len(step.shapes) > 1:
        return False
    if any(n in ctx.program.weight_side for n in step.inputs):
        return False
    return (
        all(isinstance(ctx.values.get(n), Fixed) or n in ctx.program.constants for n in step.inputs)
        and len(step.members) == 1
    )


def _track(step: Step, ctx: Context, rule: Rule | None, origins: Mapping[str, str | None]) -> None:
    """Product of susceptibilities since the last layer (or sum, or gate) that the step's value comes from."""
    random = [
        n
        for n in step.inputs
        if n in ctx.values and isinstance(ctx.values[n], State) and n not in ctx.program.weight_side
    ]
    followed = origins.get(step.name) is not None
    start = ctx.chain.get(random[0]) if len(random) == 1 and followed else None
    ctx.chain[step.name] = (1.0, 1.0)
    if start is None:
        return
    local = rule.susceptibility(step, ctx) if rule is not None else None
    if local is None:
        return
    chi = (start[0] * local[0], start[1] * local[1])
    if not (rule is not None and rule.silent):
        ctx.susceptibility[step.name] = chi
    if not step.weighted:
        ctx.chain[step.name] = chi


def _backward(program: Program, ctx: Context, drawn: dict[str, str], progress: Progress | None) -> dict[str, Cotangent]:
    """Derivative of the output (averaged over its units and points) with respect to each step's value."""
    output = ctx.values[program.output]
    if not isinstance(output, State):
        return {}
    P = output.expr.size
    start = identity(P, ctx.full(1, 0.0), grid(output.expr)) * (1 / P)
    arriving: dict[tuple[str, int], list[Cotangent]] = {(program.output, 0): [fresh(start)]}
    found: dict[str, Cotangent] = {}
    for number, step in enumerate(reversed(program.steps)):
        parts = sorted(i for name, i in arriving if name == step.name)
        for part in parts:
            cotangent = merge(arriving.pop((step.name, part)))
            elsewhere = {w.key for cs in arriving.values() for c in cs for w in c.waves}
            tied = {key for uses in ctx.uses.values() for use in uses for key in use.waves()}
            cotangent = collapse(cotangent, elsewhere | tied)
            if part == 0:
                found[step.name] = cotangent
            if step.op == "getitem":
                arriving.setdefault((step.arguments["0"].name, step.arguments["1"]), []).append(cotangent)
                continue
            ctx.part = part
            for name, passed in _adjoint(step, cotangent, ctx, drawn).items():
                arriving.setdefault((name, 0), []).append(passed.inherit(cotangent))
        if progress is not None:
            progress(len(program.steps) + number + 1, 2 * len(program.steps))
    return found


def _adjoint(step: Step, cotangent: Cotangent, ctx: Context, drawn: dict[str, str]) -> dict[str, Cotangent]:
    if not isinstance(ctx.values.get(step.name), State):
        return {}
    if step.name not in drawn:
        if step.op not in RULES:
            return {}  # a parameter on its way, that was taken as a value where it is used
        try:
            return RULES[step.op].adjoint(step, cotangent, ctx)
        except NoRule as reason:
            drawn[step.name] = str(reason)
    return Drawn().adjoint(step, cotangent, ctx)
