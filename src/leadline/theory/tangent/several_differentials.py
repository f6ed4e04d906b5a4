"""Several inputs: the differentials of the tangent kernel, P, Q and R, S, T, U."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from leadline.theory.tangent.several_fluctuations import Fluctuations
from leadline.theory.tangent.several_state import SecondDifferentials, State, Step

__all__ = ["Differentials", "differentials", "second_differentials"]

_sum = torch.einsum


class Differentials(NamedTuple):
    """P, Q between several inputs, shape (m, m, m, m) each."""

    P: Tensor
    Q: Tensor


def differentials(step: Step, now: State, F: Tensor) -> Differentials:
    r"""P and Q of layer l + 1, indices o (curvature), p, q (slopes), t (output).

    .. math::
        Q'_{opqt} &= k F'_{potq} + c^2\Theta_{op}\Theta_{oq}\langle s''_os'_ps'_qs_t\rangle + r
            c^2\{\Theta_{op}\langle s''_os'_p\rangle_{,a}\langle s_ts'_q\rangle_{,b}F_{aobq} + \langle
            s'_os'_p\rangle\langle s_ts'_q\rangle_{,b}Q_{opqb}\} \\
        P'_{opqt} &= c^2\Theta_{op}\Theta_{oq}\langle s''_os_ts'_ps'_q\rangle + r c^2\langle
            s'_ps'_q\rangle\{\langle s''_os_t\rangle B_{oopq} + \langle s_ts'_o\rangle_{,a}P_{opqa}\}

    Args:
        step: from l to l + 1.
        now: layer l.
        F: F of layer l + 1.

    Returns:
        The two tensors.
    """
    mean, theta, gain = step.mean, now.Theta, step.r * step.c**2
    dd, sb, db, bb = mean.two(1, 1), mean.two(0, 2), mean.two(3, 1), mean.two(2, 2)
    source = step.c**2 * _sum("op,oq,opqt->opqt", theta, theta, mean.four(2, 1, 1, 0))
    # a is o (third derivative there) or p; b is t or q
    left = _sum("op,oobq->opbq", db, now.F) + _sum("op,pobq->opbq", bb, now.F)
    both = _sum("tq,optq->opqt", dd, left) + _sum("tq,opqq->opqt", sb, left)
    kept = _sum("tq,opqt->opqt", dd, now.Q) + _sum("tq,opqq->opqt", sb, now.Q)
    Q = step.k * F.permute(1, 0, 3, 2) + source
    Q = Q + gain * (_sum("op,opqt->opqt", theta, both) + _sum("op,opqt->opqt", dd, kept))
    own = _sum("to,opqt->opqt", dd, now.P) + _sum("to,opqo->opqt", sb, now.P)
    P = source + gain * _sum("pq,opqt->opqt", dd, _sum("to,oopq->opqt", sb, now.B) + own)
    return Differentials(P, Q)


def second_differentials(
    step: Step, now: State, fluctuations: Fluctuations, differential: Differentials
) -> SecondDifferentials:
    r"""R, S, T, U of layer l + 1; R with its curvature at o, S, T, U with theirs at 1 and 2.

    .. math::
        R'_{opqt} &= k P'_{oqtp} + c^2\Theta_{op}\Theta_{oq}\Theta_{ot}\langle s'''_os'_ps'_qs'_t\rangle + r
            c^2\langle s'_qs'_t\rangle\{\langle s'''_os'_p\rangle\Theta_{op}B_{ooqt} + \Theta_{op}\langle
            s''_os'_p\rangle_{,a}P_{oqta} + \langle s'_os'_p\rangle R_{opqt}\} \\
        e &= c^2\Theta_{12}\Theta_{13}\Theta_{24}\langle s''_1s''_2s'_3s'_4\rangle \\
        S' &= k B'_{1234} + e + r c^2\langle s'_3s'_4\rangle\{\langle s''_1s''_2\rangle\Theta_{12}B_{1234} +
            \langle s'_1s'_2\rangle S_{1234}\} \\
        T' &= k(Q'_{2413} + Q'_{1324}) - k^2F'_{3142} + e + r c^2\{\Theta_{13}\Theta_{24}\langle
            s''_1s'_3\rangle_{,a}\langle s''_2s'_4\rangle_{,b}F_{a1b2} + \Theta_{13}\langle
            s'_2s'_4\rangle\langle s''_1s'_3\rangle_{,a}Q_{241a} \\ &\quad + \Theta_{24}\langle
            s'_1s'_3\rangle\langle s''_2s'_4\rangle_{,b}Q_{132b} + \langle s'_1s'_3\rangle\langle s'_2s'_4\rangle
            T_{1234}\} \\
        U' &= e + r c^2\langle s'_1s'_4\rangle\langle s'_2s'_3\rangle U_{1234}

    Args:
        step: from l to l + 1.
        now: layer l.
        fluctuations: A, B, D, F of layer l + 1.
        differential: P, Q of layer l + 1.

    Returns:
        The four tensors.
    """
    mean, theta, k = step.mean, now.Theta, step.k
    square, gain = step.c**2, step.r * step.c**2
    dd, db, bb = mean.two(1, 1), mean.two(3, 1), mean.two(2, 2)
    P_next, Q_next = differential
    # the leg that P is multiplied with moves along with the curvature (third derivative at o) or with the slope at p
    moved = _sum("op,oqto->opqt", db, now.P) + _sum("op,oqtp->opqt", bb, now.P)
    inner = _sum("op,op,ooqt->opqt", db, theta, now.B) + _sum("op,opqt->opqt", theta, moved)
    inner = inner + _sum("op,opqt->opqt", dd, now.R)
    source = square * _sum("op,oq,ot,opqt->opqt", theta, theta, theta, mean.four(3, 1, 1, 1))
    R = k * P_next.permute(0, 3, 1, 2) + source + gain * _sum("qt,opqt->opqt", dd, inner)
    e = square * _sum("ij,ik,jl,ijkl->ijkl", theta, theta, theta, mean.four(2, 2, 1, 1))
    inner = _sum("ij,ij,ijkl->ijkl", bb, theta, now.B) + _sum("ij,ijkl->ijkl", dd, now.S)
    S = k * fluctuations.B + e + gain * _sum("kl,ijkl->ijkl", dd, inner)
    U = e + gain * _sum("il,jk,ijkl->ijkl", dd, dd, now.U)
    one = _sum("jl,ik,ijkl->ijkl", dd, theta, _curved(db, bb, now.Q))
    swapped = one.permute(1, 0, 3, 2)
    inner = _sum("ik,jl,ijkl->ijkl", theta, theta, _both(db, bb, now.F)) + one + swapped
    inner = inner + _sum("ik,jl,ijkl->ijkl", dd, dd, now.T)
    T = k * (Q_next.permute(2, 0, 3, 1) + Q_next.permute(0, 2, 1, 3)) + e + gain * inner
    return SecondDifferentials(R, S, T - k**2 * fluctuations.F.permute(1, 3, 0, 2), U)


def _curved(db: Tensor, bb: Tensor, Q: Tensor) -> Tensor:
    """Sum of <s''_1 s'_3>_,a Q_241a."""
    return _sum("ik,jlii->ijkl", db, Q) + _sum("ik,jlik->ijkl", bb, Q)


def _both(db: Tensor, bb: Tensor, F: Tensor) -> Tensor:
    """Sum of <s''_1 s'_3>_,a <s''_2 s'_4>_,b F_a1b2."""
    # left[i, k, b, j] = sum over a of <s''_i s'_k>_,a F_a i b j
    left = _sum("ik,iibj->ikbj", db, F) + _sum("ik,kibj->ikbj", bb, F)
    return _sum("jl,ikjj->ijkl", db, left) + _sum("jl,iklj->ijkl", bb, left)
