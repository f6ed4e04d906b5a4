"""Connected correlators of a layer's pre-activations, and the action whose couplings reproduce them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked

__all__ = ["EffectiveAction", "connected_four_point", "effective_action", "four_point"]


@checked(negative=("n",))
def connected_four_point(vertex: Tensor, n: float, neurons: Sequence[int], inputs: Sequence[int]) -> Tensor:
    r"""Connected correlator of four pre-activations of a layer, to leading order in 1/n.

    .. math:: E[z_{i_1;a} z_{i_2;b} z_{i_3;c} z_{i_4;d}]_c = \tfrac1n[
        \delta_{i_1i_2}\delta_{i_3i_4}V_{(ab)(cd)} + \delta_{i_1i_3}\delta_{i_2i_4}V_{(ac)(bd)}
        + \delta_{i_1i_4}\delta_{i_2i_3}V_{(ad)(bc)}]

    Args:
        vertex: V with four input axes, shape (..., m, m, m, m), units of z to the fourth.
        n: fan-in of the layer.
        neurons: i_1 … i_4.
        inputs: a, b, c, d.

    Returns:
        Shape (...), units of z to the fourth.

    Raises:
        ValueError: there are not four neurons and four inputs of those of the vertex.

    Source: Roberts, Yaida and Hanin (2022), section 4.1.
    """
    _four(vertex, neurons, inputs)
    i, x = neurons, inputs
    total = torch.zeros_like(vertex[..., 0, 0, 0, 0])
    for p, q, r, s in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)):
        if i[p] == i[q] and i[r] == i[s]:
            total = total + vertex[..., x[p], x[q], x[r], x[s]]
    return total / n


@checked(negative=("n",))
def four_point(
    K: Tensor, G1: Tensor, vertex: Tensor, n: float, neurons: Sequence[int], inputs: Sequence[int]
) -> Tensor:
    r"""Mean of the product of four pre-activations of a layer, to first order in 1/n.

    .. math:: E[z_1z_2z_3z_4] = G_{12}G_{34} + G_{13}G_{24} + G_{14}G_{23} + E[z_1z_2z_3z_4]_c, \qquad
        G = K + G_1/n

    Args:
        K: kernel, shape (..., m, m), units of z squared.
        G1: its correction.
        vertex: V with four input axes, shape (..., m, m, m, m).
        n: fan-in of the layer.
        neurons: i_1 … i_4.
        inputs: the input of each.

    Returns:
        Shape (...), units of z to the fourth; products of two corrections are left out.

    Raises:
        ValueError: there are not four neurons and four inputs, or the tensors are not of the same inputs.
    """
    if K.ndim < 2 or K.shape[-2:] != vertex.shape[-2:] or K.shape != G1.shape:
        shapes = f"{tuple(K.shape)}, {tuple(G1.shape)}, {tuple(vertex.shape)}"
        raise ValueError(f"got K, G1, V of shapes {shapes}: give (..., m, m), (..., m, m), (..., m, m, m, m).")
    total = connected_four_point(vertex, n, neurons, inputs)
    i, x = neurons, inputs
    for p, q, r, s in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)):
        if i[p] == i[q] and i[r] == i[s]:
            one, two = K[..., x[p], x[q]], K[..., x[r], x[s]]
            total = total + one * two + (one * G1[..., x[r], x[s]] + two * G1[..., x[p], x[q]]) / n
    return total


def _four(vertex: Tensor, neurons: Sequence[int], inputs: Sequence[int]) -> None:
    if vertex.ndim < 4 or len(set(vertex.shape[-4:])) > 1:
        raise ValueError(
            f"got a vertex of shape {tuple(vertex.shape)}: give V with four input axes, (..., m, m, m, m)."
        )
    m = vertex.shape[-1]
    if not all(-m <= x < m for x in inputs):
        raise ValueError(f"got inputs {list(inputs)[:6]} of {m}: give numbers from 0 to {m - 1}.")
    if len(neurons) != 4 or len(inputs) != 4:
        raise ValueError(
            f"got {len(neurons)} neurons and {len(inputs)} inputs: a four-point correlator takes 4 of each."
        )


@dataclass(frozen=True)
class EffectiveAction:
    r"""Action of k neurons of a layer whose density is proportional to exp(-S), to first order in 1/n.

    .. math:: S(z) = \tfrac12\sum_i g^{ab} z_{i;a} z_{i;b} - \tfrac18\sum_{ij} v^{(ab)(cd)}
        z_{i;a} z_{i;b} z_{j;c} z_{j;d}

    Args:
        g: quadratic coupling, shape (m, m), units of 1/z squared; it depends on the number of neurons.
        v: quartic coupling, shape (m, m, m, m), of order 1/n; it does not.
        neurons: k.
        kernel: K at infinite width, about which the density is expanded.
        shift: g - K^-1, of order 1/n.
    """

    g: Tensor
    v: Tensor
    neurons: int
    kernel: Tensor
    shift: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """S(z).

        Args:
            z: shape (..., k, m).

        Returns:
            Shape (...).
        """
        return torch.einsum("ab,...ia,...ib->...", self.g, z, z) / 2 - self._quartic(z)

    def density(self, z: Tensor) -> Tensor:
        r"""Normalized density to first order in 1/n; it can be negative far out, where that order is not enough.

        .. math:: p(z) = N(z; K)\,[1 - \delta S(z) + \langle\delta S\rangle_K], \qquad
            \delta S = S - \tfrac12 z K^{-1} z

        Args:
            z: shape (..., k, m).

        Returns:
            Shape (...), units of z to the power -k m.

        Raises:
            ValueError: z is not of k neurons and m inputs.
        """
        m = self.kernel.shape[0]
        if z.shape[-2:] != (self.neurons, m):
            raise ValueError(f"got z of shape {tuple(z.shape)}: give (..., {self.neurons}, {m}), neurons then inputs.")
        zero = torch.zeros(m, dtype=z.dtype, device=z.device)
        gaussian = torch.distributions.MultivariateNormal(zero, self.kernel).log_prob(z).sum(-1).exp()
        change = torch.einsum("ab,...ia,...ib->...", self.shift, z, z) / 2 - self._quartic(z)
        return gaussian * (1 - change + self._mean_change())

    def _quartic(self, z: Tensor) -> Tensor:
        square = torch.einsum("...ia,...ib->...ab", z, z)
        return torch.einsum("abcd,...ab,...cd->...", self.v, square, square) / 8

    def _mean_change(self) -> Tensor:
        k, K = self.neurons, self.kernel
        two = k * torch.einsum("ab,ab->", self.shift, K) / 2
        apart = torch.einsum("abcd,ab,cd->", self.v, K, K)
        crossed = torch.einsum("abcd,ac,bd->", self.v, K, K)
        return two - (k**2 * apart + 2 * k * crossed) / 8


@checked(
    negative=(
        "n",
        "neurons",
    )
)
def effective_action(K: Tensor, G1: Tensor, vertex: Tensor, n: float, neurons: int = 1) -> EffectiveAction:
    r"""Running couplings of a layer's distribution from its kernel, four-point vertex and kernel correction.

    .. math::
        v^{(ab)(cd)} = V^{(ab)(cd)}/n, \qquad
        g^{ab} = K^{ab} - G_1^{ab}/n + \sum_{cd} K_{cd}\,[\tfrac k2 V^{(ab)(cd)} + V^{(ac)(bd)}]/n

    indices raised by the inverse kernel K^ab; k neurons. For one input v = V/(nK^4),
    g = 1/K - G1/(nK^2) + (k + 2)V/(2nK^3).

    Args:
        K: kernel, shape (m, m), units of z squared; a number for one input.
        G1: its correction, shape of K.
        vertex: V, shape (m, m, m, m); a number for one input.
        n: fan-in of the layer.
        neurons: number k of neurons that the action is of.

    Returns:
        The action.

    Raises:
        ValueError: the shapes do not fit together, or the kernel is singular (equal inputs).

    Source: Roberts, Yaida and Hanin (2022), sections 1.3 and 4.4.

    >>> one = torch.tensor(1.0, dtype=torch.float64)
    >>> action = effective_action(one, 0 * one, 5 * one, n=100)
    >>> round(action.g.item(), 3), round(action.v.item(), 3)
    (1.075, 0.05)
    """
    if K.ndim == 0:
        K, G1, vertex = K.reshape(1, 1), G1.reshape(1, 1), vertex.reshape(1, 1, 1, 1)
    m = K.shape[0]
    if tuple(K.shape) != (m, m) or tuple(G1.shape) != (m, m) or tuple(vertex.shape) != (m,) * 4:
        shapes = f"{tuple(K.shape)}, {tuple(G1.shape)}, {tuple(vertex.shape)}"
        raise ValueError(f"got K, G1, V of shapes {shapes}: give (m, m), (m, m), (m, m, m, m).")
    factor, info = torch.linalg.cholesky_ex(K)
    if bool(info != 0):
        raise ValueError("the kernel is singular: leave out equal inputs, their neurons have no joint density.")
    inverse = torch.cholesky_inverse(factor)
    raised = torch.einsum("abcd,ae,bf,cg,dh->efgh", vertex, inverse, inverse, inverse, inverse) / n
    apart = torch.einsum("abcd,cd->ab", raised, K)
    crossed = torch.einsum("acbd,cd->ab", raised, K)
    shift = neurons / 2 * apart + crossed - inverse @ G1 @ inverse / n
    return EffectiveAction(inverse + shift, raised, neurons, K, shift)
