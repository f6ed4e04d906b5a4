"""One pass over a Program: looks operands up, keeps states and cotangents."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from leadline.activations import Activation
from leadline.program import Axis, Law, Program, Ref, Step, read_law
from leadline.program.step import points_of
from leadline.program.trace import weight_fan_in
from leadline.rules.banded_grid import Grid
from leadline.rules.banded_move import moved
from leadline.rules.banded_offsets import Images
from leadline.rules.banded_sites import spread_map
from leadline.rules.base import NoRule, Value
from leadline.rules.expr import Expr, Frozen, Gather, Op, gather, gaussian, grid, source
from leadline.rules.kernel import constant
from leadline.rules.moments import Moments
from leadline.rules.reuse import PLAIN, Use, behind, weights_in_several_steps
from leadline.rules.sampling import square_root, standard_draws, take
from leadline.rules.state import Cotangent, Fixed, Noise, State, Weight, drawn_wave

__all__ = ["Context"]

_MOST = 4096  # points of a parameter that is a value; above that it is a weight in a place where no rule knows it


@dataclass
class Context:
    """State of a prediction while it runs.

    ``values``: node name -> what it is. ``moments``: takes expectations. ``dtype``: of the kernels. ``images``: how
    many pairs of sites of a large image are carried. ``noises``: fluctuation of each source's covariance. ``uses``: of
    each weight that several steps use, in order; ``loops``: the sources that these are.
    """

    program: Program
    moments: Moments = field(default_factory=Moments)
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    images: Images = field(default_factory=Images)
    values: dict[str, Value] = field(default_factory=dict)
    activations: dict[str, Activation] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)
    part: int = 0
    parts: dict[str, list[Value]] = field(default_factory=dict)
    chain: dict[str, tuple[float, float]] = field(default_factory=dict)
    susceptibility: dict[str, tuple[float, float]] = field(default_factory=dict)
    noises: dict[Hashable, Noise] = field(default_factory=dict)
    uses: dict[Hashable, list[Use]] = field(default_factory=dict)
    loops: set[Hashable] = field(default_factory=set)
    _weights: dict[str, Tensor] = field(default_factory=dict)

    def full(self, size: int, value: float) -> Tensor:
        """A constant vector over points."""
        return torch.full((size,), value, dtype=self.dtype, device=self.device)

    def per_point(self, value: Fixed, points: tuple[Axis, ...]) -> Tensor | None:
        """A fixed value that is the same in every channel, as a vector over points; None where it varies by channel."""
        channels = self.channels(value.value, value.layout)
        if channels.shape[0] > 1 and not bool((channels == channels[:1]).all()):
            return None
        index = alignment(points_of(value.layout), points)
        return None if index is None else channels[0][index.to(self.device)]

    @cached_property
    def several(self) -> frozenset[Hashable]:
        """Origins of the weights that more than one step uses, as they are or transposed."""
        return weights_in_several_steps(self.program)

    def looped(self, expr: Expr) -> bool:
        """Whether an expression depends on a weight that several steps use: its channels are the same ones in each of them."""
        return not expr.sources.isdisjoint(self.loops)

    def value(self, ref: Any) -> Value:
        """What an operand is: a random state, a fixed value, or a weight."""
        name = ref.name
        if name in self.values:
            return self.values[name]
        if name in self.program.constants:
            constant = self.program.constants[name]
            if isinstance(constant, Tensor):
                return Fixed(constant, self.program.layouts[name][0])
            raise NoRule(f"operand {name} is not a tensor")
        if name in self.program.weight_side:
            value = self.weight_value(name)
            return Weight(value, self.law(ref, fan_in=1), self.program.layouts[name][0])
        raise NoRule(f"operand {name} has no state")

    def state(self, ref: Any) -> State:
        """An operand as a random state; data and parameters are lifted to one."""
        value = self.value(ref)
        if isinstance(value, State):
            return value
        lifted = self.lift(value)
        if isinstance(value, Weight):
            self.values[ref.name] = lifted  # its uses share one source
        return lifted

    def lift(self, value: Fixed | Weight) -> State:
        """Data as a state (second moment over its channels), a parameter as a source of its law."""
        points = points_of(value.layout)
        size = math.prod(a.size for a in points)
        if isinstance(value, Weight) and size > _MOST:
            raise NoRule(f"a parameter of {size} points is used as a value")
        channels = self.channels(value.value, value.layout)
        if isinstance(value, Weight) and value.law.random:
            second = value.law.second_moment * torch.eye(size, dtype=self.dtype, device=self.device)
            return State(source(second), points, channels.shape[0], exact=value.law.kind == "gaussian")
        mean = channels.mean(0)
        second = channels.T @ channels / channels.shape[0]
        noise = Noise({}, sampled=True) if isinstance(value, Fixed) else None
        return State(source(second, mean=mean, gaussian=False), points, channels.shape[0], noise, exact=False)

    def channels(self, tensor: Tensor, layout: tuple[tuple[Axis, ...], ...]) -> Tensor:
        """A tensor as (channels, points), both in memory order of their axes."""
        axes = [a for dim in layout for a in dim]
        split = tensor.to(self.dtype).to(self.device).reshape([a.size for a in axes])
        first = [i for i, a in enumerate(axes) if a.kind == "channel"]
        rest = [i for i, a in enumerate(axes) if a.kind != "channel"]
        n = math.prod(axes[i].size for i in first)
        return split.permute(*first, *rest).reshape(n, -1) if axes else split.reshape(1, 1)

    def arrange(self, channels: Tensor, layout: tuple[tuple[Axis, ...], ...], width: int | None = None) -> Tensor:
        """The inverse of :meth:`channels`; with ``width``, the channel axes are taken to be (width, 1, 1, …)."""
        axes = [a for dim in layout for a in dim]
        first = [i for i, a in enumerate(axes) if a.kind == "channel"]
        rest = [i for i, a in enumerate(axes) if a.kind != "channel"]
        sizes = [a.size for a in axes]
        if width is not None and first:
            for i in first:
                sizes[i] = 1
            sizes[first[0]] = width
        split = channels.reshape([sizes[i] for i in first + rest])
        order = [(first + rest).index(i) for i in range(len(axes))]
        tensor = split.permute(order) if axes else split
        dims, at = [], 0
        for dim in layout:
            dims.append(math.prod(sizes[at : at + len(dim)]))
            at += len(dim)
        return tensor.reshape(dims)

    def aligned(self, state: State, points: tuple[Axis, ...]) -> Expr:
        """The state's expression at other points: broadcast over axes that it lacks, in the order asked for."""
        index = alignment(state.points, points)
        if index is None:
            raise NoRule(
                f"operands on different sites cannot be lined up ({_sizes(state.points)} with {_sizes(points)})"
            )
        pairs = None if index.numel() <= state.expr.size else self.image_pairs(points)
        if pairs is not None:
            key = f"spread:{id(pairs)}"
            if key not in self.cache:  # one map, so that what it makes of a value is one expression
                self.cache[key] = spread_map(index, state.expr.size, pairs)
            return moved(state.expr, self.cache[key], self.moments)
        return gather(state.expr, index.to(self.device))

    def image_pairs(self, points: tuple[Axis, ...]) -> Grid | None:
        """The pairs that a value at these points is carried at, None where none is there that is."""
        found = (grid(v.expr) for v in self.values.values() if isinstance(v, State) and v.points == points)
        return next((g for g in found if g is not None), None)

    def parameter(self, law: Law, like: Expr) -> Expr:
        """A learned vector over channels as an expression: one random number a channel, the same at every point."""
        second = constant(law.second_moment, like.size, self.full(1, 0.0), grid(like))
        return source(
            second, mean=self.full(like.size, law.mean) if law.mean else None, gaussian=law.kind == "gaussian"
        )

    def drawn_channels(self, expr: Expr, count: int, seed: int) -> Tensor:
        """Channels for an operator that mixes them, shape (count, P): Gaussian ones directly, others from the draws.

        Those of a weight that several steps use are the same channels in each of them.

        Returns:
            One row a channel.
        """
        if self.looped(expr):
            h = self.moments.draws(expr)
            return h[torch.arange(count, device=h.device) % h.shape[0]]
        if gaussian(expr):
            generator = torch.Generator().manual_seed(self.moments.seed * 65_537 + seed)
            z = torch.randn(count, expr.size, generator=generator, dtype=self.dtype).to(self.device)
            return z @ square_root(self.moments.second(expr)).T
        if isinstance(expr, Op):
            return expr.function(self.drawn_channels(expr.inner, count, seed))
        if isinstance(expr, Gather):
            return take(self.drawn_channels(expr.inner, count, seed), expr.index, 1)
        h = self.moments.draws(expr)
        generator = torch.Generator().manual_seed(self.moments.seed * 65_537 + seed)
        return h[torch.randint(h.shape[0], (count,), generator=generator).to(h.device)]

    def through_draws(self, expr: Expr, function: Callable[[Tensor], Tensor], cotangent: Cotangent) -> Cotangent:
        """Derivative before a channel-wise function, by reverse mode on drawn channels.

        It stays bound to those draws: after a maximum, the slope of the activation before it is that of the winners.

        Returns:
            The derivative towards the expression, as draws.
        """
        h = self.moments.draws(expr)
        with torch.enable_grad():
            x = h.detach().requires_grad_()
            y = function(x)
        beta = torch.zeros_like(y)
        for number, wave in enumerate(cotangent.waves):
            seed = self.moments.serial(("backward", wave.key, number))
            part = standard_draws(h.shape[0], y.shape[1], seed).to(h) @ square_root(wave.squared).T
            beta = beta + (part if wave.factor is None else part * self.moments.draws(wave.factor, h.shape[0]))
        (delta,) = torch.autograd.grad(y, x, beta)
        return drawn_wave(Frozen(expr.size, expr.sources, delta))

    def weight_value(self, name: str) -> Tensor:
        """Value of a node that depends on parameters only, computed once."""
        if name not in self._weights:
            self._weights[name] = _evaluate(self.program.nodes[name], self).detach()
        return self._weights[name]

    def law(self, ref: Any, *, fan_in: int, step: Step | None = None) -> Law:
        """Law of a weight operand; for a function of parameters (weight_norm), read from its value."""
        parameter = self.program.exported.parameters.get(ref.name)
        if parameter is None:
            parameter = self.program.exported.parameters.get(behind(self.program.nodes[ref.name], PLAIN)[0].name)
        if parameter is not None and parameter in self.program.laws:
            return self.program.laws[parameter]
        return read_law(self.weight_value(ref.name), fan_in=fan_in)

    def weight(self, step: Step, slot: str = "weight") -> tuple[Tensor, Law] | None:
        """Value and law of a step's weight or bias; None where there is none."""
        ref = step.arguments.get(slot)
        if ref is None:
            return None
        if not isinstance(ref, Ref):
            raise NoRule(f"{slot} of {step.op} is not a tensor of the graph")
        if ref.name not in self.program.weight_side and ref.name not in self.program.constants:
            raise NoRule(f"{slot} of {step.op} is computed from the input")
        value = self.program.constants.get(ref.name)
        value = self.weight_value(ref.name) if value is None else value
        fan = weight_fan_in(step, value.shape) if slot == "weight" and step.weighted else 1
        law = self.law(ref, fan_in=fan)
        if law.fan_in != fan:  # a tied weight has the fan-in of each of its uses
            law = replace(law, fan_in=fan, C_W=fan * law.second_moment)
        return value, law


