"""First finite-width correction to the mean of the tangent kernel: H1."""

from __future__ import annotations

from torch import Tensor

from leadline.theory.tangent.link import Link
from leadline.theory.tangent.variance import Fluctuation

__all__ = ["next_correction"]


def next_correction(link: Link, theta: Tensor, now: Fluctuation, H1: Tensor) -> Tensor:
    r"""H1 of layer l + 1, where E H = Theta + H1/n.

    .. math::
        H_1' = k G_1' + r\left[\chi_\perp H_1 + \Theta\left(2 h G_1 + \tfrac12 C_W
            \frac{d^2\langle s'^2\rangle}{dK^2} V\right) + 2h(D + 2F)\right]

    Args:
        link: the step.
        theta: mean tangent kernel at layer l.
        now: A, B, D, F at layer l.
        H1: the correction at layer l, 0 for l = 1.

    Returns:
        The correction at layer l + 1, units of theta.

    Source: Roberts, Yaida and Hanin (2022), chapter 8.
    """
    h, G1, V = link.h, link.G1, link.V
    bend = theta * (2 * h * G1 + link.C_W / 2 * link.m.d2 * V)
    return link.k * link.next_G1 + link.r * (link.chi_perp * H1 + bend + 2 * h * (now.D + 2 * now.F))
