"""How the averaged partial Jacobian norm grows or falls with depth: exponentially, as a power, or in between."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

import torch

from leadline.gaussian.arguments import checked
from leadline.theory.criticality import Block, Norm, depth_scale, fixed_point, full_skip, origin

__all__ = ["JacobianLaw", "LawKind", "Phase", "jacobian_law"]

_ONE = 1e-9  # a susceptibility nearer to 1 than this is critical


class Phase(enum.StrEnum):
    """Ordered: gradients fall exponentially with depth; chaotic: they grow so; critical: neither."""

    ordered = "ordered"
    critical = "critical"
    chaotic = "chaotic"


class LawKind(enum.StrEnum):
    """The form of J at large depth."""

    exponential = "exponential"
    power = "power"
    stretched = "stretched exponential"


@dataclass(frozen=True)
class JacobianLaw:
    r"""J at large depth: e^{±l/xi}, l^{-zeta}, or e^{a l^b}.

    Attributes:
        phase: ordered, critical or chaotic.
        kind: the form.
        K: fixed point of the kernel; inf where it grows without end.
        chi_perp: factor a layer at the fixed point (its limit).
        zeta: exponent of J ~ l^-zeta where the form is a power, else None; negative where J grows.
        rate, stretch: a and b of ln J ~ a l^b where the form is a stretched exponential, else None.
    """

    phase: Phase
    kind: LawKind
    K: float
    chi_perp: float
    zeta: float | None = None
    rate: float | None = None
    stretch: float | None = None

    @property
    def correlation_length(self) -> float:
        """Layers in which J changes by e, 1/|ln chi_perp|; inf where it does not do so exponentially."""
        return depth_scale(self.chi_perp) if self.kind is LawKind.exponential else math.inf


@checked()
@torch.no_grad()
def jacobian_law(
    obj: Any, C_W: float, C_b: float = 0.0, *, K: float = 1.0, norm: str | Norm = Norm.none, residual: float = 0.0
) -> JacobianLaw:
    r"""Phase, correlation length or exponent of the averaged partial Jacobian norm of a deep network.

    .. math:: \xi = 1/|\ln\chi^*_\perp|;\qquad \zeta = p_\perp \text{ at } K^*=0,\quad 0 \text{ at } K^*>0,\quad
              \zeta = -\frac{C_W\langle s'^2\rangle_1}{C_W\langle s^2\rangle_1 + C_b}
              \text{ with a norm before the activation and } \gamma = 1

    Args:
        obj: module, function, name, callable or Activation.
        C_W: fan-in times the weight variance.
        C_b: bias variance.
        K: kernel to start from, units of the preactivation squared.
        norm: where the branch normalises.
        residual: strength gamma of the skip.

    Returns:
        The law.

    Raises:
        ValueError: a variance is not positive where it must be, or norm or residual are not valid.

    Source: Doshi, He and Gromov (2023), sections 2-4; the cusp and the stretched exponentials from the same recursions.

    >>> law = jacobian_law("erf", torch.pi / 4)
    >>> str(law.kind), law.zeta
    ('power', 1.0)
    """
    block = Block.of(obj, norm, residual)
    if not (C_W > 0 and C_b >= 0 and K > 0):
        raise ValueError(f"C_W and K must be > 0 and C_b >= 0, got C_W = {C_W:g}, C_b = {C_b:g}, K = {K:g}.")
    if residual == 1:
        return _full(block, C_W, C_b)
    if block.norm is Norm.none:
        found = fixed_point(block.activation, C_W, C_b, K, residual=residual)
        rest, chi = found.K, found.chi_perp
    elif residual < 1:
        at = torch.tensor(1.0, dtype=torch.float64)
        rest = (C_b + C_W * float(block.moment(at))) / (1 - residual**2)
        chi = float(block.susceptibilities(torch.tensor(rest, dtype=torch.float64), C_W)[1])
    else:
        rest, chi = math.inf, residual**2
    if abs(chi - 1) > _ONE:
        return _exponential(rest, chi)
    zeta = 0.0
    if rest == 0:
        start = origin(block.activation)
        zeta = 0.0 if start is None or start.exponents is None else start.exponents.p_perp
    return JacobianLaw(Phase.critical, LawKind.power, rest, 1.0, zeta)


def _exponential(K: float, chi: float) -> JacobianLaw:
    return JacobianLaw(Phase.ordered if chi < 1 else Phase.chaotic, LawKind.exponential, K, chi)


def _full(block: Block, C_W: float, C_b: float) -> JacobianLaw:
    """A full skip: the kernel grows, and chi_perp - 1 = C_W p(K) falls with it."""
    try:
        far = full_skip(block)
    except ValueError:
        return _exponential(math.inf, math.inf)
    if far.power == 0:
        return _exponential(math.inf, 1 + C_W * far.slope)
    growth = C_b + C_W * far.moment
    gain = C_W * far.slope / growth**far.power
    if far.power == 1:
        return JacobianLaw(Phase.critical, LawKind.power, math.inf, 1.0, -gain)
    stretch = 1 - far.power
    return JacobianLaw(Phase.chaotic, LawKind.stretched, math.inf, 1.0, None, gain / stretch, stretch)
