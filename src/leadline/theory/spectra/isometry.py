"""Dynamical isometry: whether all singular values of a deep network's Jacobian can stay near 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from leadline.activations import Activation, activation
from leadline.gaussian.arguments import checked
from leadline.theory.spectra.slopes import slope_law

__all__ = ["Isometry", "isometry"]

_LOWEST, _HIGHEST = 1e-6, 1e3
_POINTS_A_DECADE = 6


@dataclass(frozen=True)
class Isometry:
    """Where on its critical line a network of this depth keeps its singular values together.

    Attributes:
        attainable: whether there is such a point.
        K: largest kernel at which the spectrum is as narrow as asked; None where there is none.
        C_W: 1/<sigma'^2>_K, width times the weight variance, or the squared scale of orthogonal weights.
        C_b: bias variance that holds the kernel at K.
        relative_variance: of the squared singular values, at K or, where nothing is attainable, the smallest found.
        reason: one sentence.
    """

    attainable: bool
    K: float | None
    C_W: float | None
    C_b: float | None
    relative_variance: float
    reason: str


@checked()
def isometry(obj: object, depth: int, *, weights: str = "orthogonal", relative_variance: float = 0.25) -> Isometry:
    r"""Largest kernel on the critical line at which the Jacobian's squared singular values stay together.

    .. math:: C_W\langle\sigma'^2\rangle_K = 1,\quad C_b = K - C_W\langle\sigma^2\rangle_K \ge 0,\quad
              L\Big(\frac{\langle\sigma'^4\rangle_K}{\langle\sigma'^2\rangle_K^2} - 1 + [\text{Gaussian}]\Big) \le v

    Gaussian weights alone bring L. Orthogonal ones bring nothing, so that an activation that is linear for small
    signals can be isometric at any depth if its kernel is small enough; ReLU has L at every kernel and cannot.

    Args:
        obj: anything that :func:`leadline.activations.activation` takes.
        depth: number of layers L.
        weights: "gaussian" or "orthogonal".
        relative_variance: v, how wide the spectrum of squared singular values (of mean 1) may be.
    Returns:
        The point, or why there is none; kernels from 1e-6 to 1e3 are searched.
    Raises:
        ValueError: a number is not allowed, the weights are neither, or the activation jumps.
    Source: Pennington, Schoenholz & Ganguli (2017), Resurrecting the sigmoid in deep learning through dynamical isometry.

    >>> isometry("tanh", 50).attainable, isometry("relu", 50).attainable
    (True, False)
    """
    act = activation(obj)
    if weights not in ("gaussian", "orthogonal"):
        raise ValueError(f"weights must be one of gaussian, orthogonal, got {weights!r}")
    if depth < 1 or not relative_variance > 0:
        raise ValueError(
            f"got depth={depth}, relative_variance={relative_variance}: take 1 or more and a positive number"
        )
    extra = 1.0 if weights == "gaussian" else 0.0
    if extra * depth > relative_variance:
        return Isometry(
            False, None, None, None, extra * depth,
            f"{depth} Gaussian layers have a relative variance of {depth} or more whatever the activation: use orthogonal "
            "weights",
        )  # fmt: skip
    count = round(_POINTS_A_DECADE * math.log10(_HIGHEST / _LOWEST)) + 1
    grid = torch.logspace(math.log10(_LOWEST), math.log10(_HIGHEST), count, dtype=torch.float64).tolist()
    held = [K for K in grid if _bias(act, K) >= -1e-9 * K]
    if not held:
        return Isometry(
            False, None, None, None, math.inf,
            f"no bias variance holds the kernel of {act.name} on its critical line (C_b would be negative)",
        )  # fmt: skip

    def variance(K: float) -> float:
        return depth * (slope_law(act, K).excess + extra)

    widths = {K: variance(K) for K in held}
    narrow = [K for K in held if widths[K] <= relative_variance]
    if not narrow:
        best = min(widths.values())
        return Isometry(
            False, None, None, None, best,
            f"the slopes of {act.name} differ too much at every kernel: {depth} layers have a relative variance of at least "
            f"{best:.3g}",
        )  # fmt: skip
    low = max(narrow)
    K, high = low, next((K for K in grid if low < K), low)
    for _ in range(40):
        middle = math.sqrt(low * high)
        fits = variance(middle) <= relative_variance and _bias(act, middle) >= -1e-9 * middle
        low, high = (middle, high) if fits else (low, middle)
        K = low
    C_W = 1 / float(act.derivative_moment(K))
    return Isometry(
        True, K, C_W, max(_bias(act, K), 0.0), variance(K),
        f"{act.name} with {weights} weights stays isometric over {depth} layers up to a kernel of {K:.3g}",
    )  # fmt: skip


def _bias(act: Activation, K: float) -> float:
    return K - float(act.second_moment(K)) / float(act.derivative_moment(K))
