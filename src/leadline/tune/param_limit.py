"""What the wide limit of a parametrization does: blows up, stands still, is a kernel machine, or learns features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leadline.tune.param_abc import Exponents, Parametrization, kind_of

__all__ = ["LayerLimit", "WideLimit", "wide_limit"]

_TINY = 1e-9
_STEPS = 3  # the first step, one with the weights that it made, and one more


@dataclass(frozen=True)
class LayerLimit:
    r"""Powers of 1/width of one layer: a size that goes as :math:`n^{-p}` has power p; negative blows up.

    Attributes:
        role: "input", "hidden" or "output".
        size: of what the layer gives out at the start.
        update: of what a step of this layer's weights adds to what it gives out.
        moved: of what a step of all weights adds to what it gives out.
        function: of what a step of this layer's weights adds to the network's output.
    """

    role: str
    size: float
    update: float
    moved: float
    function: float

    @property
    def verdict(self) -> str:
        """What the layer's own update does to its output, in words."""
        if self.update < -_TINY:
            return f"blows up as n^{-self.update:g}"
        return "is of order one" if self.update < _TINY else f"vanishes as n^{-self.update:g}"


@dataclass(frozen=True)
class WideLimit:
    """The verdict on a parametrization.

    Attributes:
        regime: "unstable", "trivial" (nothing moves), "kernel" or "feature learning".
        r: power of 1/width by which the last hidden layer's values move.
        layers: one a matrix.
        reason: one sentence.
    """

    regime: str
    r: float
    layers: tuple[LayerLimit, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.regime}: {self.reason}"


def wide_limit(
    exponents: Parametrization | Sequence[Exponents], *, hidden: int = 2, optimizer: str = "sgd", steps: int = _STEPS
) -> WideLimit:
    r"""Say what the wide limit of a plain network does under any choice of exponents.

    With SGD and the symmetry used to bring every rate to c = 0 (a, b, c of the layers l = 1 … L+1),

    .. math::
        r = \min(a_{L+1}+b_{L+1},\ 2a_{L+1}+c) + c - 1 + \min_{l\le L}(2a_l + [l=1])

    it is stable where :math:`a_1+b_1=0`, :math:`a_l+b_l=\tfrac12` in between, :math:`a_{L+1}+b_{L+1}\ge\tfrac12`,
    :math:`r\ge0`, :math:`2a_{L+1}+c\ge1` and :math:`a_{L+1}+b_{L+1}+r\ge1`; nontrivial where one of the last two is an
    equality; it learns features where :math:`r=0`. The powers of each layer, and all of Adam, come from following the
    powers of forward values, gradients and updates through a few steps: sums of n independent terms gain
    :math:`n^{1/2}`, aligned ones :math:`n`.

    Weights smaller than the stable ones (:math:`a+b` above its value) are followed too: they lie outside the theorem
    and their powers say whether anything moves.

    Args:
        exponents: a parametrization, or one :class:`Exponents` a matrix.
        hidden: number of hidden layers, for a parametrization.
        optimizer: "sgd" or "adam", for a sequence; a parametrization knows its own.
        steps: of training that are followed, up to the first that diverges.

    Returns:
        The verdict.

    Raises:
        ValueError: fewer than two matrices, or no step.

    Source: Yang & Hu (2021), theorem 3.3 and definition 3.2; Yang & Littwin (2023), Tensor programs IVb, for Adam.

    >>> print(wide_limit([Exponents(0, 0, 0), Exponents(0, 0.5, 0), Exponents(0, 0.5, 0)]).regime)
    unstable
    """
    if isinstance(exponents, Parametrization):
        optimizer = exponents.optimizer
        exponents = exponents.layers(hidden)
    layers = [e.folded(optimizer) for e in exponents]
    if len(layers) < 2:
        raise ValueError(f"got {len(layers)} layers, expected an input and an output layer at least.")
    if steps < 1:
        raise ValueError(f"got steps={steps}, expected one at least: nothing moves before the first.")
    return _judge(_follow(layers, steps, linear=kind_of(optimizer) == "linear"))


