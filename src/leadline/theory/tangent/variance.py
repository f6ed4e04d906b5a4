"""Fluctuations of the tangent kernel over networks, and its covariance with the output: A, B, D, F."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.theory.tangent.link import Link

__all__ = ["Fluctuation", "next_fluctuation"]


@dataclass(frozen=True)
class Fluctuation:
    r"""Coefficients of 1/n, n = n_{l-1}, of what the tangent kernel H of one input does over networks.

    .. math::
        E[\Delta H_{ij}\,\Delta H_{kl}] = \tfrac1n[\delta_{ij}\delta_{kl} A + (\delta_{ik}\delta_{jl} +
        \delta_{il}\delta_{jk}) B], \qquad
        E[z_i z_j\,\Delta H_{kl}] = \tfrac1n[\delta_{ij}\delta_{kl} D + (\delta_{ik}\delta_{jl} +
        \delta_{il}\delta_{jk}) F]

    Args:
        A, B: units of H squared.
        D, F: units of H times z squared.
    """

    A: Tensor
    B: Tensor
    D: Tensor
    F: Tensor

    @classmethod
    def zero(cls, like: Tensor) -> Fluctuation:
        """Those of the first layer, whose tangent kernel is the same for every network."""
        return cls(*(torch.zeros_like(like) for _ in range(4)))


def next_fluctuation(link: Link, theta: Tensor, now: Fluctuation) -> Fluctuation:
    r"""A, B, D, F of layer l + 1 from those of layer l.

    .. math::
        D' &= k V' + C_W^2\Theta\,(\langle s^2 s'^2\rangle - \langle s^2\rangle\langle s'^2\rangle)
            + r[2h\Theta\chi_\parallel V + \chi_\parallel\chi_\perp D] \\
        F' &= C_W^2\Theta\langle s^2 s'^2\rangle + r\chi_\parallel^2 F \\
        B' &= C_W^2\Theta^2\langle s'^4\rangle + r\chi_\perp^2 B \\
        A' &= k^2 V' + 2k(D' - kV') + C_W^2\Theta^2(\langle s'^4\rangle - \langle s'^2\rangle^2)
            + r[4h^2\Theta^2 V + 4h\Theta\chi_\perp D + \chi_\perp^2 A]

    with k = lambda_W'/C_W', r = n_l/n_{l-1} and h half the derivative of chi_perp in K.

    Args:
        link: the step.
        theta: mean tangent kernel at layer l.
        now: the coefficients at layer l.

    Returns:
        The coefficients at layer l + 1, shape of theta.

    Source: Roberts, Yaida and Hanin (2022), chapter 8.
    """
    m, r, k, h, V = link.m, link.r, link.k, link.h, link.V
    square = link.C_W**2
    par, perp = link.chi_par, link.chi_perp
    mixed = square * theta * m.cov + r * (2 * h * theta * par * V + par * perp * now.D)
    return Fluctuation(
        A=k**2 * link.next_V
        + 2 * k * mixed
        + square * theta**2 * m.var_d
        + r * (4 * h**2 * theta**2 * V + 4 * h * theta * perp * now.D + perp**2 * now.A),
        B=square * theta**2 * m.d4 + r * perp**2 * now.B,
        D=k * link.next_V + mixed,
        F=square * theta * (m.cov + m.g * m.d) + r * par**2 * now.F,
    )
