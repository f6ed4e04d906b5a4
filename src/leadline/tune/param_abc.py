"""abc-parametrizations as data, and the symmetry by which one set of exponents is the same network as another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from leadline.program.errors import UserError, near, plain
from leadline.tune.groups import DECOUPLED, OPTIMIZERS
from leadline.tune.reshape_rates import rate_power

__all__ = ["PARAMETRIZATIONS", "Exponents", "Parametrization", "Shift", "kind_of", "parametrization"]

_KINDS = {2: "linear", 1: "normalized", 0: "relative"}


def kind_of(optimizer: str) -> str:
    """How an optimizer's step answers to a factor on the gradient and on the weight.

    Args:
        optimizer: name, as :func:`leadline.tune.tune` takes it.

    Returns:
        "linear" (steps follow the gradient: SGD, momentum), "normalized" (its size drops out: Adam, Lion, Muon) or
        "relative" (steps are a share of the weight: LAMB).

    Raises:
        UserError: no such optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise UserError(f"there is no optimizer '{plain(optimizer)}': {near(optimizer, OPTIMIZERS)}.")
    return _KINDS[rate_power(optimizer)]


@dataclass(frozen=True)
class Shift:
    r"""Powers of the width by which the settings of one layer change when its weight takes a factor.

    .. math:: W = n^{-a} w = n^{-(a+\theta)}\,(n^{\theta} w)

    Attributes:
        weight: of the trainable weight.
        rate: of its learning rate.
        decay: of its weight decay.
        eps: of Adam's epsilon.
    """

    weight: float
    rate: float
    decay: float
    eps: float

    @classmethod
    def of(cls, theta: float, optimizer: str) -> Shift:
        r"""The changes that leave training as it is.

        The new weight is :math:`w' = n^\theta w`, so that its gradient is :math:`n^{-\theta}` times the old one. Its step
        must be :math:`n^\theta` times the old one:

        .. math::
            \text{SGD, momentum } \eta' = n^{2\theta}\eta, \qquad
            \text{Adam, Lion, Muon } \eta' = n^{\theta}\eta,\ \epsilon' = n^{-\theta}\epsilon, \qquad
            \text{LAMB } \eta' = \eta

        A decoupled decay keeps :math:`\eta\lambda`; one that is added to the gradient keeps its share of the gradient,
        :math:`\lambda' = n^{-2\theta}\lambda`.

        Args:
            theta: power of the width that moves from the multiplier into the weight.
            optimizer: name.

        Returns:
            The powers.

        Source: Yang & Hu (2021), Feature learning in infinite-width neural networks, section 3; for Adam derived here.
        """
        kind_of(optimizer)
        rate = rate_power(optimizer) * theta
        decay = -rate if optimizer in DECOUPLED else -2 * theta
        return cls(theta, rate, decay, -theta)


@dataclass(frozen=True)
class Exponents:
    r"""Width exponents of a layer.

    .. math:: W = n^{-a} w, \qquad w_{ij} \sim N(0, n^{-2b}), \qquad \eta_l = \eta\, n^{-c}

    Attributes:
        a: of the multiplier.
        b: of the standard deviation at the start.
        c: of the learning rate.
    """

    a: float
    b: float
    c: float

    def shifted(self, theta: float, optimizer: str) -> Exponents:
        """The same layer with a multiplier of exponent a + theta.

        Args:
            theta: what is added to a.
            optimizer: name; for SGD c falls by 2 theta, for Adam by theta.

        Returns:
            Exponents of which training gives the same functions (with Adam's epsilon times n^-theta).
        """
        return Exponents(self.a + theta, self.b - theta, self.c - Shift.of(theta, optimizer).rate)

    def folded(self, optimizer: str) -> Exponents:
        """The same layer without a multiplier.

        Args:
            optimizer: name.

        Returns:
            Exponents with a = 0.
        """
        return self.shifted(-self.a, optimizer)


