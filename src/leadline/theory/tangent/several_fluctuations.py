"""Several inputs: the four-point vertex, A, B, D, F and the corrections G1, H1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from leadline.theory.tangent.several_state import State, Step

__all__ = ["Fluctuations", "corrections", "fluctuations", "vertex"]


class Fluctuations(NamedTuple):
    """A, B, D, F between several inputs, shape (m, m, m, m) each."""

    A: Tensor
    B: Tensor
    D: Tensor
    F: Tensor


def _both(step: Step, p: int, q: int, X: Tensor) -> Tensor:
    """Sum of <s_p s_p>_,ab <s_q s_q>_,cd X_abcd, shape (m, m, m, m)."""
    left = step.mean.second(p, p, X)
    return step.mean.second(q, q, left.permute(2, 3, 0, 1)).permute(2, 3, 0, 1)


def vertex(step: Step, now: State) -> Tensor:
    r"""Four-point vertex of layer l + 1.

    .. math:: V'_{1234} = c^2[\langle s_1s_2s_3s_4\rangle - \langle s_1s_2\rangle\langle s_3s_4\rangle] +
        \tfrac{r c^2}{4}\langle s_1s_2\rangle_{,ab}\langle s_3s_4\rangle_{,cd} V_{abcd}

    Args:
        step: from l to l + 1.
        now: layer l.

    Returns:
        Shape (m, m, m, m).
    """
    mean = step.mean
    product = torch.einsum("ij,kl->ijkl", mean.two(0, 0), mean.two(0, 0))
    return step.c**2 * (mean.four(0, 0, 0, 0) - product + step.r / 4 * _both(step, 0, 0, now.V))


def fluctuations(step: Step, now: State, V: Tensor) -> Fluctuations:
    r"""A, B, D, F of layer l + 1; s, s' stand at the input of their index, commas are derivatives in z.

    .. math::
        D'_{1234} &= k V' + c^2\Theta_{34}[\langle s_1s_2s'_3s'_4\rangle - \langle s_1s_2\rangle\langle
            s'_3s'_4\rangle] + r\{\tfrac{c^2}{4}\Theta_{34}\langle s_1s_2\rangle_{,ab}\langle s'_3s'_4\rangle_{,cd}
            V_{abcd} + \tfrac{c^2}{2}\langle s'_3s'_4\rangle\langle s_1s_2\rangle_{,ab}D_{ab34}\} \\
        F'_{1234} &= c^2\Theta_{24}\langle s_1s'_2s_3s'_4\rangle + r c^2\langle s_1s'_2\rangle_{,a}\langle
            s_3s'_4\rangle_{,b}F_{a2b4} \\
        B'_{1234} &= c^2\Theta_{13}\Theta_{24}\langle s'_1s'_2s'_3s'_4\rangle + r c^2\langle s'_1s'_2\rangle\langle
            s'_3s'_4\rangle B_{1234} \\
        A'_{1234} &= k(D'_{1234} + D'_{3412} - kV') + c^2\Theta_{12}\Theta_{34}[\langle s'_1s'_2s'_3s'_4\rangle -
            \langle s'_1s'_2\rangle\langle s'_3s'_4\rangle] \\ &\quad + r\{\tfrac{c^2}{4}\Theta_{12}\Theta_{34}\langle
            s'_1s'_2\rangle_{,ab}\langle s'_3s'_4\rangle_{,cd}V_{abcd} + \tfrac{c^2}{2}(\Theta_{12}\langle
            s'_3s'_4\rangle\langle s'_1s'_2\rangle_{,ab}D_{ab34} + \Theta_{34}\langle s'_1s'_2\rangle\langle
            s'_3s'_4\rangle_{,ab}D_{ab12}) + c^2\langle s'_1s'_2\rangle\langle s'_3s'_4\rangle A_{1234}\}

    Args:
        step: from l to l + 1.
        now: layer l.
        V: four-point vertex of layer l + 1.

    Returns:
        The four tensors.
    """
    mean, r, k, theta = step.mean, step.r, step.k, now.Theta
    square = step.c**2
    dd, ss = mean.two(1, 1), mean.two(0, 0)
    slopes = mean.four(1, 1, 1, 1)
    D = square * torch.einsum("kl,ijkl->ijkl", theta, mean.four(0, 0, 1, 1) - torch.einsum("ij,kl->ijkl", ss, dd))
    D = D + r * square / 4 * torch.einsum("kl,ijkl->ijkl", theta, _both(step, 0, 1, now.V))
    D = k * V + D + r * square / 2 * torch.einsum("kl,ijkl->ijkl", dd, mean.second(0, 0, now.D))
    F = square * torch.einsum("jl,ijkl->ijkl", theta, mean.four(0, 1, 0, 1)) + r * square * _carry_F(step, now.F)
    B = square * torch.einsum("ik,jl,ijkl->ijkl", theta, theta, slopes)
    B = B + r * square * torch.einsum("ij,kl,ijkl->ijkl", dd, dd, now.B)
    other = torch.einsum("ij,kl,ijkl->ijkl", theta, dd, mean.second(1, 1, now.D))
    A = square * torch.einsum("ij,kl,ijkl->ijkl", theta, theta, slopes - torch.einsum("ij,kl->ijkl", dd, dd))
    A = A + r * square / 4 * torch.einsum("ij,kl,ijkl->ijkl", theta, theta, _both(step, 1, 1, now.V))
    A = A + r * square / 2 * (other + other.permute(2, 3, 0, 1))
    A = A + r * square * torch.einsum("ij,kl,ijkl->ijkl", dd, dd, now.A)
    A = A + k * (D + D.permute(2, 3, 0, 1)) - k**2 * V
    return Fluctuations(A, B, D, F)


def _carry_F(step: Step, F: Tensor) -> Tensor:
    """Sum of <s_1 s'_2>_,a <s_3 s'_4>_,b F_a2b4."""
    slope, bend = step.mean.two(1, 1), step.mean.two(0, 2)
    left = torch.einsum("ij,ijbl->ijbl", slope, F) + torch.einsum("ij,jjbl->ijbl", bend, F)
    return torch.einsum("kl,ijkl->ijkl", slope, left) + torch.einsum("kl,ijll->ijkl", bend, left)


def corrections(step: Step, now: State) -> tuple[Tensor, Tensor]:
    r"""G1 and H1 of layer l + 1.

    .. math::
        G'_{1,12} &= r c\{\tfrac12\langle s_1s_2\rangle_{,ab}G_{1,ab} + \tfrac18\langle
            s_1s_2\rangle_{,abcd}V_{abcd}\} \\
        H'_{1,12} &= k G'_1 + r c\{\langle s'_1s'_2\rangle H_{1,12} + \Theta_{12}[\tfrac12\langle
            s'_1s'_2\rangle_{,ab}G_{1,ab} + \tfrac18\langle s'_1s'_2\rangle_{,abcd}V_{abcd}] + \tfrac12\langle
            s'_1s'_2\rangle_{,ab}(D_{ab12} + F_{a1b2} + F_{a2b1})\}

    Args:
        step: from l to l + 1.
        now: layer l.

    Returns:
        G1 and H1, shape (m, m) each.
    """
    mean, r, c = step.mean, step.r, step.c

    def shift(p: int) -> Tensor:
        return mean.second(p, p, now.G1) / 2 + mean.fourth(p, p, now.V) / 8

    G1 = r * c * shift(0)
    crossed = now.D + now.F.permute(0, 2, 1, 3) + now.F.permute(0, 2, 3, 1)
    joint = torch.einsum("ijij->ij", mean.second(1, 1, crossed))
    return G1, step.k * G1 + r * c * (mean.two(1, 1) * now.H1 + now.Theta * shift(1) + joint / 2)
