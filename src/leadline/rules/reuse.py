r"""Weights that several steps use: looped blocks, twin branches.

One weight makes of two inputs two Gaussians with a joint law, forward and (as if with another weight) backward:

.. math:: \langle z_p z'_q \rangle = C_b + C_W \langle h_p h'_q \rangle, \qquad
    \langle \beta_p \beta'_q \rangle = C_W \langle \delta_p \delta'_q \rangle

so that what a residual stream collects from one block used L times adds as amplitudes, not as squares. That backward weights
may be taken as independent of forward ones needs an output layer of its own: Yang (2020), Tensor programs II.

A weight W that comes back transposed gives its own input again, beside a fresh Gaussian:

.. math:: W^T y = \mathrm{fresh} + C_W \sum_q \Big\langle\frac{\partial y_p}{\partial z_q}\Big\rangle h_q, \qquad z = W h + b
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from leadline.program import Program, Step
from leadline.rules.banded import dense
from leadline.rules.cross import cross
from leadline.rules.expr import Expr, Lin, NoRule, Source, grid
from leadline.rules.kernel import Kernel
from leadline.rules.moments import Moments
from leadline.rules.sampling import regression
from leadline.rules.state import Cotangent, Fixed, Wave, fresh

if TYPE_CHECKING:
    from leadline.rules.context import Context

__all__ = [
    "PLAIN",
    "Input",
    "Use",
    "behind",
    "entered",
    "given_back",
    "gone_back",
    "origin",
    "returned",
    "unfollowed",
    "weights_in_several_steps",
]


@dataclass(frozen=True)
class Input:
    """What a weight is used on: ``expr``, and where it is data its channels ``data`` (n, P)."""

    expr: Expr
    data: Tensor | None = None

    @classmethod
    def of(cls, ref: Any, ctx: Context) -> Input:
        """An operand as it is on the way forward."""
        value = ctx.value(ref)
        return cls(ctx.state(ref).expr, ctx.channels(value.value, value.layout) if isinstance(value, Fixed) else None)

    def second(self, other: Input, moments: Moments) -> Tensor:
        """<h_p h'_q> with another input."""
        if self.data is not None and other.data is not None:
            return self.data.T @ other.data / self.data.shape[0]
        return cross(moments, self.expr, other.expr)


@dataclass
class Use:
    """One step that uses a weight: its input, its source forward, and what came back.

    ``cotangent``: derivative with respect to the step's value. ``wave``: key of the backward source that it was made into.
    ``back``: what else a rule keeps of the way back.
    """

    step: Step
    input: Input
    source: Source
    cotangent: Cotangent | None = None
    wave: Hashable = None
    back: Any = None

    def waves(self) -> set[Hashable]:
        """Keys of the backward sources that later ties will name."""
        made = {w.key for w in self.cotangent.waves} if self.cotangent is not None else set()
        return made | {self.wave, *(self.back.waves.values() if self.back is not None else ())}


def entered(
    step: Step,
    ref: Any,
    push: Callable[[Use, Tensor], Tensor] | None,
    make: Callable[[list[tuple[Source, Tensor]]], Expr],
    ctx: Context,
) -> tuple[Expr, bool]:
    """The value that a layer makes with a weight that others use too, tied to what it has made of their inputs.

    Args:
        step: the layer.
        ref: its input.
        push: from <h_p h'_q> of an earlier use's input and this one to the covariance of their values, without the bias;
            None: the values are taken as independent.
        make: the value, given its ties.
        ctx: of the pass.

    Returns:
        The value, and whether it has ties.
    """
    here, bias = Input.of(ref, ctx), ctx.weight(step, "bias")
    uses = ctx.uses.setdefault(origin(step, "weight", ctx.program), [])
    ties = []
    for use in uses:
        if push is None:
            break
        C = push(use, use.input.second(here, ctx.moments))
        if bias is not None and origin(step, "bias", ctx.program) == origin(use.step, "bias", ctx.program):
            C = C + (bias[1].second_moment - bias[1].mean ** 2)
        ties.append((use.source, C))
    expr = make(ties)
    if (made := source_of(expr)) is not None:
        uses.append(Use(step, here, made))
        ctx.loops |= made.sources
    return expr, bool(ties)


def unfollowed(expr: Expr, step: Step, ctx: Context) -> None:
    """State that a value may be off altogether: its weight is another step's too, and was taken as independent."""
    if origin(step, "weight", ctx.program) in ctx.several:
        expr.memo["error"] = 1.0


