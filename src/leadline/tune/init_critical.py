"""What an activation asks of the layers around it: a kernel that depth keeps, its critical point, or what comes nearest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from leadline.activations import Activation
from leadline.theory.criticality import UniversalityClass, critical_point

__all__ = ["Tuning", "Tunings", "held_kernel"]

_KERNELS = (0.1, 30.0)
_POINTS = 241
_SLOPE = math.log(
    1.5
)  # what the maps of a whole chain may do to a difference: zeta of Martens et al. (2021), section 8.2
_SMALLEST = 1e-6
_TINY = 1e-9


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
    """Tunings by activation; each is solved once.

    Args:
        depth: layers of a plain chain that repeat the activation; 0 where there is no such chain.
    """

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self._found: dict[tuple[str, bool, int], Tuning | None] = {}

    def of(self, act: Activation, bias: bool) -> Tuning | None:
        """Tuning of the layer after an activation.

        Args:
            act: the activation.
            bias: whether the layer has a bias to draw.

        Returns:
            The tuning; None where the activation has no useful one.
        """
        key = (act.name, bias, self.depth)
        if key not in self._found:
            held = held_kernel(act, self.depth) if self.depth else None
            self._found[key] = held or _tuning(act, bias)
        return self._found[key]


@torch.no_grad()
def held_kernel(act: Activation, depth: int) -> Tuning | None:
    r"""The largest kernel at which a chain of a smooth activation keeps kernels and differences through all its layers.

    .. math:: C_W = \frac{K}{g(K)},\quad C_b = 0, \qquad \chi_\perp^L \le \zeta, \quad \chi_\parallel^L \le \zeta,
              \quad \zeta = 1.5

    K is a fixed point of the kernel map. Differences in direction grow by at most zeta over the chain, as Deep Kernel
    Shaping has it, and so do differences in size (where chi_parallel < 1 they fade, which does no harm). Where
    :math:`\sigma(z) = \sigma'(0) z + \dots` there is always such a K: it falls as 1/L, and the network is close to
    linear there. A critical point keeps infinitesimal differences through any depth, but finite ones fall as 1/l
    (GELU, SiLU), or the kernel does (tanh, sin).

    Args:
        act: the activation.
        depth: L.

    Returns:
        The tuning; None where the activation is not zero at zero, or has a kink or no slope there.

    Source: Martens et al. (2021), Rapid training of deep neural networks without skip connections or normalization
    layers using Deep Kernel Shaping, sections 5 and 8, without its change of the activation.
    """
    left, right = act.taylor(1)
    if abs(float(right[0])) > _TINY or abs(float(right[1] - left[1])) > _TINY or abs(float(right[1])) <= _TINY:
        return None
    K = torch.logspace(math.log10(_SMALLEST), math.log10(_KERNELS[1]), 2 * _POINTS, dtype=torch.float64)
    C_W = K / act.second_moment(K)
    across, along = C_W * act.derivative_moment(K), C_W * act.second_moment_slope(K)
    budget = _SLOPE / depth
    keeps = (across.log().abs() <= budget) & (along.log() <= budget) & torch.isfinite(C_W)
    # all smaller kernels must do too, else the network is not close to linear but at a crossing
    last = int((~keeps).to(torch.int8).argmax()) - 1 if not bool(keeps.all()) else len(K) - 1
    if last < 0 or not bool(keeps[0]):
        return None
    k, c = float(K[last]), float(C_W[last])
    why = (
        f"a kernel of {k:.4g} comes back from {act.name} under C_W = {c:.5g}, and {depth} layers multiply differences in "
        f"direction by {float(across[last]) ** depth:.3g} and in size by {float(along[last]) ** depth:.3g}, at most 1.5"
    )
    return Tuning(c, 0.0, k, "held", why)


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
