"""What verdicts are judged by: rows with both sides, the spine of the network, facts of batch, weights and loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from leadline.program.laws import Law, TrainedVerdict

__all__ = ["Evidence", "InputFacts", "LossFacts", "Pair", "Point"]

ROUNDING = 1e-13  # distance of two inputs below which a correlation is not known
_FAR = 3.0
_SIGMAS = 5.0


@dataclass(frozen=True)
class Pair:
    """Both sides of one quantity at one step; None where a side does not exist."""

    predicted: float | None = None
    measured: float | None = None
    stderr: float | None = None


@dataclass(frozen=True)
class Point:
    """One row of the report.

    ``step``: node name. ``layer``: submodule. ``op``: operator. ``values``: quantity -> both sides. ``inputs``: steps
    that feed it. ``spine``: every path from input to output passes through it. ``width``: channels. ``weight``: law
    of its weight. ``shape``: of a nonlinearity: "bounded" (flat at both ends), "one-sided" (flat at one) or "".
    ``eps``: of a norm. ``dead``: measured share of units that are flat on every input of the batch. ``place``: the
    submodule to name where the step itself belongs to none, as a sum in the forward of the whole model.
    """

    step: str
    layer: str
    op: str
    values: Mapping[str, Pair] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    spine: bool = True
    width: int = 1
    weight: Law | None = None
    shape: str = ""
    eps: float | None = None
    dead: float | None = None
    ruled: bool = True
    place: str = ""

    @property
    def name(self) -> str:
        """Layer, or a layer that feeds it, or the operator."""
        return self.layer or self.place or self.op

    @property
    def weighted(self) -> bool:
        """Whether it is a layer with a weight matrix."""
        return self.op in ("linear", "conv", "conv_transpose", "embedding")


@dataclass(frozen=True)
class InputFacts:
    """A floating-point input.

    ``mean``, ``std``, ``rms``: over all entries. ``correlation``: mean over pairs of samples, None for one sample.
    """

    name: str
    mean: float
    std: float
    rms: float
    correlation: float | None = None


@dataclass(frozen=True)
class LossFacts:
    """The loss at initialization beside that of a blind guess.

    ``measured``: of the network. ``predicted``: from the output kernel, None where there is none. ``blind``: of the
    best constant output. ``kind``: "cross_entropy", "mse" or "custom".
    """

    kind: str
    measured: float
    blind: float | None
    predicted: float | None = None
    stderr: float | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything that a rule may look at.

    ``points``: rows in order of execution. ``inputs``: floating-point inputs. ``laws``: of parameters. ``trained``:
    whether init laws explain the weights. ``tied``: name -> first name of the same tensor. ``unused``: parameters
    without a path to the output. ``half``: the 16-bit type of the weights, if any. ``residual_scale``: factor that the
    model's initializer means residual projections to have. ``classifier``: outputs are logits. ``untouched``: batch
    norms in eval mode that have seen no data.
    """

    points: tuple[Point, ...]
    inputs: tuple[InputFacts, ...] = ()
    laws: Mapping[str, Law] = field(default_factory=dict)
    trained: TrainedVerdict | None = None
    tied: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    loss: LossFacts | None = None
    half: str | None = None
    residual_scale: float | None = None
    classifier: bool = False
    untouched: tuple[str, ...] = ()

    def value(self, point: Point, quantity: str) -> float | None:
        """What a verdict goes by: the prediction, or the measurement where there is none or it is contradicted.

        A trained network is judged by measurements. A prediction is contradicted by a measurement that differs from
        it by more than a factor of three and by more than five standard errors.

        Returns:
            The number, None where neither side has it.
        """
        pair = point.values.get(quantity)
        if pair is None:
            return None
        p, m = pair.predicted, pair.measured
        if p is None or (self.trained is not None and self.trained.trained and m is not None):
            return m
        if m is None or m == p:
            return p
        far = abs(m - p) > _SIGMAS * (pair.stderr or 0.0) and (
            p * m <= 0 or not 1 / _FAR < m / p < _FAR or not math.isfinite(m)
        )
        return m if far else p

    def at(self, step: str) -> Point | None:
        """The point of a step."""
        return next((p for p in self.points if p.step == step), None)

    def spine(self) -> list[Point]:
        """Points that every path from input to output passes through."""
        return [p for p in self.points if p.spine]

    def stations(self) -> list[Point]:
        """Spine points at which signals are compared: layers with weights, sums, norms and the output.

        A value after a layer is not compared with one after its nonlinearity, which may halve it.

        Returns:
            Points in order.
        """
        spine = self.spine()
        found = [p for p in spine if p.weighted or p.op in ("add", "sub", "cat", "mul")]
        if spine and (not found or found[-1] is not spine[-1]):
            found.append(spine[-1])
        return found

    def signal(self, point: Point) -> float | None:
        """The part of the kernel that tells samples apart, K (1 - c); all of it where there is one sample."""
        kernel, c = self.value(point, "kernel"), self.value(point, "correlation")
        if kernel is None or not math.isfinite(kernel):
            return kernel
        return kernel if c is None else kernel * max(1 - c, ROUNDING)

    def distance(self, point: Point, quantity: str = "correlation") -> float | None:
        """1 - c, not below what rounding leaves; None where there is no correlation."""
        c = self.value(point, quantity)
        return None if c is None else max(1 - c, ROUNDING)

    def entry_signal(self) -> float | None:
        """The same part of the inputs' own kernel; None unless there is one floating-point input."""
        if len(self.inputs) != 1:
            return None
        x = self.inputs[0]
        kernel = x.rms * x.rms
        return kernel if x.correlation is None else kernel * max(1 - x.correlation, ROUNDING)

    def response(self, points: Sequence[Point]) -> list[float | None]:
        r"""Relative response of the output to a relative random change at each point.

        .. math:: R_\ell = J_\ell K_\ell / K_{out}

        It is 1 at the output, and at every layer of a network that neither magnifies nor forgets small changes.

        Returns:
            One number a point, None where a factor is not known.
        """
        last = points[-1] if points else None
        out = self.value(last, "kernel") if last is not None else None
        found: list[float | None] = []
        for p in points:
            J, K = self.value(p, "partial_jacobian"), self.value(p, "kernel")
            known = J is not None and K is not None and out is not None and out > 0
            found.append(J * K / out if known else None)  # type: ignore[operator]
        return found