def _evaluate(node: fx.Node, ctx: Context) -> Tensor:
    if node.name in ctx.program.constants:
        return ctx.program.constants[node.name]
    if node.name in ctx.program.exported.parameters:
        return ctx.program.exported.state[ctx.program.exported.parameters[node.name]].detach()
    if node.name in ctx.program.exported.buffers:
        return ctx.program.exported.state[ctx.program.exported.buffers[node.name]]
    with torch.no_grad():
        args, kwargs = pytree.tree_map(
            lambda a: _evaluate(a, ctx) if isinstance(a, fx.Node) else a, (node.args, node.kwargs)
        )
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _sizes(points: tuple[Axis, ...]) -> str:
    return " x ".join(str(a.size) for a in points) or "one point"


def alignment(have: tuple[Axis, ...], want: tuple[Axis, ...]) -> Tensor | None:
    """For each wanted point, the point of the state that it reads; None where the state has an axis that is not wanted."""
    place = {a.serial: i for i, a in enumerate(want)}
    if any(a.serial not in place for a in have):
        return None
    index = torch.zeros([1] * len(want), dtype=torch.long)
    stride = 1
    for axis in reversed(have):
        shape = [1] * len(want)
        shape[place[axis.serial]] = axis.size
        index = index + (torch.arange(axis.size) * stride).reshape(shape)
        stride *= axis.size
    return index.expand([a.size for a in want]).reshape(-1)
