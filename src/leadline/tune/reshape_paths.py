r"""How far correlations are handed on along the worst path of a graph, and the local share that each nonlinearity may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from leadline.activations import Activation
from leadline.program import Step
from leadline.tune.init_design import branch_factors
from leadline.tune.init_places import NORMS, Places, data_input
from leadline.tune.reshape_solve import leaky_at_zero
from leadline.tune.reshape_wrap import local_map

__all__ = ["Worst", "local_slope", "planned_kernels", "solve_ratio", "solve_slope"]

_LARGEST = 50.0  # of a local slope


def planned_kernels(places: Places) -> dict[str, float]:
    """Second moment of each step's value once layers land on one and branches have their factor.

    Args:
        places: of the network.

    Returns:
        Kernel by step name.
    """
    factors = branch_factors(places) if len(places.branches) > 1 else {}
    found: dict[str, float] = {}
    for step in places.steps.values():
        random = [n for n in step.inputs if n in found]
        if step.weighted:
            branch = places.ending(step)
            scaled = branch is not None and branch.parameter in factors
            found[step.name] = factors[branch.parameter][0] ** 2 if scaled and branch is not None else 1.0
        elif step.op == "pointwise" or step.op in NORMS or not random:
            found[step.name] = 1.0
        elif step.op in ("add", "sub"):
            found[step.name] = sum(found[n] for n in random)
        elif step.op == "mul":
            found[step.name] = math.prod(found[n] for n in random)
        else:
            found[step.name] = found[data_input(step) or ""] if data_input(step) in found else found[random[-1]]
    return found


class Worst:
    r"""The largest value that a quantity of correlations takes over all sub-networks of a graph.

    .. math::
        M_{s \circ f} = m_s(M_f),\quad M_{\sum_i w_i f_i} = \sum_i \frac{K_i}{\sum_j K_j} M_{f_i}

    Layers, norms, pooling and attention hand it on; products of two different signals multiply their correlations.

    Args:
        places: of the network.
        kernels: planned second moments, which weigh the terms of a sum.

    Source: Martens et al., Rapid training of deep neural networks without skip connections or normalization layers using
        Deep Kernel Shaping (2021), sections 7 and 8: the maximal slope function.
    """

    def __init__(self, places: Places, kernels: Mapping[str, float]) -> None:
        self.places, self.kernels = places, kernels

    def slope(self, local: Mapping[str, float]) -> float:
        """Largest slope of a correlation map at one, given those of the nonlinearities."""
        return self._walk(1.0, lambda step, M: M * local.get(step.name, 1.0), lambda m, n: m + n)

    def at_zero(self, local: Mapping[str, Callable[[float], float]]) -> float:
        """Largest correlation that inputs of none come out with, given the maps of the nonlinearities."""
        return self._walk(0.0, lambda step, c: local[step.name](c) if step.name in local else c, lambda b, c: b * c)

    def _walk(
        self, start: float, pointwise: Callable[[Step, float], float], product: Callable[[float, float], float]
    ) -> float:
        values: dict[str, float] = {}
        for step in self.places.steps.values():
            random = [n for n in dict.fromkeys(step.inputs) if n in values]
            given = [values[n] for n in random]
            if not given:
                values[step.name] = start
            elif step.op == "pointwise":
                values[step.name] = pointwise(step, given[0])
            elif step.op in ("add", "sub") and len(given) > 1:
                total = sum(self.kernels[n] for n in random)
                values[step.name] = sum(self.kernels[n] * values[n] for n in random) / max(total, 1e-300)
            elif step.op == "mul" and len(given) == 2:
                values[step.name] = product(*given)
            else:
                values[step.name] = max(given)
        return max(values.values(), default=start)


def local_slope(act: Activation) -> float:
    """C'(1) of an activation at a unit variance as it is; infinite where it jumps."""
    return math.inf if act.jumps else local_map(act).slope


def solve_slope(worst: Worst, steps: list[str], others: Mapping[str, float], target: float) -> float | None:
    r"""The slope psi that each reshaped nonlinearity may have.

    .. math:: M(\psi) = \zeta\, M(1)

    Args:
        worst: of the graph.
        steps: names of those that are reshaped.
        others: slopes of the nonlinearities that stay.
        target: zeta, what they may multiply the slope of the rest by.

    Returns:
        psi, above one; None where no slope below 50 would reach the target.
    """
    from scipy import optimize

    rest = worst.slope(others)

    def distance(log_slope: float) -> float:
        return math.log(worst.slope({**others, **dict.fromkeys(steps, math.exp(log_slope))}) / (target * rest))

    if not math.isfinite(rest) or distance(math.log(_LARGEST)) < 0:
        return None
    return math.exp(float(optimize.brentq(distance, 0.0, math.log(_LARGEST), xtol=1e-14)))


def solve_ratio(
    worst: Worst, steps: list[str], others: Mapping[str, Callable[[float], float]], target: float
) -> float | None:
    r"""The ratio of slopes that each leaky rectifier may have.

    .. math:: \max_f C_f(0) = \eta

    Args:
        worst: of the graph.
        steps: names of those that are reshaped.
        others: correlation maps of the nonlinearities that stay.
        target: eta.

    Returns:
        The ratio, left over right slope, from 0 to 1; None where the rest alone exceeds the target.
    """
    from scipy import optimize

    def distance(ratio: float) -> float:
        def leaky(c: float) -> float:
            return float(leaky_at_zero(ratio, torch.tensor(c, dtype=torch.float64)))

        return worst.at_zero({**others, **dict.fromkeys(steps, leaky)}) - target

    if distance(1.0) >= 0:
        return None
    return 0.0 if distance(0.0) <= 0 else float(optimize.brentq(distance, 0.0, 1.0, xtol=1e-12))