def returned(
    step: Step,
    cotangent: Cotangent,
    total: Kernel,
    error: float,
    pull: Callable[[Use, Tensor], Tensor],
    ctx: Context,
) -> Cotangent:
    """The backward source that a layer makes of a derivative, tied to those that the same weight made of others.

    Args:
        step: the layer.
        cotangent: derivative with respect to its value.
        total: covariance of the source.
        error: relative standard error of that.
        pull: from the covariance of an earlier use's derivative with this one to that of their sources.
        ctx: of the pass.

    Returns:
        The derivative with respect to the layer's input.
    """
    uses = ctx.uses.get(origin(step, "weight", ctx.program), [])
    ties = []
    for use in uses:
        C = None if use.cotangent is None else use.cotangent.cross(cotangent, ctx.moments)
        if C is not None:
            ties.append((use.wave, pull(use, C)))
    out = fresh(total, error, ties=tuple(ties))
    for use in uses:
        if use.step is step:
            use.cotangent, use.wave = cotangent, out.waves[0].key
    return out


def given_back(uses: list[Use], y: Expr, C_W: float, moments: Moments) -> tuple[Tensor, Expr] | None:
    """What a transposed weight gives of the input h that it was used on: a matrix over points, and h.

    Args:
        uses: of the weight as it is.
        y: what the transposed one is used on.
        C_W: its fan-in times the variance of the weights.
        moments: takes the expectations.

    Returns:
        The matrix that multiplies h, and h; None where the weight was not used before.

    Raises:
        NoRule: it was used more than once, or on a large image.
    """
    if not uses:
        return None
    if len(uses) > 1 or grid(uses[0].input.expr) is not None:
        raise NoRule("its weight is that of several earlier steps, transposed")
    z = uses[0].source
    slopes = regression(dense(z.second), cross(moments, z, y)).T
    return C_W * slopes, uses[0].input.expr


def gone_back(uses: list[Use], cotangent: Cotangent, C_W: float, moments: Moments) -> list[Wave]:
    """The same on the way back: W^T D W d = fresh + C_W <D> d, for the derivatives d that came through the transposed weight.

    Args:
        uses: of the transposed weight.
        cotangent: derivative with respect to W h.
        C_W: fan-in of the transposed weight times the variance of the weights.
        moments: takes the expectations.

    Returns:
        The waves beside the fresh one.
    """
    out: list[Wave] = []
    for use in uses:
        for wave in cotangent.waves if use.cotangent is not None else ():
            if wave.key == use.wave:
                mean = 1.0 if wave.factor is None else moments.mean(wave.factor)
                out += use.cotangent.scaled(C_W * mean).waves  # type: ignore[union-attr]
    return out


PLAIN = ("t", "transpose", "permute", "clone", "alias", "detach", "contiguous", "reshape", "expand")
_KEPT = (*PLAIN, "numpy_T", "mT", "view", "to", "_to_copy")  # through the rest an entry stays, and no law is read
_TURNS = ("t", "transpose", "permute", "numpy_T", "mT")


def behind(node: fx.Node, views: Collection[str]) -> tuple[fx.Node, list[str]]:
    """What a node is a view of, and the operators on the way.

    Args:
        node: of the graph.
        views: names of the operators to look through.

    Returns:
        The first node that none of them made, and their names.
    """
    passed: list[str] = []
    while node.op == "call_function" and node.args:
        name = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
        if name not in views:
            break
        passed.append(name)
        node = node.args[0]  # type: ignore[assignment]
    return node, passed


def origin(step: Step, slot: str, program: Program) -> tuple[str, int] | None:
    """What a step's weight is: a parameter and how it is turned, so that two uses of one matrix have equal origins."""
    ref = step.arguments.get(slot)
    if ref is None or ref.name not in program.nodes:
        return None
    node, passed = behind(program.nodes[ref.name], _KEPT)
    turns = sum(name in _TURNS for name in passed)
    return (program.exported.parameters.get(node.name, node.name), turns % 2)


def source_of(expr: Expr) -> Source | None:
    """The fresh source that a layer's value is, apart from a constant."""
    if isinstance(expr, Lin) and len(expr.terms) == 1 and expr.terms[0][0] == 1.0:
        expr = expr.terms[0][1]
    return expr if isinstance(expr, Source) else None


def weights_in_several_steps(program: Program) -> frozenset[Hashable]:
    """Origins of the weights that more than one layer uses, as they are or transposed."""
    found = [origin(s, "weight", program) for s in program.steps if s.weighted and s.op != "embedding"]
    names = [name[0] for name in found if name is not None]
    return frozenset(name for name in found if name is not None and names.count(name[0]) > 1)
