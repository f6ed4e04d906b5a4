"""Growth of a critical network's relative spread with depth over width: what a layer adds, and what a skip changes."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.gaussian import expectation
from leadline.gaussian.arguments import checked

__all__ = ["layer_spread", "spread_with_skip", "third_moment"]


@checked(negative=("K",))
def layer_spread(act: Activation, K: float) -> float:
    r"""What a layer with chi_perp = 1 adds to n V/K^2.

    .. math:: C_W^2\big(\langle\sigma^4\rangle - \langle\sigma^2\rangle^2\big)/K^2, \qquad
        C_W = 1/\langle\sigma'^2\rangle

    Args:
        act: a continuous activation.
        K: kernel, positive, units of z squared.

    Returns:
        The growth without a skip.
    """
    k = torch.tensor(float(K), dtype=torch.float64)
    C_W = 1 / float(act.derivative_moment(k))
    variance = float(act.fourth_moment(k) - act.second_moment(k) ** 2)
    return C_W**2 * variance / K**2


@checked()
def third_moment(act: Activation, K: Tensor) -> Tensor:
    r"""<z sigma^2>_K, which breaks z -> -z in a residual stream.

    Args:
        act: the activation.
        K: variances, any shape, units of z squared.

    Returns:
        Shape of K; 0 for odd and even activations.
    """
    return expectation(lambda z: z * act.fn(z) ** 2, K, kinks=act.kinks, rtol=act.rtol).value


@checked(
    negative=(
        "growth",
        "residual",
    )
)
def spread_with_skip(growth: float, skew: float, residual: float) -> float:
    r"""Growth of V/(n K^2) with a skip: the even correlators, and the three-point vertex that a skewed branch brings in.

    .. math:: (1-\gamma^2)^2\,\nu + 4\gamma^2(1-\gamma^2) + \frac{2\gamma}{1-\gamma}(1-\gamma^2)^2\,\text{skew}^2

    Args:
        growth: nu without a skip.
        skew: <z sigma^2>/(<sigma'^2> K^{3/2}); 0 leaves the vertex out.
        residual: strength gamma of the skip, less than 1.

    Returns:
        nu with the skip.
    """
    keep = 1 - residual**2
    vertex = 2 * residual / (1 - residual) * (keep * skew) ** 2
    return keep**2 * growth + 4 * residual**2 * keep + vertex
