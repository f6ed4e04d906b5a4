"""Critical lines: all (C_W, C_b) at which gradients keep their size, with norms and skips."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.criticality.block import Block, Norm
from leadline.theory.criticality.find import critical_point
from leadline.theory.criticality.growth import full_skip

__all__ = ["CriticalLine", "LineKind", "critical_line"]

_LARGEST = 4.0
_DECADES = (-3.0, 2.0)  # kernels along a curve, log10


class LineKind(enum.StrEnum):
    """What the critical set is: nothing, one point, a line in the plane of C_W and C_b, or all of it."""

    none = "none"
    point = "point"
    line = "line"
    everywhere = "everywhere"


@dataclass(frozen=True)
class CriticalLine:
    r"""The critical set of a layer with a norm, a skip, or neither.

    Attributes:
        activation: name of the activation.
        norm: where the branch normalises.
        residual: strength gamma of the skip.
        kind: nothing, a point, a line, or every (C_W, C_b).
        C_W, C_b, K: points of the set with their fixed points, float64 of shape (points,); empty where it has none to list.
        slope: C_b/C_W along a straight line through 0; None where the set is none.
        moment, slope_moment: <s^2>_1 and <s'^2>_1 (norm before the activation) or their limits at large kernels; with
            gamma = 1 the squared gradient grows as l^(C_W slope_moment/(C_W moment + C_b)).
        meaning: a sentence.
    """

    activation: str
    norm: Norm
    residual: float
    kind: LineKind
    C_W: Tensor
    C_b: Tensor
    K: Tensor
    slope: float | None
    moment: float | None
    slope_moment: float | None
    meaning: str

    @property
    def exists(self) -> bool:
        """Whether some (C_W, C_b) is critical."""
        return self.kind is not LineKind.none

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings and lists."""
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("C_W", "C_b", "K"):
            out[name] = out[name].tolist()
        return {**out, "norm": str(self.norm), "kind": str(self.kind), "exists": self.exists}

    def __str__(self) -> str:
        lines = [
            f"{self.activation}, norm {self.norm}, residual {self.residual:g}: critical {self.kind}",
            f"  {self.meaning}",
        ]
        if self.slope is not None and self.kind is LineKind.line:
            lines.insert(1, f"  C_b = {self.slope:.9g} C_W")
        return "\n".join(lines)


@checked()
@torch.no_grad()
def critical_line(obj: Any, *, norm: str | Norm = Norm.none, residual: float = 0.0, points: int = 41) -> CriticalLine:
    r"""Every (C_W, C_b) at which chi_perp is 1 at the fixed point, for a layer with a norm and a skip.

    .. math:: \text{norm before: } C_b = C_W(\langle s'^2\rangle_1 - \langle s^2\rangle_1),\qquad
              \text{norm after: } C_W = (1-\gamma^2)/p(K),\ C_b = (1-\gamma^2) K - C_W

    for gamma < 1, with p of :class:`Block`; without a norm the critical point of the activation. With gamma = 1 and
    a norm the kernel grows linearly, gradients as a power of depth, and every (C_W, C_b) is critical.

    Args:
        obj: module, function, name, callable or Activation.
        norm: "none", "layer_norm_before", "layer_norm_after", "rms_norm_before" or "rms_norm_after".
        residual: gamma >= 0.
        points: how many points of a line to list.

    Returns:
        The line, with a sentence on what it means.

    Raises:
        ValueError: the norm is unknown, gamma is negative, or fewer than 2 points are asked for.

    Source: Doshi, He and Gromov (2023), sections 3 and 4; F1 and F2 hold at infinite width.

    >>> line = critical_line("relu", norm="layer_norm_before")
    >>> str(line.kind), line.slope
    ('line', 0.0)
    """
    block = Block.of(obj, norm, residual)
    if points < 2:
        raise ValueError(f"a line needs 2 points or more, got {points}.")
    if block.activation.jumps:
        return _none(block, f"{block.activation.name} jumps, so that chi_perp is infinite for any C_W > 0.")
    if residual > 1:
        return _none(
            block, f"A skip of strength {residual:g} multiplies gradients by {residual**2:g} a layer, or more."
        )
    if block.norm is Norm.none:
        return _bare(block)
    if residual == 1:
        return _full(block)
    return _before(block, points) if block.norm.before else _after(block, points)


