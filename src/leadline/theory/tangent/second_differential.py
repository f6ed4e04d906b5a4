"""The second differentials of the tangent kernel (ddNTKs) and their means: R, S, T, U."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.theory.tangent.differential import Differential
from leadline.theory.tangent.link import Link
from leadline.theory.tangent.variance import Fluctuation

__all__ = ["SecondDifferential", "next_second_differential"]


@dataclass(frozen=True)
class SecondDifferential:
    r"""Coefficients of 1/n, n = n_{l-1}, of the means of the two second differentials, for one input.

    .. math::
        dd_I H_{ijkl} &= \sum\lambda_\mu\lambda_\nu\lambda_\rho\, \partial_{\mu\nu\rho} z_i\, \partial_\mu z_j\,
            \partial_\nu z_k\, \partial_\rho z_l, \quad
        E\,dd_I H = \tfrac{R}{n}[\delta_{ij}\delta_{kl} + \delta_{ik}\delta_{jl} + \delta_{il}\delta_{jk}] \\
        dd_{II} H_{ijkl} &= \sum\lambda_\mu\lambda_\nu\lambda_\rho\, \partial_{\mu\nu} z_i\, \partial_{\mu\rho} z_j\,
            \partial_\nu z_k\, \partial_\rho z_l, \quad
        E\,dd_{II} H = \tfrac1n[\delta_{ij}\delta_{kl} S + \delta_{ik}\delta_{jl} T + \delta_{il}\delta_{jk} U]

    Args:
        R, S, T, U: units of H cubed over z squared.
    """

    R: Tensor
    S: Tensor
    T: Tensor
    U: Tensor

    @classmethod
    def zero(cls, like: Tensor) -> SecondDifferential:
        """Those of the first layer, which is linear in its weights."""
        return cls(*(torch.zeros_like(like) for _ in range(4)))


def next_second_differential(
    link: Link,
    theta: Tensor,
    fluctuation: Fluctuation,
    after: tuple[Fluctuation, Differential],
    differential: Differential,
    now: SecondDifferential,
) -> SecondDifferential:
    r"""R, S, T, U of layer l + 1 from those of layer l.

    .. math::
        R' &= k P' + C_W^2\Theta^3\langle s'^3 s'''\rangle + r[\chi_\perp C_W\langle s' s'''\rangle\Theta B +
            2h\chi_\perp\Theta P + \chi_\perp^2 R] \\
        S' &= k B' + C_W^2\Theta^3\langle s'^2 s''^2\rangle + r[\chi_\perp C_W\langle s''^2\rangle\Theta B +
            \chi_\perp^2 S] \\
        T' &= 2kQ' - k^2F' + C_W^2\Theta^3\langle s'^2 s''^2\rangle + r[4h^2\Theta^2 F + 4h\Theta\chi_\perp Q +
            \chi_\perp^2 T] \\
        U' &= C_W^2\Theta^3\langle s'^2 s''^2\rangle + r\chi_\perp^2 U

    with :math:`C_W\langle s' s'''\rangle = 2h - C_W\langle s''^2\rangle`.

    Args:
        link: the step, with its moments of second and third derivatives.
        theta: mean tangent kernel at layer l.
        fluctuation: A, B, D, F at layer l.
        after: A, B, D, F and P, Q at layer l + 1.
        differential: P, Q at layer l.
        now: the coefficients at layer l.

    Returns:
        The coefficients at layer l + 1, shape of theta.

    Raises:
        ValueError: the step has no moments of second derivatives.

    Source: Roberts, Yaida and Hanin (2022), the chapter on the end of training.
    """
    if link.b is None:
        raise ValueError("got a step without moments of second derivatives: make it with links(flow, second=True).")
    r, k, h, perp = link.r, link.k, link.h, link.chi_perp
    B, F, P, Q = fluctuation.B, fluctuation.F, differential.P, differential.Q
    square = link.C_W * link.b.square
    cube = link.C_W**2 * theta**3
    mixed = cube * link.b.mixed
    return SecondDifferential(
        R=k * after[1].P
        + cube * link.b.third
        + r * (perp * (2 * h - square) * theta * B + 2 * h * perp * theta * P + perp**2 * now.R),
        S=k * after[0].B + mixed + r * (perp * square * theta * B + perp**2 * now.S),
        T=2 * k * after[1].Q
        - k**2 * after[0].F
        + mixed
        + r * ((2 * h * theta) ** 2 * F + 4 * h * theta * perp * Q + perp**2 * now.T),
        U=mixed + r * perp**2 * now.U,
    )