@dataclass(frozen=True)
class Parametrization:
    r"""Exponents of every kind of layer.

    Attributes:
        name: what it is called.
        optimizer: that its rates are for.
        input: of layers that read the data (and of embeddings and vectors, which read a constant).
        hidden: of layers from width to width.
        output: of layers that read the width.
        branch: power of 1/depth in the multiplier of a residual branch.
        branch_rate: power of 1/depth in the rates of the parameters in branches.
        attention: power of 1/(head dimension) that attention's logits have beyond their 1/sqrt(head dimension).
        first: exponents of the rates of input, hidden and output at the first step alone; () where all steps are alike.
        why: one sentence.
        source: the work that it rests on.
    """

    name: str
    optimizer: str
    input: Exponents
    hidden: Exponents
    output: Exponents
    branch: float = 0.0
    branch_rate: float = 0.0
    attention: float = 0.0
    first: tuple[float, ...] = ()
    why: str = ""
    source: str = ""

    def layers(self, hidden: int) -> tuple[Exponents, ...]:
        """Exponents of each matrix of a plain network.

        Args:
            hidden: number of hidden layers, at least 1.

        Returns:
            hidden + 1 of them.
        """
        return (self.input, *(self.hidden,) * (hidden - 1), self.output)

    def folded(self) -> Parametrization:
        """The same parametrization without multipliers.

        Returns:
            One with a = 0 everywhere; the first step's rates are folded too.
        """
        parts = (self.input, self.hidden, self.output)
        low = [e.folded(self.optimizer) for e in parts]
        moved = [f.c - e.c for e, f in zip(parts, low)]
        first = tuple(c + m for c, m in zip(self.first, moved, strict=False))
        return replace(self, input=low[0], hidden=low[1], output=low[2], first=first)

    def same_as(self, other: Parametrization, hidden: int = 2) -> bool:
        """Whether another parametrization trains the same functions.

        Args:
            other: for the same optimizer.
            hidden: number of hidden layers; with one there is no layer from width to width to compare.

        Returns:
            Whether they are one orbit of the symmetry.
        """
        one, two = self.folded(), other.folded()
        return self.optimizer == other.optimizer and all(
            abs(e.b - f.b) + abs(e.c - f.c) < 1e-12 for e, f in zip(one.layers(hidden), two.layers(hidden))
        )


_TP4 = "Yang & Hu (2021), Feature learning in infinite-width neural networks"
_TP5 = "Yang et al. (2022), Tensor programs V"
_TP6 = "Yang et al. (2023), Tensor programs VI"
_NTK = "Jacot et al. (2018), Neural tangent kernel"
_MF = "Mei, Montanari & Nguyen (2018); Chizat & Bach (2018)"
_IP = "Hajjar, Chizat & Giraud (2021), Training integrable parameterizations"


def _standard(optimizer: str, hidden: int) -> Parametrization:
    return Parametrization(
        "standard", optimizer, Exponents(0, 0, 0), Exponents(0, 0.5, 0), Exponents(0, 0.5, 0),
        why="weights of variance 1/fan-in and one rate for all, which a wider network bears less and less of", source=_TP4,
    )  # fmt: skip


def _ntk(optimizer: str, hidden: int) -> Parametrization:
    # SGD: one rate. Adam: rates at which every layer moves the function by order one; derived, see the guide.
    c = (0.0, 0.0, 0.0) if kind_of(optimizer) == "linear" else (0.5, 1.0, 0.5)
    return Parametrization(
        "ntk", optimizer, Exponents(0, 0, c[0]), Exponents(0.5, 0, c[1]), Exponents(0.5, 0, c[2]),
        why="the function moves and the features, in the limit, do not: a kernel machine", source=_NTK,
    )  # fmt: skip


