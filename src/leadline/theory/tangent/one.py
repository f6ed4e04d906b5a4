"""One input at a time: the tangent kernel's mean, fluctuations and differentials, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.flow import Layers, SingleInputFlow, single_input_flow
from leadline.theory.tangent.differential import Differential, next_differential
from leadline.theory.tangent.link import links
from leadline.theory.tangent.mean_correction import next_correction
from leadline.theory.tangent.moments import slope_jumps
from leadline.theory.tangent.second_differential import SecondDifferential, next_second_differential
from leadline.theory.tangent.variance import Fluctuation, next_fluctuation

__all__ = ["TangentFlow", "tangent_flow"]

_Group = TypeVar("_Group", Fluctuation, Differential, SecondDifferential)
_Row = tuple[Tensor, Tensor, Fluctuation, Differential, SecondDifferential | None]


@dataclass(frozen=True)
class TangentFlow:
    r"""Tensors of every layer for one input at a time, shape (L, ...) where ... are the inputs' axes.

    The tangent kernel is :math:`H_{ij} = \sum_\mu\lambda_\mu\,\partial_\mu z_i\,\partial_\mu z_j`; everything but the
    kernel K and the mean ``Theta`` is a coefficient of 1/n, n = n_{l-1}.

    Args:
        kernels: kernel K, four-point vertex V and kernel correction G1.
        Theta: mean at infinite width, :math:`E\,H_{ij} = \delta_{ij}(\Theta + H_1/n)`.
        H1: first correction to the mean, units of Theta.
        fluctuation: A, B, D, F.
        differential: P, Q.
        second: R, S, T, U, or None where they were not asked for.
    """

    kernels: SingleInputFlow
    Theta: Tensor
    H1: Tensor
    fluctuation: Fluctuation
    differential: Differential
    second: SecondDifferential | None

    @property
    def K(self) -> Tensor:
        """Kernel, units of z squared."""
        return self.kernels.K

    @property
    def V(self) -> Tensor:
        """Four-point vertex, units of z to the fourth."""
        return self.kernels.V

    @property
    def G1(self) -> Tensor:
        """Correction to the kernel, units of z squared."""
        return self.kernels.G1

    @property
    def A(self) -> Tensor:
        """Covariance of two diagonal entries of H."""
        return self.fluctuation.A

    @property
    def B(self) -> Tensor:
        """Variance of an entry of H off the diagonal."""
        return self.fluctuation.B

    @property
    def D(self) -> Tensor:
        """Covariance of z_i^2 with another neuron's H_jj."""
        return self.fluctuation.D

    @property
    def F(self) -> Tensor:
        """Covariance of z_i z_j with H_ij."""
        return self.fluctuation.F

    @property
    def P(self) -> Tensor:
        """Covariance of dH_ijj with z_i."""
        return self.differential.P

    @property
    def Q(self) -> Tensor:
        """Covariance of dH_iij with z_j."""
        return self.differential.Q

    @property
    def R(self) -> Tensor:
        """Mean of the first kind of second differential."""
        return self._second().R

    @property
    def S(self) -> Tensor:
        """Mean of the second kind with the curvatures of one neuron."""
        return self._second().S

    @property
    def T(self) -> Tensor:
        """Mean of the second kind, each curvature with the slope that it does not share a sum with."""
        return self._second().T

    @property
    def U(self) -> Tensor:
        """Mean of the second kind, the other pairing."""
        return self._second().U

    @property
    def relative_variance(self) -> Tensor:
        """Var H_ii / (E H_ii)^2 = (A + 2B)/(n Theta^2) to first order in 1/n."""
        return (self.A + 2 * self.B) / (self.kernels.fan_in * self.Theta**2)

    def _second(self) -> SecondDifferential:
        if self.second is None:
            name = self.kernels.layers.activation.name
            raise ValueError(f"R, S, T and U of {name} are not here: call tangent_flow with second=True to get them.")
        return self.second


@checked()
def tangent_flow(layers: Layers, norm: Tensor | float, *, second: bool | None = None) -> TangentFlow:
    r"""Mean, fluctuations and differentials of the tangent kernel at every layer, for one input at a time.

    .. math:: \Theta' = \lambda_b' + \lambda_W'\langle s^2\rangle_K + C_W'\langle s'^2\rangle_K\,\Theta, \qquad
        \Theta^{(1)} = \lambda_b + \lambda_W |x|^2/n_0

    Args:
        layers: widths, activation, variances and learning rates; widths enter as ratios of neighbours alone.
        norm: |x|^2/n_0, the mean square of an input's entries; any shape.
        second: whether R, S, T, U are wanted; by default where the activation has no corner.

    Returns:
        The tensors of every layer.

    Raises:
        ValueError: the activation jumps, or has a corner where ``second`` is asked for; a norm is negative; a layer
            after the first has C_W = 0; a kernel leaves the range of floats.

    Source: Roberts, Yaida and Hanin (2022), chapters 8, 9, 11 and the one on the end of training.

    >>> flow = tangent_flow(Layers.of("relu", depth=3, C_W=2.0), 1.0)
    >>> [round(v.item(), 6) for v in (flow.Theta[-1], flow.A[-1], flow.B[-1])]
    [6.0, 61.0, 40.0]
    """
    kernels = single_input_flow(layers, norm)
    if second is None:
        second = not slope_jumps(layers.activation)
    x = torch.as_tensor(norm, dtype=kernels.K.dtype, device=kernels.K.device)
    theta = layers.lambda_b[0] + layers.lambda_W[0] * x
    H1, f, d, s = torch.zeros_like(theta), Fluctuation.zero(theta), Differential.zero(theta), None
    if second:
        s = SecondDifferential.zero(theta)
    rows: list[_Row] = [(theta, H1, f, d, s)]
    for link in links(kernels, second=second):
        f_next = next_fluctuation(link, theta, f)
        d_next = next_differential(link, theta, f, f_next.F, d)
        if s is not None:
            s = next_second_differential(link, theta, f, (f_next, d_next), d, s)
        H1 = next_correction(link, theta, f, H1)
        theta = link.lambda_b + link.lambda_W * link.m.g + link.chi_perp * theta
        f, d = f_next, d_next
        rows.append((theta, H1, f, d, s))
    return TangentFlow(
        kernels,
        torch.stack([row[0] for row in rows]),
        torch.stack([row[1] for row in rows]),
        _stack([row[2] for row in rows]),
        _stack([row[3] for row in rows]),
        _stack([row[4] for row in rows if row[4] is not None]) if second else None,
    )


def _stack(groups: Sequence[_Group]) -> _Group:
    """One group of tensors of every layer from a group a layer."""
    kind = type(groups[0])
    return kind(*(torch.stack([getattr(g, f.name) for g in groups]) for f in fields(kind)))
