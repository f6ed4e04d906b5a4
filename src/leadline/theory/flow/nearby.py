"""Two nearby inputs: how their distance and their difference in size travel through the layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.gaussian import Expectation
from leadline.gaussian.arguments import checked
from leadline.gaussian.one import weighted_expectation
from leadline.theory.flow.layers import Layers
from leadline.theory.flow.single import single_input_flow

__all__ = ["NearbyFlow", "derivative_moment_slope", "nearby_flow"]


@dataclass(frozen=True)
class NearbyFlow:
    r"""Kernels of two nearby inputs to second order in their difference, shape (L,) each.

    .. math:: K_{++} = K_0 + K_1 + K_2, \quad K_{--} = K_0 - K_1 + K_2, \quad K_{+-} = K_0 - K_2

    Args:
        K0: kernel of the midpoint, :math:`\langle((z_+ + z_-)/2)^2\rangle`.
        K1: half the difference in size, :math:`(K_{++} - K_{--})/2`, of first order.
        K2: quarter of the distance squared, :math:`\langle((z_+ - z_-)/2)^2\rangle`, of second order.
        chi_parallel: factor of K1 a layer, shape (L-1,).
        chi_perp: factor of K2 a layer, shape (L-1,).
        h: what K1^2 adds to K2, half the derivative of chi_perp in K, shape (L-1,).
    """

    K0: Tensor
    K1: Tensor
    K2: Tensor
    chi_parallel: Tensor
    chi_perp: Tensor
    h: Tensor

    @property
    def K(self) -> Tensor:
        """The kernels of both inputs, shape (L, 2, 2)."""
        cross = self.K0 - self.K2
        rows = [torch.stack([self.K0 + self.K1 + self.K2, cross], -1)]
        rows.append(torch.stack([cross, self.K0 - self.K1 + self.K2], -1))
        return torch.stack(rows, -2)


@checked()
def nearby_flow(layers: Layers, gram: Tensor) -> NearbyFlow:
    r"""Kernels of two nearby inputs at every layer, expanded to second order in their difference.

    .. math::
        K_1' = \chi_\parallel K_1, \quad K_2' = \chi_\perp K_2 + h K_1^2, \quad
        K_0' = C_b + C_W g(K_0) + (\chi_\parallel - \chi_\perp) K_2 + (\tfrac12 C_W g'' - h) K_1^2

    at the midpoint's kernel, with :math:`h = \tfrac12 d\chi_\perp/dK`. Free of the cancellation in K_++ - K_+-.

    Args:
        layers: activation and variances.
        gram: x_a · x_b / n_0 of the two inputs, shape (2, 2).

    Returns:
        The three kernels and the susceptibilities, dtype and device of ``gram``.

    Raises:
        ValueError: gram is not of two inputs, or the activation jumps.

    Source: Roberts, Yaida and Hanin (2022), chapter 5.

    >>> gram = torch.tensor([[1.0, 0.999], [0.999, 1.0]], dtype=torch.float64)
    >>> flow = nearby_flow(Layers.of("tanh", depth=4), gram)
    >>> bool(flow.K2[-1] < flow.K2[0])
    True
    """
    if tuple(gram.shape) != (2, 2):
        raise ValueError(f"got a Gram matrix of shape {tuple(gram.shape)}: give that of two inputs, (2, 2).")
    G = layers.first_kernel(gram.detach().to(torch.float64))
    K0 = (G[0, 0] + G[1, 1] + 2 * G[0, 1]) / 4
    flow = single_input_flow(layers, (gram[0, 0] + gram[1, 1] + 2 * gram[0, 1]).to(torch.float64) / 4)
    C_W = torch.tensor(layers.C_W[1:], dtype=torch.float64)
    at = flow.K[:-1]
    h = C_W * derivative_moment_slope(layers.activation, at) / 2
    bend = C_W * layers.activation.second_moment_curvature(at) / 2
    K1 = torch.empty_like(flow.K)
    K2, shift = torch.empty_like(K1), torch.zeros_like(K1)
    K1[0], K2[0] = (G[0, 0] - G[1, 1]) / 2, (G[0, 0] + G[1, 1] - 2 * G[0, 1]) / 4
    shift[0] = K0 - flow.K[0]
    for i, (par, perp) in enumerate(zip(flow.chi_parallel, flow.chi_perp)):
        K1[i + 1] = par * K1[i]
        K2[i + 1] = perp * K2[i] + h[i] * K1[i] ** 2
        shift[i + 1] = par * shift[i] + (par - perp) * K2[i] + (bend[i] - h[i]) * K1[i] ** 2
    parts = (flow.K + shift, K1, K2, flow.chi_parallel, flow.chi_perp, h)
    return NearbyFlow(*(t.to(gram) for t in parts))


@checked()
def derivative_moment_slope(activation: Activation, K: Tensor) -> Tensor:
    r"""Derivative of <sigma'^2> in the kernel.

    .. math:: \frac{d\langle\sigma'^2\rangle}{dK} = \frac{\langle\sigma'^2 (z^2 - K)\rangle}{2K^2}

    Args:
        activation: sigma, continuous.
        K: kernels > 0, any shape, units of z squared.

    Returns:
        Shape, dtype and device of K.

    Raises:
        ValueError: sigma jumps.
    """
    if activation.jumps:
        raise ValueError(f"<sigma'^2> of {activation.name} is infinite: it jumps; use a continuous activation")
    df = activation.derivative
    sides = torch.tensor([-1e-30, 1e-30], dtype=torch.float64, device=K.device)
    constant = (df(sides).to(torch.float64) ** 2).mean()

    def integrand(z: Tensor, k: Tensor) -> Tensor:
        # a constant has no slope: without it small kernels keep their digits
        return (df(z).to(torch.float64) ** 2 - constant) * (z * z - k)

    out: Expectation = weighted_expectation(integrand, K.to(torch.float64), kinks=activation.kinks)
    return (out.value / (2 * K.to(torch.float64) ** 2)).to(K.dtype)