def _mean_field(optimizer: str, hidden: int) -> Parametrization:
    if hidden > 1:
        raise UserError(
            f"mean-field scaling is for one hidden layer and this network has {hidden}: use 'mup', which is the same for one "
            "layer and learns features in any number, or 'integrable' with its large first step."
        )
    c = -1.0 if kind_of(optimizer) == "linear" else 0.0
    return Parametrization(
        "mean_field", optimizer, Exponents(0, 0, c), Exponents(1, 0, 2 * c), Exponents(1, 0, c),
        why="outputs are means over the hidden units, each of which moves by order one", source=_MF,
    )  # fmt: skip


def _mup(optimizer: str, hidden: int) -> Parametrization:
    c = (0.0, 0.0, 0.0) if kind_of(optimizer) == "linear" else (0.5, 1.0, 0.5)
    return Parametrization(
        "mup", optimizer, Exponents(-0.5, 0.5, c[0]), Exponents(0, 0.5, c[1]), Exponents(0.5, 0.5, c[2]),
        attention=0.5, why="every layer moves its features by order one at any width, so that the best rate stays where it is",
        source=_TP5,
    )  # fmt: skip


def _integrable(optimizer: str, hidden: int) -> Parametrization:
    linear = kind_of(optimizer) == "linear"
    c = (-1.0, -2.0, -1.0) if linear else (0.0, 0.0, 0.0)
    L = hidden
    first = (-(L + 1) / 2, -(L + 2) / 2, -(L + 1) / 2) if linear else ()
    return Parametrization(
        "integrable", optimizer, Exponents(0, 0, c[0]), Exponents(1, 0, c[1]), Exponents(1, 0, c[2]), first=first,
        why="mean-field scaling in every layer; with three hidden layers or more it starts where SGD stands still, so "
        "that its first step needs rates of its own", source=_IP,
    )  # fmt: skip


def _depth_mup(optimizer: str, hidden: int) -> Parametrization:
    # A step of each of L branches must move the stream by 1/L, since the steps are coherent where the draws were not.
    # The multiplier gives 1/sqrt(L). SGD's gradient has the other root already; Adam's step needs it in the rate.
    rate = 0.0 if kind_of(optimizer) == "linear" else 0.5
    return replace(
        _mup(optimizer, hidden), name="depth_mup", branch=0.5, branch_rate=rate,
        why="muP, with branches of 1/sqrt(depth) whose steps add up to order one", source=f"{_TP6}; Bordelon et al. (2023)",
    )  # fmt: skip


PARAMETRIZATIONS: dict[str, Callable[[str, int], Parametrization]] = {
    "standard": _standard, "ntk": _ntk, "mean_field": _mean_field, "mup": _mup, "integrable": _integrable,
    "depth_mup": _depth_mup,
}  # fmt: skip


def parametrization(name: str, optimizer: str = "sgd", hidden: int = 2) -> Parametrization:
    """A parametrization by name.

    Args:
        name: one of :data:`PARAMETRIZATIONS`.
        optimizer: name; rates of SGD and of Adam scale differently.
        hidden: number of hidden layers; mean-field scaling has one, and the integrable one's first step depends on it.

    Returns:
        Its exponents, multipliers not folded.

    Raises:
        UserError: no such parametrization or optimizer, mean-field scaling for a deep network, or LAMB.

    >>> parametrization("mup", "adam").folded().hidden
    Exponents(a=0, b=0.5, c=1.0)
    >>> parametrization("mean_field", hidden=1).same_as(parametrization("mup"), hidden=1)
    True
    """
    if name not in PARAMETRIZATIONS:
        raise UserError(f"there is no parametrization '{plain(name)}': {near(name, PARAMETRIZATIONS)}.")
    if kind_of(optimizer) == "relative":
        raise UserError(
            f"'{plain(optimizer)}' takes steps that are a share of each weight, so that no parametrization has rates for it: "
            "use sgd, momentum, adam, adamw, lion or muon."
        )
    return PARAMETRIZATIONS[name](optimizer, hidden)