def _follow(layers: Sequence[Exponents], steps: int, *, linear: bool) -> tuple[LayerLimit, ...]:
    """Powers after a few steps; the smallest that each quantity reaches."""
    last = len(layers) - 1
    drawn = [e.b for e in layers]
    made = [math.inf] * len(layers)  # powers of what the steps so far have added to the weights
    start = _forward(drawn, made)
    update, moved, function = ([math.inf] * len(layers) for _ in range(3))
    for _ in range(steps):
        size = _forward(drawn, made)
        back = _backward(drawn, made)
        # the data is of order one; what a layer reads is the size of the one before
        reads = [0.0, *size[:-1]]
        new = [e.c + (g + x if linear else 0.0) for e, g, x in zip(layers, back, reads)]
        made = [min(old, power) for old, power in zip(made, new)]
        change = math.inf
        for at in range(last + 1):
            own = made[at] + reads[at] - (at > 0)
            # a change that came through earlier layers, along the directions that the gradient names, by the drawn and
            # by the new weights
            through = math.inf if at == 0 else change + min(_gain(drawn[at], at == last), made[at] - 1)
            change = min(own, through)
            update[at], moved[at] = min(update[at], own), min(moved[at], change)
            function[at] = min(function[at], _to_output(own, at, drawn, made))
        if min(moved) < -_TINY:
            break  # what comes after is a power of a power
    names = ["input", *["hidden"] * (last - 1), "output"]
    return tuple(
        LayerLimit(n, *map(_clean, numbers)) for n, *numbers in zip(names, start, update, moved, function, strict=True)
    )


def _gain(power: float, output: bool) -> float:
    """Power that a drawn matrix adds to a change along its gradient: aligned at the output, as n^1/2 in between."""
    return power - (1.0 if output else 0.5)


def _to_output(change: float, layer: int, drawn: Sequence[float], made: Sequence[float]) -> float:
    """Power of what a change of one layer's output makes of the network's."""
    last = len(drawn) - 1
    for at in range(layer + 1, last + 1):
        change += min(_gain(drawn[at], at == last), made[at] - 1)
    return change


def _forward(drawn: Sequence[float], made: Sequence[float]) -> list[float]:
    """Powers of what each layer gives out."""
    sizes: list[float] = []
    for at, (b, u) in enumerate(zip(drawn, made)):
        if at == 0:
            sizes.append(min(b, u))
        else:
            sizes.append(sizes[-1] + min(b - 0.5, u - 1))
    return sizes


def _backward(drawn: Sequence[float], made: Sequence[float]) -> list[float]:
    """Powers of the output's derivative by what each layer gives out."""
    powers = [0.0]
    for at in range(len(drawn) - 1, 0, -1):
        b, u = drawn[at], made[at]
        # one output, so that its weights are the derivative; in between n independent or aligned terms
        powers.append(powers[-1] + (min(b, u) if at == len(drawn) - 1 else min(b - 0.5, u - 1)))
    return powers[::-1]


def _clean(power: float) -> float:
    return round(power, 9) + 0.0


def _judge(layers: tuple[LayerLimit, ...]) -> WideLimit:
    *inner, output = layers
    r = inner[-1].moved
    for number, layer in enumerate(layers, 1):
        where = f"layer {number} ({layer.role})"
        if layer.size < -_TINY:
            return WideLimit("unstable", r, layers, f"{where} gives out values of n^{-layer.size:g} at the start")
        if layer.moved < -_TINY:
            own = layer.update < -_TINY
            said = f"its update {layer.verdict}" if own else f"it is moved by n^{-layer.moved:g} by those before it"
            return WideLimit("unstable", r, layers, f"a step makes {where} diverge: {said}")
    if output.moved > _TINY:
        faded = next((i for i, layer in enumerate(inner, 1) if layer.size > _TINY), None)
        cause = "" if faded is None else f", since the values of layer {faded} start at n^{-inner[faded - 1].size:g}"
        return WideLimit("trivial", r, layers, f"a step moves the function by n^{-output.moved:g}{cause}")
    if r > _TINY:
        return WideLimit("kernel", r, layers, f"the function moves and hidden values move by n^{-r:g} only")
    lazy = [str(i) for i, layer in enumerate(inner, 1) if layer.update > _TINY]
    rest = f"; the updates of layers {', '.join(lazy)} vanish" if lazy else ", by every layer's update"
    return WideLimit("feature learning", r, layers, f"hidden values and the function move by order one{rest}")
