"""Spread of the tangent kernel of deep ReLU networks over initializations, exactly at any depth and width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.flow import Layers
from leadline.theory.tangent.relu_layer import Gates, Tail

__all__ = ["Dispersion", "relu_dispersion", "relu_dispersion_limit"]


@dataclass(frozen=True)
class Dispersion:
    r"""First two moments of a diagonal entry of the tangent kernel, :math:`H = \sum_l (H_l^W + H_l^b)`.

    Args:
        means: of what the weights and the biases of each layer contribute, shape (L, 2).
        products: mean products of these, shape (L, L, 2, 2).
    """

    means: Tensor
    products: Tensor

    @cached_property
    def mean(self) -> float:
        """E H."""
        return float(self.means.sum())

    @cached_property
    def ratio(self) -> float:
        """E H^2 / (E H)^2, 1 where the tangent kernel is the same for every network."""
        return float(self.products.sum()) / self.mean**2

    @cached_property
    def weights_only(self) -> float:
        """The same for the weights' contributions alone."""
        return float(self.products[:, :, 0, 0].sum() / self.means[:, 0].sum() ** 2)


@checked(negative=("norm",))
def relu_dispersion(layers: Layers, norm: float = 1.0) -> Dispersion:
    r"""Exact mean and second moment of the tangent kernel of one input, for ReLU networks without biases at the start.

    .. math:: H = \sum_l \left(\lambda_W^{(l)}\frac{|s^{(l-1)}|^2}{n_{l-1}} + \lambda_b^{(l)}\right)|\delta^{(l)}|^2,
        \qquad \delta^{(l)} = \partial z^{(L)}_1/\partial z^{(l)}

    Backward, the gradient of the rest of the network is split along the signal, where it is the output itself, and
    across it, where it is isotropic. Of both the moments close from layer to layer; signal and gradient that pass through
    the same layer share its number of active units k, and a fraction of :math:`\mathrm{Beta}(\frac{k-1}2, \frac{n-k}2)`
    of the gradient across the signal survives. Nothing is expanded in 1/n.

    Args:
        layers: ReLU, C_b = 0 in every layer; any widths, C_W (ordered, critical, chaotic) and learning rates.
        norm: |x|^2/n_0.

    Returns:
        Means and mean products of every layer's contribution.

    Raises:
        ValueError: another activation, or a layer with C_b > 0.

    Source: own derivation; compare Hanin and Nica (2019), Seleznova and Kutyniok (2022).

    >>> round(relu_dispersion(Layers.of("relu", depth=8, width=64, C_W=2.0, lambda_b=0.0)).ratio, 4)
    1.4663
    """
    if layers.activation.slopes != (1.0, 0.0):
        raise ValueError(
            f"got {layers.activation.name}: the exact law is that of ReLU; use tangent_flow to first order."
        )
    if any(layers.C_b):
        raise ValueError(f"got C_b = {layers.C_b[:6]}: the exact law is for biases that start at 0.")
    L, n = layers.depth, layers.widths
    gates = [Gates.of(width) for width in n[1:-1]]
    c = [C / fan_in for C, fan_in in zip(layers.C_W, n)]
    # moments of F_l = |s^(l)|^2 / n_l
    F = [(1.0, norm, norm**2)]
    for i, gate in enumerate(gates):
        factor = layers.C_W[i] / n[i + 1]
        F.append((1.0, F[-1][1] * factor * gate.k[1], F[-1][2] * factor**2 * gate.k[2]))
    # tails[l]: the rest of the network as a function of s^(l); back[l]: moments of |delta^(l)|^2
    tails = {L - 1: Tail.last(c[L - 1], n[L - 1])}
    for i in range(L - 2, 0, -1):
        tails[i] = gates[i].before(tails[i + 1], c[i], n[i])
    back = [gate.gradient(tails[i]) for i, gate in enumerate(gates, start=1)] + [(1.0, 1.0)]
    rates = torch.tensor([layers.lambda_W, layers.lambda_b], dtype=torch.float64).T
    means = torch.tensor([[F[i][1] * back[i][0], back[i][0]] for i in range(L)], dtype=torch.float64)
    products = torch.empty(L, L, 2, 2, dtype=torch.float64)
    for m in range(1, L + 1):
        for late in (0, 1):  # whether the later layer contributes by its weights
            joint = None
            for k in range(m, 0, -1):
                if k == m:
                    moment = back[m - 1][1]
                else:
                    if joint is None:
                        joint = _joint(gates, tails, c, n, m, late)
                    elif k < m - 1:
                        joint = gates[k].carry(joint, c[k], n[k], late)
                    moment = (c[k - 1] * n[k - 1]) ** late * gates[k - 1].meet(joint, late)
                for early in (0, 1):
                    value = F[k - 1][early + late] * moment
                    products[k - 1, m - 1, 1 - early, 1 - late] = value
                    products[m - 1, k - 1, 1 - late, 1 - early] = value
    means = means * rates
    return Dispersion(means, products * rates[:, None, :, None] * rates[None, :, None, :])


def _joint(
    gates: list[Gates], tails: dict[int, Tail], c: list[float], n: tuple[int, ...], m: int, late: int
) -> tuple[float, float]:
    """Moments with the contribution of layer m, of the gradient at s^(m-1), a unit vector, along and across it."""
    scale = c[m - 1] / n[m - 1] ** late
    if m == len(c):
        return scale, scale * (n[m - 1] - 1)
    along, across = gates[m - 1].with_gradient(tails[m])
    return scale * along, scale * (n[m - 1] - 1) * across


@checked()
def relu_dispersion_limit(ratio: float) -> float:
    r"""E H^2 / (E H)^2 of the weights' contributions where depth and width grow at a fixed ratio r = L/n.

    .. math:: e^{5r}\left[\frac13 + \frac2{9r}\left(1 - \frac{1 - e^{-6r}}{6r}\right)\right] = 1 + \tfrac{11}3 r + O(r^2)

    Args:
        ratio: r, number of hidden layers over width, not negative.

    Returns:
        The ratio of moments.

    Raises:
        ValueError: r is negative.

    Source: own derivation; compare Hanin and Nica (2019).

    >>> relu_dispersion_limit(0.0)
    1.0
    """
    if ratio < 0:
        raise ValueError(f"got r={ratio}: a depth over a width is not negative.")
    x = 6 * ratio
    # (x - 1 + e^-x)/x^2 by its series where it would cancel
    bracket = 0.5 - x / 6 + x**2 / 24 if x < 1e-4 else (x + math.expm1(-x)) / x**2
    return math.exp(5 * ratio) * (1 / 3 + 4 / 3 * bracket)