def _set(
    block: Block, kind: LineKind, meaning: str, C_W: Tensor | None = None, C_b: Tensor | None = None,
    K: Tensor | None = None, *, slope: float | None = None, moments: tuple[float, float] | None = None,
) -> CriticalLine:  # fmt: skip
    empty = torch.empty(0, dtype=torch.float64)
    w, b, k = (empty if t is None else t for t in (C_W, C_b, K))
    m, p = moments or (None, None)
    return CriticalLine(block.activation.name, block.norm, block.residual, kind, w, b, k, slope, m, p, meaning)


def _none(block: Block, meaning: str) -> CriticalLine:
    return _set(block, LineKind.none, meaning)


def _bare(block: Block) -> CriticalLine:
    found = critical_point(block.activation, residual=block.residual)
    if found.C_W is None or found.C_b is None:
        return _none(block, found.meaning + "".join(f" {n[0].upper()}{n[1:]}." for n in found.notes))
    w, b, k = (
        torch.tensor([v], dtype=torch.float64) for v in (found.C_W, found.C_b, 1.0 if found.K is None else found.K)
    )
    return _set(block, LineKind.point, found.meaning, w, b, k)


def _before(block: Block, points: int) -> CriticalLine:
    one = torch.ones((), dtype=torch.float64)
    m, p = float(block.moment(one)), float(block.slope_moment(one))
    slope = p - m
    if abs(slope) < 1e-12 * m:
        slope = 0.0
    keep = 1 - block.residual**2
    if slope < 0:
        best = block.residual**2 + keep * p / m
        return _set(
            block,
            LineKind.none,
            f"Always ordered: chi_perp is at most {best:.4g}, at C_b = 0, whatever C_W.",
            moments=(m, p),
        )
    C_W = torch.linspace(0, _LARGEST, points + 1, dtype=torch.float64)[1:]
    return _set(
        block, LineKind.line,
        f"Gradients keep their size where C_b = {slope:.6g} C_W, whatever the scale of both; the kernel forgets the size of "
        "its input in one layer." if block.residual == 0 else
        f"Gradients keep their size where C_b = {slope:.6g} C_W; off the line chi_perp - 1 is {keep:.4g} times what it is "
        "without the skip.",
        C_W, slope * C_W, C_W * p / keep, slope=slope, moments=(m, p),
    )  # fmt: skip


def _after(block: Block, points: int) -> CriticalLine:
    keep = 1 - block.residual**2
    K = torch.logspace(_DECADES[0], _DECADES[1], points, dtype=torch.float64)
    C_W = keep / block.slope_moment(K)
    C_b = keep * K - C_W
    usable = C_b >= -1e-12 * K
    if not bool(usable.any()):
        return _none(block, "Always ordered: chi_perp is below 1 at every kernel.")
    w, b, k = C_W[usable], C_b[usable].clamp_min(0), K[usable]
    straight = block.activation.scale_invariant
    return _set(
        block, LineKind.line,
        "Gradients keep their size along a line, one point a kernel K*; C_b holds what the norm takes from the branch.",
        w, b, k, slope=float(b[0] / w[0]) if straight else None,
    )  # fmt: skip


def _full(block: Block) -> CriticalLine:
    try:
        far = full_skip(block)
    except ValueError:
        return _none(block, f"{block.activation.name} grows faster than its input: gradients grow exponentially.")
    if far.power == 1:
        return _set(
            block, LineKind.everywhere,
            f"Critical for every C_W and C_b: the kernel grows by C_W {far.moment:.4g} + C_b a layer and squared gradients as "
            f"l^(C_W {far.slope:.4g}/(C_W {far.moment:.4g} + C_b)).",
            moments=(far.moment, far.slope),
        )  # fmt: skip
    return _none(
        block,
        f"The kernel grows linearly with depth l and ln of squared gradients as l^{1 - far.power:.3g}: slower than "
        "exponentially, faster than any power.",
    )
