"""Powers of depth that the universality class of a critical network expects of its flow."""

from __future__ import annotations

import math

from leadline.theory.criticality import UniversalityClass, critical_point
from leadline.theory.flow import Layers

__all__ = ["expected_powers"]

_CLOSE = 1e-6  # relative distance from the critical law at which a network counts as critical
_GROWING = ("V/K^2", "A/Theta^2", "B/Theta^2", "D/(Theta K)", "F/(Theta K)")


def expected_powers(layers: Layers) -> dict[str, float]:
    r"""Powers of depth of a network whose hidden layers share one critical law.

    .. math:: K \sim l^{-p_0}, \qquad V/K^2,\ A/\Theta^2,\ B/\Theta^2,\ D/\Theta K,\ F/\Theta K \sim l

    Theta gathers lambda_b from each layer and grows as l; without it as l^{1 - p_0}, or falls as the susceptibilities
    do, as l^{-p_perp}.

    Args:
        layers: a network with one law and one set of learning rates for all layers but the first.

    Returns:
        Quantity -> power; empty where the network is not critical, or the class knows no powers.

    Source: Roberts, Yaida and Hanin (2022), chapters 5, 8, 9.
    """
    laws = set(zip(layers.C_W[1:], layers.C_b[1:], layers.lambda_W[1:], layers.lambda_b[1:], strict=True))
    if len(laws) != 1 or layers.activation.jumps:
        return {}
    ((C_W, C_b, lambda_W, lambda_b),) = laws
    point = critical_point(layers.activation)
    if point.C_W is None or point.C_b is None or point.exponents is None:
        return {}
    if point.universality_class in {UniversalityClass.none, UniversalityClass.marginal}:
        return {}
    if not (math.isclose(C_W, point.C_W, rel_tol=_CLOSE) and abs(C_b - point.C_b) <= _CLOSE * max(point.K or 0.0, 1.0)):
        return {}
    p = point.exponents
    # with weights alone training a kernel that falls, the leading parts of A and D cancel
    growing = [q for q in _GROWING if q[0] not in "AD" or lambda_b > 0 or p.p_0 == 0]
    found = {"K": -p.p_0, **dict.fromkeys(growing, 1.0)}
    if lambda_b > 0 or lambda_W > 0:
        found["Theta"] = 1.0 if lambda_b > 0 else max(1.0 - p.p_0, -p.p_perp)
    return found
