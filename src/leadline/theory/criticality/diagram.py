"""The phase diagram of an activation: order, chaos and the line between them in the plane of C_W and C_b."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.criticality.block import Block, Norm
from leadline.theory.criticality.classes import UniversalityClass
from leadline.theory.criticality.find import critical_point
from leadline.theory.criticality.fixed_point import fixed_points
from leadline.theory.criticality.point import CriticalPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PHASES", "PhaseDiagram", "phase_diagram"]

PHASES = ("ordered", "critical", "chaotic", "unbounded")
"""What a number in ``PhaseDiagram.phase`` stands for."""

_SIZE = 201
_ONE = 1e-9
_EDGE_KERNELS = (1e-6, 1e6)
_EDGE_POINTS = 1200


@dataclass(frozen=True)
class PhaseDiagram:
    r"""Fixed points and susceptibilities over a grid; rows are values of C_b, columns of C_W.

    Attributes:
        activation: name of the activation.
        norm, residual: of each layer.
        start: kernel from which the flow of each point starts.
        C_W: columns, shape (w,).
        C_b: rows, shape (b,).
        K: fixed points, shape (b, w); 0 where the kernel vanishes, inf where it grows without end.
        chi_parallel, chi_perp: susceptibilities there, shape (b, w).
        phase: index into ``PHASES``: chi_perp < 1, = 1, > 1, or no fixed point.
        edge: C_W and C_b along the edge of chaos, where chi_perp = 1 at a fixed point that the flow keeps, shape (2, e);
            exact, not read off the grid; parts are separated by nan.
        point: the critical point of the activation; None with a norm.
    """

    activation: str
    norm: Norm
    residual: float
    start: float
    C_W: Tensor
    C_b: Tensor
    K: Tensor
    chi_parallel: Tensor
    chi_perp: Tensor
    phase: Tensor
    edge: Tensor
    point: CriticalPoint | None

    @property
    def depth_scale(self) -> Tensor:
        """Layers in which gradients and small differences change by e, 1/|ln chi_perp|, shape (b, w)."""
        return 1 / self.chi_perp.log().abs()

    @property
    def kernel_depth(self) -> Tensor:
        """Layers in which the kernel forgets its start by e, 1/|ln |chi_parallel||, shape (b, w)."""
        return 1 / self.chi_parallel.abs().log().abs()

    def plot(self) -> Figure:
        """Draw it: phases by colour, depth scales by shade and contours, the edge of chaos, the critical point.

        Returns:
            A matplotlib figure; save it with ``figure.savefig(path)``.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from leadline.theory.criticality.picture import draw

        return draw(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists; infinite numbers are None, phases are names."""
        names = ("C_W", "C_b", "K", "chi_parallel", "chi_perp", "depth_scale", "kernel_depth")
        parts = [[list(p) for p in part] for part in self.edge_parts()]
        return {
            "activation": self.activation, "norm": str(self.norm), "residual": self.residual, "start": self.start,
            **{name: _finite(getattr(self, name).tolist()) for name in names},
            "phase": [[PHASES[i] for i in row] for row in self.phase.tolist()],
            "edge": parts, "critical_point": None if self.point is None else self.point.to_dict(),
        }  # fmt: skip

    def edge_parts(self) -> list[list[tuple[float, float]]]:
        """The edge of chaos as lists of (C_W, C_b)."""
        parts: list[list[tuple[float, float]]] = [[]]
        for w, b in self.edge.T.tolist():
            if math.isnan(w):
                parts.append([])
            else:
                parts[-1].append((w, b))
        return [p for p in parts if p]


@checked()
@torch.no_grad()
def phase_diagram(
    obj: Any,
    *,
    C_W: Tensor | Sequence[float] | None = None,
    C_b: Tensor | Sequence[float] | None = None,
    points: int = _SIZE,
    start: float = 1.0,
    norm: str | Norm = Norm.none,
    residual: float = 0.0,
) -> PhaseDiagram:
    r"""Phases of a deep network over a grid of C_W and C_b.

    .. math:: K^* = C_b + C_W\, m(K^*) + \gamma^2 K^*,\qquad \chi_\perp(K^*) \lessgtr 1,\qquad \xi = 1/|\ln\chi_\perp|

    Args:
        obj: module, function, name, callable or Activation.
        C_W: columns of the grid, at least two values >= 0; None: around the critical point.
        C_b: rows of the grid; None: likewise.
        points: of a side of a grid that is not given.
        start: kernel from which each flow starts, units of the preactivation squared; it decides where there are two
            stable fixed points.
        norm: where the branch normalises, see :class:`Norm`.
        residual: strength gamma of the skip.

    Returns:
        The diagram, on the CPU in float64.

    Raises:
        ValueError: a grid is not ascending, a variance is negative, the activation jumps, or a setting is not valid.

    Source: Poole et al. (2016); Schoenholz et al. (2017); with norms and skips Doshi, He and Gromov (2023).

    >>> d = phase_diagram("relu", C_W=[1.0, 2.0, 3.0], C_b=[0.0, 0.1])
    >>> [[PHASES[i] for i in row] for row in d.phase.tolist()]
    [['ordered', 'critical', 'unbounded'], ['ordered', 'unbounded', 'unbounded']]
    """
    block = Block.of(obj, norm, residual)
    if points < 2:
        raise ValueError(f"a diagram needs 2 points a side or more, got {points}.")
    if block.activation.jumps:
        raise ValueError(
            f"{block.activation.name} jumps, so that chi_perp is infinite for any C_W > 0 and there are no phases; take a "
            "continuous activation."
        )
    point = critical_point(block.activation, residual=residual) if block.norm is Norm.none else None
    columns, rows = _grid(C_W, block, point, "C_W", points), _grid(C_b, block, point, "C_b", points)
    found = fixed_points(block, columns[None, :], rows[:, None], start)
    chi = found.chi_perp
    phase = torch.where(chi > 1 + _ONE, 2, torch.where(chi < 1 - _ONE, 0, 1))
    phase = torch.where(torch.isinf(found.K), 3, phase)
    return PhaseDiagram(
        block.activation.name, block.norm, residual, start, columns, rows, found.K, found.chi_parallel, chi, phase,
        _edge(block), point,
    )  # fmt: skip


def _grid(
    given: Tensor | Sequence[float] | None, block: Block, point: CriticalPoint | None, name: str, size: int
) -> Tensor:
    if given is not None:
        values = torch.as_tensor(given, dtype=torch.float64).cpu()
        if values.ndim != 1 or values.numel() < 2 or not bool((values.diff() > 0).all()):
            raise ValueError(f"{name} must be an ascending list of two numbers or more, got {values.numel()} of them.")
        if not bool(torch.isfinite(values).all()) or float(values[0]) < 0:
            raise ValueError(f"{name} holds variances: give finite numbers >= 0.")
        return values
    keep = abs(1 - block.residual**2) or 1.0
    at, height, low, high = 2.0 * keep, 0.5 * keep, 0.05, 2.0
    if point is not None:
        near: Any = point if point.exists else point.nearest
        if near is not None and near.C_W is not None:
            at, height = near.C_W, max(2.5 * near.C_b, 0.25 * near.C_W)
        if point.universality_class is UniversalityClass.half_stable:
            height = max(2.5 * (point.C_b or 0.0), 0.1 * keep)
        if point.universality_class in (UniversalityClass.half_stable, UniversalityClass.scale_invariant):
            low, high = 0.6, 1.2  # beyond its slope at infinity the kernel grows without end: one colour
    if name == "C_b":
        return torch.linspace(0, height, size, dtype=torch.float64)
    return torch.linspace(low * at, high * at, size, dtype=torch.float64)


def _edge(block: Block) -> Tensor:
    r"""C_W and C_b with chi_perp = 1 at a fixed point K that does not repel, for K over twelve decades."""
    keep = 1 - block.residual**2
    nothing = torch.empty(2, 0, dtype=torch.float64)
    if keep <= 0:
        return nothing
    low, high = (math.log10(k) for k in _EDGE_KERNELS)
    K = torch.logspace(low, high, _EDGE_POINTS, dtype=torch.float64)
    C_W = keep / block.slope_moment(K)
    C_b = keep * K - C_W * block.moment(K)
    # a scale-invariant activation has one point, with a vertical line of unbounded flows above it
    parallel = C_W * block.moment_slope(K) + block.residual**2
    fine = torch.isfinite(C_W + C_b) & (C_b >= -1e-9 * K) & (parallel <= 1 + _ONE) & (parallel >= -1)
    if not bool(fine.any()):
        return nothing
    points = torch.stack([C_W, C_b.clamp_min(0)])
    return torch.where(fine, points, math.nan)


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value if math.isfinite(value) else None
