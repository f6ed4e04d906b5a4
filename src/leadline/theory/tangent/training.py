"""Training by gradient flow at finite width: the mean output at any time, to order 1/n, mode by mode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leadline.theory.tangent.learned import MeanOutput, checked_targets
from leadline.theory.tangent.several import TangentTensors
from leadline.theory.tangent.several_state import State

__all__ = ["chain_integral", "gradient_flow"]


def chain_integral(rates: Tensor, time: float) -> Tensor:
    r"""Nested integral of exponentials, which are what first-order perturbation theory is made of.

    .. math:: \varphi[\mu_1\dots\mu_k](t) = \int_{t>s_1>\dots>s_{k-1}>0} e^{-\mu_1(t-s_1)}
        e^{-\mu_2(s_1-s_2)}\cdots e^{-\mu_k s_{k-1}}

    It is the corner of the exponential of a bidiagonal matrix, so that equal rates need no care.

    Args:
        rates: mu, shape (..., k), not negative; at infinite time the first is 0 and the others are positive.
        time: t, not negative; infinity is allowed.

    Returns:
        Shape (...).

    >>> round(chain_integral(torch.tensor([0.0, 2.0]), 1.0).item(), 6)
    0.432332
    """
    if time == float("inf"):
        return (1 / rates[..., 1:]).prod(-1)
    k = rates.shape[-1]
    matrix = torch.diag_embed(-rates * time)
    above = torch.arange(k - 1)
    matrix[..., above, above + 1] = time
    return torch.linalg.matrix_exp(matrix)[..., 0, k - 1]


def gradient_flow(tensors: TangentTensors, targets: Tensor, times: Sequence[float]) -> MeanOutput:
    r"""Mean output of a network with one output under gradient flow on the squared error, at training and test inputs.

    The error is carried by the modes of the mean tangent kernel between the training inputs,
    :math:`\Theta_{aa'} = \sum_e U_{ae}\lambda_e U_{a'e}`. A mean product S_b(t) of a change of the tangent kernel
    and the error, of order 1/n, shifts the output by

    .. math:: -\int_0^T dt\, S_b(t) + \sum_e \Theta_{be} \int_0^T dt \int_0^t ds\, e^{-\lambda_e(t-s)} S_e(s)

    With indices of modes, y the targets and W, Z below,

    .. math::
        S_b(t) = \tfrac1n\Big\{ &-H_{1,ba}y_a\varphi[\lambda_a] + (A_{baac} + B_{baac} + B_{bcaa})\,y_c
            \varphi[\lambda_a,\lambda_c] + (y_cW_{baca} + y_aW_{bacc})\varphi[\lambda_a,\lambda_a+\lambda_c] \\ &-
            Z_{bacd}(y_ay_cy_d + K_{cd}y_a + K_{ac}y_d + K_{ad}y_c)\,
            \varphi[\lambda_a,\lambda_a+\lambda_c,\lambda_a+\lambda_c+\lambda_d]\Big\}

    with :math:`W_{bact} = M_{bact} + M_{abct}`, :math:`M_{opqt} = P_{opqt} + Q_{opqt} + Q_{oqpt}`,
    :math:`Z_{bacd} = r_{bacd} + w_{bacd} + w_{bcad} + r_{abcd} + w_{abcd} + w_{acbd}`,
    :math:`r_{ijkl} = R_{ijkl} + R_{ikjl} + R_{iljk}`, w = S + T + U.

    Args:
        tensors: of a network with one output at all m inputs, the M training inputs first.
        targets: y, shape (M,), units of z; the loss is half the sum of squared errors.
        times: learning rate times time, each not negative; infinity is the end of training.

    Returns:
        Means of shape (T, m).

    Raises:
        ValueError: the targets do not fit, the network has more outputs, a time is negative, or the end of training is
            asked for where the training inputs' tangent kernel is singular.

    Source: for one training input, Roberts, Yaida and Hanin (2022), the chapter on the end of training; with modes by
        the same expansion.
    """
    y = checked_targets(targets, tensors.K.shape[-1])
    if y.shape[1] != 1 or tensors.layers.widths[-1] != 1:
        raise ValueError(
            f"got {y.shape[1]} targets an input, {tensors.layers.widths[-1]} outputs: one output is worked out."
        )
    if not all(t >= 0 for t in times):
        raise ValueError(f"got times {list(times)[:6]}: give times that are not negative.")
    s, M = tensors.last, y.shape[0]
    rates, U = torch.linalg.eigh(s.Theta[:M, :M])
    if float(rates[0]) <= 1e-8 * float(rates[-1]) and max(times, default=0) == float("inf"):
        raise ValueError("two training inputs have the same tangent kernel, so that training does not end: drop one.")
    rates = rates.clamp_min(0.0)
    modes = _terms(s, U, U.T @ y[:, 0])
    across = s.Theta[:, :M] @ U
    infinite: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {name: [] for name in modes}
    for time in times:
        first = torch.stack([torch.zeros_like(rates), rates], dim=-1)
        infinite.append(across @ (chain_integral(first, time) * (U.T @ y[:, 0])))
        for name, (amplitude, chain) in modes.items():
            parts[name].append(_shift(amplitude, _rates(rates, chain), across, U, rates, time))
    stacked = {name: torch.stack(v) for name, v in parts.items()}
    return MeanOutput(torch.stack(infinite), stacked, tensors.fan_in)


_Term = tuple[Tensor, tuple[tuple[int, ...], ...]]


def _terms(s: State, U: Tensor, y: Tensor) -> dict[str, _Term]:
    """Amplitudes of S_b by cause, modes after the first axis, and which modes' rates add up at each link of the chain."""
    M = len(y)
    t = slice(0, M)

    def modes(X: Tensor) -> Tensor:
        """X with its axes after the first over training modes."""
        for axis in range(1, X.ndim):
            X = torch.tensordot(X.narrow(axis, 0, M), U, dims=([axis], [0])).movedim(-1, axis)
        return X

    def swap(X: Tensor) -> Tensor:
        """X_abcd as a function of b, a, c, d."""
        return X.transpose(0, 1)

    K = U.T @ s.K[t, t] @ U
    H1 = -modes(s.H1) * y
    # axes b, a, a', c, the two a's being joined by the same mode
    pair = modes(s.A + s.B.permute(0, 2, 1, 3) + s.B.permute(0, 2, 3, 1))
    AB = torch.einsum("baac,c->bac", pair, y)
    M3 = s.P + s.Q + s.Q.permute(0, 2, 1, 3)
    W = modes(M3 + swap(M3))
    PQ = torch.einsum("baca,c->bac", W, y) + torch.einsum("bacc,a->bac", W, y)
    r = s.R + s.R.permute(0, 2, 1, 3) + s.R.permute(0, 2, 3, 1)
    w = s.S + s.T + s.U
    crossed = w.permute(0, 2, 1, 3)
    Z = modes(r + w + crossed + swap(r + w + crossed))
    cube = torch.einsum("a,c,d->acd", y, y, y) + torch.einsum("cd,a->acd", K, y)
    cube = cube + torch.einsum("ac,d->acd", K, y) + torch.einsum("ad,c->acd", K, y)
    return {
        "H1": (H1, ((0,),)),
        "AB": (AB, ((0,), (1,))),
        "PQ": (PQ, ((0,), (0, 1))),
        "RSTU": (-Z * cube, ((0,), (0, 1), (0, 1, 2))),
    }


def _rates(rates: Tensor, chain: tuple[tuple[int, ...], ...]) -> Tensor:
    """Rates of every link of a chain for every combination of modes, shape (M, …, M, links)."""
    axes = 1 + max(max(link) for link in chain)
    each = [rates.reshape((1,) * i + (-1,) + (1,) * (axes - 1 - i)) for i in range(axes)]
    zero = torch.zeros((len(rates),) * axes, dtype=rates.dtype, device=rates.device)
    return torch.stack([zero + sum(each[i] for i in link) for link in chain], dim=-1)


def _shift(amplitude: Tensor, chain: Tensor, across: Tensor, U: Tensor, rates: Tensor, time: float) -> Tensor:
    """Shift of the output at every input by a term of S_b."""
    zero = torch.zeros_like(chain[..., :1])
    direct = (amplitude * chain_integral(torch.cat([zero, chain], -1), time)).flatten(1).sum(1)
    own = torch.tensordot(U.T, amplitude[: len(rates)], dims=1)
    again = [
        (own[e] * chain_integral(torch.cat([zero, zero + rate, chain], -1), time)).sum() for e, rate in enumerate(rates)
    ]
    return across @ torch.stack(again) - direct
