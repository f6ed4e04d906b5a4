"""One input: kernel, four-point vertex and first finite-width correction of every layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.flow.kernel import kernel_flow
from leadline.theory.flow.layers import Layers

__all__ = ["SingleInputFlow", "single_input_flow"]

_RANGE = (1e-24, 1e30)


@dataclass(frozen=True)
class SingleInputFlow:
    r"""Tensors of every layer for one input at a time, shape (L, ...) where ... are the inputs' axes.

    Given the layers before l the pre-activations of layer l are independent and N(0, G) with G random:

    .. math:: E\,G = K + G_1/n + O(1/n^2), \qquad \mathrm{Var}\,G = V/n + O(1/n^2), \qquad n = n_{l-1}

    Args:
        layers: what the flow was computed for.
        K: kernel at infinite width, units of z squared.
        log_K: ln K, also where K itself is out of the range of floats.
        chi_parallel: C_W g'(K) of the step from layer l to l+1, shape (L-1, ...).
        chi_perp: C_W <sigma'^2> of the step from layer l to l+1, shape (L-1, ...).
        relative_V: V/K^2.
        relative_G1: G1/K.
    """

    layers: Layers
    K: Tensor
    log_K: Tensor
    chi_parallel: Tensor
    chi_perp: Tensor
    relative_V: Tensor
    relative_G1: Tensor

    @property
    def V(self) -> Tensor:
        """Four-point vertex, units of z to the fourth; the coefficient of 1/n_{l-1}."""
        return self.relative_V * self.K**2

    @property
    def G1(self) -> Tensor:
        """First correction to the kernel, units of z squared; the coefficient of 1/n_{l-1}."""
        return self.relative_G1 * self.K

    @property
    def fan_in(self) -> Tensor:
        """n_{l-1}, shaped to divide the coefficients."""
        n = torch.tensor(self.layers.fan_in, dtype=self.K.dtype, device=self.K.device)
        return n.reshape(-1, *(1,) * (self.K.ndim - 1))

    @property
    def spread(self) -> Tensor:
        """V/(n K^2): variance of G over networks relative to its mean squared, to first order in 1/n."""
        return self.relative_V / self.fan_in

    @property
    def mean_kernel(self) -> Tensor:
        """K + G1/n: mean of z^2 to first order in 1/n."""
        return self.K * (1 + self.relative_G1 / self.fan_in)

    @property
    def excess_kurtosis(self) -> Tensor:
        """E z^4/(E z^2)^2 - 3 = 3 V/(n K^2) to first order in 1/n."""
        return 3 * self.spread

    def moment(self, order: int) -> Tensor:
        r"""Mean of z to an even power, to first order in 1/n.

        .. math:: E\,z^{2k} = (2k - 1)!!\,\{K^k + [k K^{k-1} G_1 + \tfrac12 k(k-1) K^{k-2} V]/n\}

        Args:
            order: the power 2k.

        Returns:
            Shape (L, ...), units of z to that power.

        Raises:
            ValueError: the power is odd or negative.
        """
        if order < 0 or order % 2:
            raise ValueError(f"got order={order}: odd moments vanish, give an even power.")
        k = order // 2
        change = k * self.relative_G1 + k * (k - 1) / 2 * self.relative_V
        return math.prod(range(1, order, 2)) * self.K**k * (1 + change / self.fan_in)

    @property
    def out_of_range(self) -> str:
        """One sentence on kernels that no float holds, or ""."""
        for what, bad in (("explodes", torch.isposinf(self.K)), ("vanishes", (self.K == 0) & (self.K[:1] > 0))):
            rows = bad.reshape(bad.shape[0], -1).any(dim=1).nonzero()
            if rows.numel():
                faster = bool(torch.isinf(self.log_K[bad]).any())
                rest = "faster than exponentially" if faster else "use log_K and the ratios to K, which are exact"
                return f"The kernel {what}: from layer {int(rows[0]) + 1} on it is out of the range of floats ({rest})."
        return ""


@checked()
def single_input_flow(layers: Layers, norm: Tensor | float) -> SingleInputFlow:
    r"""Kernel K, four-point vertex V and kernel correction G1 of every layer, for one input at a time.

    .. math::
        K' = C_b + C_W\langle\sigma^2\rangle_K, \quad
        V' = C_W^2(\langle\sigma^4\rangle - \langle\sigma^2\rangle^2) + r\chi_\parallel^2 V, \quad
        G_1' = r[\chi_\parallel G_1 + \tfrac12 C_W g''(K) V]

    with g = <sigma^2>, chi_par = C_W g', r = n_l/n_{l-1} (0 in the first step), V and G1 zero at layer 1.

    Args:
        layers: widths, activation and variances.
        norm: |x|^2/n_0, the mean square of an input's entries; any shape.

    Returns:
        The tensors of every layer, dtype and device of ``norm`` (float64 for a number).

    Raises:
        ValueError: a norm is negative.

    Source: Roberts, Yaida and Hanin (2022), chapter 4.

    >>> flow = single_input_flow(Layers.of("relu", depth=3, C_W=2.0), 1.0)
    >>> flow.V[-1].item()
    40.0
    """
    K1 = layers.first_kernel(norm)
    K, log_K = kernel_flow(layers.activation, layers.C_b[1:], layers.C_W[1:], K1)
    act, k = layers.activation, K[:-1]
    # beyond these kernels sigma is linear on both sides of 0, or the flow has left the floats anyway
    at = k.clamp(*_RANGE)
    C_W = torch.tensor(layers.C_W[1:], dtype=torch.float64)[:, None]
    g = act.second_moment(at)
    slope, curvature = act.second_moment_slope(at), act.second_moment_curvature(at)
    # K' = C_b + C_W g: what the next kernel keeps of this one's fluctuation, and what the layer adds
    share = torch.exp(torch.log(C_W * g / at) + log_K[:-1] - log_K[1:]).nan_to_num(0.0)
    added = share**2 * (act.fourth_moment(at) / g**2 - 1)
    gain = share * slope * at / g
    bend = share * curvature * at**2 / g / 2
    ratios = torch.tensor(layers.ratios, dtype=torch.float64)[:, None]
    V, G1 = torch.zeros_like(K), torch.zeros_like(K)
    for i in range(layers.depth - 1):
        V[i + 1] = added[i] + ratios[i] * gain[i] ** 2 * V[i]
        G1[i + 1] = ratios[i] * (gain[i] * G1[i] + bend[i] * V[i])
    chi_perp = C_W * (torch.full_like(at, math.inf) if act.jumps else act.derivative_moment(at))
    parts = (K, log_K, C_W * slope, chi_perp, V, G1)
    return SingleInputFlow(layers, *(t.to(K1).reshape(-1, *K1.shape) for t in parts))
