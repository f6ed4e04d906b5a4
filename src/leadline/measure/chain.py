"""Chains of dense layers: z1 = W1 x + b1, z2 = W2 s1(z1) + b2, …, and which Programs are one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from leadline.activations import Activation, activation
from leadline.program import Law, Program, Step
from leadline.rules import Context, Fixed, NoRule, argument

__all__ = ["Chain", "chain_from", "chain_inputs"]

_IID = {"gaussian", "uniform", "truncated"}


@dataclass(frozen=True)
class Chain:
    r"""Widths, activations and Gaussian weight laws of a chain of dense layers.

    .. math:: z^{(l)}_i = b_i + \sum_j W_{ij} s_{l-1}(z^{(l-1)}_j), \quad
        W_{ij} \sim N(0, C_W^{(l)}/n_{l-1}), \quad b_i \sim N(0, C_b^{(l)})

    Args:
        widths: n_0 (inputs), n_1, …, n_L (outputs).
        activations: s_1, …, s_{L-1}, and s_L where an activation follows the last layer.
        C_W: fan-in times the weight variance of each of the L layers.
        C_b: bias variance of each of the L layers, units of z squared; 0 without biases.
        steps: names of a layer's row and of its activation's row, for each layer ("" where there is none).
        gaussian: whether the network's own weights are Gaussian, so that the ensemble is exact in law for it.

    Raises:
        ValueError: the numbers of widths, activations and laws do not fit together, or one is not allowed.

    >>> Chain.of([8, 64, 64, 1], "tanh", C_W=1.5, C_b=0.1).depth
    3
    """

    widths: tuple[int, ...]
    activations: tuple[Activation, ...]
    C_W: tuple[float, ...]
    C_b: tuple[float, ...]
    steps: tuple[tuple[str, str], ...] = ()
    gaussian: bool = True

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(f"got widths {self.widths}: give two or more (inputs first, outputs last), each positive.")
        if len(self.activations) not in (self.depth - 1, self.depth):
            raise ValueError(
                f"got {len(self.activations)} activations for {self.depth} layers: "
                "give one after each layer, the last one aside if you like."
            )
        for name, values in (("C_W", self.C_W), ("C_b", self.C_b)):
            if len(values) != self.depth:
                raise ValueError(f"got {len(values)} values of {name} for {self.depth} layers: give one a layer.")
            if not all(math.isfinite(v) and v >= 0 for v in values):
                raise ValueError(f"got {name} = {values}: a variance is finite and not negative.")
        if not self.steps:
            numbers = range(1, self.depth + 1)
            names = tuple((f"z{i}", f"s{i}" if i <= len(self.activations) else "") for i in numbers)
            object.__setattr__(self, "steps", names)
        if len(self.steps) != self.depth:
            raise ValueError(f"got names for {len(self.steps)} layers of {self.depth}: give a pair each.")

    @classmethod
    def of(
        cls,
        widths: Sequence[int],
        activations: Any = None,
        C_W: float | Sequence[float] = 1.0,
        C_b: float | Sequence[float] = 0.0,
    ) -> Chain:
        """A chain from plain values, such as one activation and one law for all layers.

        Args:
            widths: n_0, n_1, …, n_L.
            activations: anything that :func:`leadline.activations.activation` takes, None for the identity;
                or a list of them, one a layer.
            C_W: one number or one a layer.
            C_b: one number or one a layer, units of z squared.

        Returns:
            The chain.
        """
        depth = len(widths) - 1
        given = list(activations) if isinstance(activations, (list, tuple)) else [activations] * (depth - 1)
        acts = tuple(activation("identity" if a is None else a) for a in given)
        return cls(tuple(widths), acts, _each(C_W, depth), _each(C_b, depth))

    @property
    def depth(self) -> int:
        """Number of dense layers L."""
        return len(self.widths) - 1

    @property
    def inverse_width(self) -> float:
        """Sum of 1/n_l over the hidden layers: the depth over width that the spread grows with."""
        return sum(1.0 / n for n in self.widths[1:-1])


def _each(value: float | Sequence[float], depth: int) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, Sequence) else (float(value),) * depth


@dataclass
class _Read:
    """What has been read of a chain so far."""

    widths: list[int] = field(default_factory=list)
    activations: list[Activation] = field(default_factory=list)
    C_W: list[float] = field(default_factory=list)
    C_b: list[float] = field(default_factory=list)
    steps: list[tuple[str, str]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    gaussian: bool = True


def chain_from(program: Program) -> tuple[Chain | None, str]:
    """Read a Program as a chain of dense layers, if it is one.

    Args:
        program: from :func:`leadline.program.trace`.

    Returns:
        The chain and "", or None and one sentence that says what else is in the network. Uniform and
        truncated weights are taken as Gaussian ones of their variance, and ``gaussian`` is then False.
    """
    ctx, read = Context(program), _Read()
    last = None
    for step in program.steps:
        where = f"{step.op} in {step.layer or 'the model itself'}"
        if last is not None and step.inputs != (last,):
            return None, f"{where} does not take the step before it alone."
        if any(axis.kind != "sample" for axis in step.points):
            return None, f"{where} has sites (tokens, pixels); a chain has none."
        if step.op == "linear":
            reason = _layer(step, ctx, read)
        elif step.op == "pointwise" and step.fn is not None and len(read.activations) < len(read.steps):
            reason = _activation(step, read)
        else:
            reason = "is neither a dense layer nor an activation after one"
        if reason:
            return None, f"{where} {reason}."
        last = step.name
    if not read.steps or last != program.output:
        return None, "the network has no dense layer, or its output is not the last step."
    acts, laws = tuple(read.activations), (tuple(read.C_W), tuple(read.C_b))
    return Chain(tuple(read.widths), acts, *laws, tuple(read.steps), read.gaussian), ""


def chain_inputs(program: Program) -> Tensor:
    """The batch that a chain's first layer takes, shape (inputs, n_0).

    Args:
        program: one that :func:`chain_from` reads as a chain.

    Returns:
        float64, one row an input.

    Raises:
        ValueError: the first step does not take a batch.
    """
    value = _data(program.steps[0], Context(program)) if program.steps else None
    if value is None:
        raise ValueError("the first step takes no batch: pass a Program that `chain_from` reads as a chain.")
    return value.to(torch.float64).reshape(-1, value.shape[-1])


def _data(step: Step, ctx: Context) -> Tensor | None:
    try:
        value = ctx.value(argument(step, "input"))
    except (KeyError, NoRule):
        return None
    return value.value if isinstance(value, Fixed) else None


def _layer(step: Step, ctx: Context, read: _Read) -> str:
    """Add a dense layer; what keeps it from being one of a chain, or ""."""
    if not read.widths and _data(step, ctx) is None:
        return "does not take a batch"
    try:
        weight, bias = ctx.weight(step), ctx.weight(step, "bias")
    except NoRule as refusal:
        return f"has no weight of its own ({refusal})"
    if weight is None:
        return "has no weight"
    laws = [weight[1]] if bias is None or bias[1].second_moment == 0 else [weight[1], bias[1]]
    reason = next((r for r in (_why_not(law, read) for law in laws) if r), "")
    if reason:
        return reason
    read.gaussian = read.gaussian and all(law.kind == "gaussian" for law in laws)
    if read.steps and len(read.activations) < len(read.steps):
        read.activations.append(activation("identity"))
    read.widths = read.widths or [weight[1].fan_in]
    read.widths.append(step.width)
    read.C_W.append(weight[1].C_W)
    read.C_b.append(0.0 if bias is None else bias[1].second_moment)
    read.steps.append((step.name, ""))
    return ""


def _why_not(law: Law, read: _Read) -> str:
    if law.name in read.seen:
        return f"uses {law.name or 'a weight'} a second time, so that its layers are not independent"
    if law.name:
        read.seen.add(law.name)
    if law.second_moment == 0:
        return f"has {law.name or 'weights'} of zeros"
    if not law.random or law.kind not in _IID:
        return f"has {law.name or 'weights'} ({law.kind}) that are not independent random numbers"
    return ""


def _activation(step: Step, read: _Read) -> str:
    try:
        read.activations.append(activation(step.fn))
    except ValueError as reason:
        return f"is no activation ({reason})"
    read.steps[-1] = (read.steps[-1][0], step.name)
    return ""
