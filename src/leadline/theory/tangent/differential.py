"""The differential of the tangent kernel (dNTK) and its covariance with the output: P, Q."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.theory.tangent.link import Link
from leadline.theory.tangent.variance import Fluctuation

__all__ = ["Differential", "next_differential"]


@dataclass(frozen=True)
class Differential:
    r"""Coefficients of 1/n, n = n_{l-1}, of the differential dH of the tangent kernel, for one input.

    .. math::
        dH_{ijk} = \sum_{\mu\nu}\lambda_\mu\lambda_\nu\, \partial_\mu\partial_\nu z_i\, \partial_\mu z_j\,
            \partial_\nu z_k, \quad
        E[dH_{ijk} z_l] = \tfrac1n[\delta_{il}\delta_{jk} P + (\delta_{ij}\delta_{kl} + \delta_{ik}\delta_{jl}) Q],
        \quad E\,dH = 0

    Args:
        P, Q: units of H squared.
    """

    P: Tensor
    Q: Tensor

    @classmethod
    def zero(cls, like: Tensor) -> Differential:
        """Those of the first layer, which is linear in its weights."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))


def next_differential(
    link: Link, theta: Tensor, fluctuation: Fluctuation, next_F: Tensor, now: Differential
) -> Differential:
    r"""P, Q of layer l + 1 from those of layer l.

    .. math::
        Q' &= k F' + C_W^2\Theta^2\langle s s'^2 s''\rangle + r[2h\chi_\parallel\Theta F + \chi_\parallel\chi_\perp Q] \\
        P' &= C_W^2\Theta^2\langle s s'^2 s''\rangle + r[\chi_\perp(\chi_\parallel - \chi_\perp) B +
            \chi_\parallel\chi_\perp P]

    Args:
        link: the step.
        theta: mean tangent kernel at layer l.
        fluctuation: A, B, D, F at layer l.
        next_F: F at layer l + 1.
        now: the coefficients at layer l.

    Returns:
        The coefficients at layer l + 1, shape of theta.

    Source: Roberts, Yaida and Hanin (2022), chapter 11.
    """
    par, perp, r = link.chi_par, link.chi_perp, link.r
    source = link.C_W**2 * theta**2 * link.m.bend
    return Differential(
        P=source + r * (perp * (par - perp) * fluctuation.B + par * perp * now.P),
        Q=link.k * next_F + source + r * (2 * link.h * par * theta * fluctuation.F + par * perp * now.Q),
    )
