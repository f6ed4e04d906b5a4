"""What an activation asks of the layers around it: its critical point, or what comes nearest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from leadline.activations import Activation
from leadline.theory.criticality import UniversalityClass, critical_point

__all__ = ["Tuning", "Tunings"]

_KERNELS = (0.1, 30.0)
_POINTS = 241


@dataclass(frozen=True)
class Tuning:
    """The layer after an activation.

    Attributes:
        C_W, C_b: its weight and bias variance.
        K: kernel of the activation's input that goes with them; None where any size will do.
        kind: universality class, in words.
        why: one clause with the numbers.
    """

    C_W: float
    C_b: float
    K: float | None
    kind: str
    why: str


class Tunings:
    """Tunings by activation; each is solved once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, bool], Tuning | None] = {}

    def of(self, act: Activation, bias: bool) -> Tuning | None:
        """Tuning of the layer after an activation.

        Args:
            act: the activation.
            bias: whether the layer has a bias to draw.

        Returns:
            The tuning; None where the activation has no useful one.
        """
        key = (act.name, bias)
        if key not in self._found:
            self._found[key] = _tuning(act, bias)
        return self._found[key]


def _tuning(act: Activation, bias: bool) -> Tuning | None:
    point = critical_point(act)
    name, kind = act.name, str(point.universality_class)
    if point.C_W is not None and point.C_b is not None:
        if point.C_b > 0 and not bias:
            return _without_bias(act)
        K = None if not point.K else point.K
        where = f", K* = {point.K:.4g}" if point.K is not None else ""
        why = f"the critical point of {name} ({kind}) is C_W = {point.C_W:.5g}, C_b = {point.C_b:.5g}{where}"
        return Tuning(point.C_W, point.C_b, K, kind, why)
    near = point.nearest
    if near is None:
        return None
    if near.C_b > 0 and not bias:
        return _without_bias(act)
    why = (
        f"{name} has no critical point; C_W = {near.C_W:.5g}, C_b = {near.C_b:.5g} at K = {near.K:.4g} comes nearest, where "
        f"differences of inputs last {near.depth_scale:.3g} layers"
    )
    return Tuning(near.C_W, near.C_b, near.K, str(UniversalityClass.none), why)


@torch.no_grad()
def _without_bias(act: Activation) -> Tuning | None:
    r"""Where the kernel keeps its size without a bias, C_W = K/g(K), and chi_perp = K p(K)/g(K) is nearest to 1."""
    low, high = (math.log10(k) for k in _KERNELS)
    K = torch.logspace(low, high, _POINTS, dtype=torch.float64)
    C_W = K / act.second_moment(K)
    chi = C_W * act.derivative_moment(K)
    distance = torch.where(torch.isfinite(chi) & (chi > 0), chi.log().abs(), torch.inf)
    i = int(distance.argmin())
    if not bool(torch.isfinite(distance[i])):
        return None
    why = (
        f"without a bias {act.name} is not critical anywhere; at K = {float(K[i]):.4g} with C_W = {float(C_W[i]):.5g} the "
        f"kernel keeps its size and chi_perp = {float(chi[i]):.5g} is nearest to 1"
    )
    return Tuning(float(C_W[i]), 0.0, float(K[i]), "without bias", why)
