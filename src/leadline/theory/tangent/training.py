"""Training by gradient flow at finite width: the mean output at any time, to order 1/n, mode by mode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
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


@checked(infinite=("times",))
def gradient_flow(tensors: TangentTensors, targets: Tensor, times: Sequence[float]) -> MeanOutput:
    r"""Mean output of a network under gradient flow on the squared error, at training and test inputs.

    The error is carried by the modes of the mean tangent kernel between the training inputs,
    :math:`\Theta_{aa'} = \sum_e U_{ae}\lambda_e U_{a'e}`. A mean product S_b(t) of a change of the tangent kernel
    and the error, of order 1/n, shifts the output by

    .. math:: -\int_0^T dt\, S_b(t) + \sum_e \Theta_{be} \int_0^T dt \int_0^t ds\, e^{-\lambda_e(t-s)} S_e(s)

    With indices of modes, y the targets (vectors over the N = n_L outputs) and W, Z below,

    .. math::
        S_b(t) = \tfrac1n\Big\{ &-H_{1,ba}y_a\varphi[\lambda_a] + (A_{baac} + B_{baac} + N B_{bcaa})\,y_c
            \varphi[\lambda_a,\lambda_c] + (y_cW_{baca} + y_aW'_{bacc})\varphi[\lambda_a,\lambda_a+\lambda_c] \\ &-
            [Z^1_{bacd}c_{acd} + Z^2_{bacd}c_{cad} + Z^3_{bacd}c_{dac}]\,
            \varphi[\lambda_a,\lambda_a+\lambda_c,\lambda_a+\lambda_c+\lambda_d]\Big\}

    with :math:`c_{acd} = y_a(y_c\cdot y_d + N K_{cd}) + K_{ac}y_d + K_{ad}y_c`, and, pairing indices of outputs,

    .. math::
        W_{bact} &= P_{bact} + Q_{bact} + N Q_{bcat} + N P_{abct} + Q_{abct} + Q_{acbt}, \\
        W'_{bact} &= P_{bact} + N Q_{bact} + Q_{bcat} + P_{abct} + N Q_{abct} + Q_{acbt}, \\
        Z^1_{bacd} &= R_{bacd} + R_{abcd} + S_{bacd} + S_{abcd} + T_{bcad} + T_{acbd}, \\
        Z^2_{bacd} &= R_{bcad} + R_{adbc} + T_{bacd} + S_{bcad} + U_{abcd} + U_{acbd}, \\
        Z^3_{bacd} &= R_{bdac} + R_{acbd} + U_{bacd} + U_{bcad} + T_{abcd} + S_{acbd}.

    Args:
        tensors: of the network at all m inputs, the M training inputs first.
        targets: y, shape (M,) or (M, N), units of z; the loss is half the sum of squared errors.
        times: learning rate times time, each not negative; infinity is the end of training.

    Returns:
        Means of shape (T, m, N), or (T, m) for targets of shape (M,).

    Raises:
        ValueError: the targets do not fit the inputs or the network's outputs, the activation has kinks, a time is
            negative, or the end of training is asked for where the training inputs' tangent kernel is singular.

    Source: for one training input, Roberts, Yaida and Hanin (2022), the chapter on the end of training; with modes and
        several outputs by the same expansion.
    """
    y = checked_targets(targets, tensors.K.shape[-1], tensors.layers.widths[-1])
    if not len(times) or not all(t >= 0 for t in times):
        raise ValueError(f"got times {list(times)[:6]}: give one or more that are not negative.")
    s, M = tensors.last, y.shape[0]
    rates, U = torch.linalg.eigh(s.Theta[:M, :M])
    if float(rates[0]) <= 1e-8 * float(rates[-1]) and max(times, default=0) == float("inf"):
        raise ValueError("two training inputs have the same tangent kernel, so that training does not end: drop one.")
    rates = rates.clamp_min(0.0)
    own = U.T @ y
    modes = _terms(s, U, own)
    across = s.Theta[:, :M] @ U
    infinite: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {name: [] for name in modes}
    for time in times:
        first = torch.stack([torch.zeros_like(rates), rates], dim=-1)
        infinite.append(across @ (chain_integral(first, time)[:, None] * own))
        for name, (amplitude, chain) in modes.items():
            parts[name].append(_shift(amplitude, _rates(rates, chain), across, U, rates, time))
    shape = (..., 0) if targets.ndim == 1 else ...
    stacked = {name: torch.stack(v)[shape] for name, v in parts.items()}
    return MeanOutput(torch.stack(infinite)[shape], stacked, tensors.fan_in)


_Term = tuple[Tensor, tuple[tuple[int, ...], ...]]


def _terms(s: State, U: Tensor, y: Tensor) -> dict[str, _Term]:
    """Amplitudes of S_b by cause, (m, modes…, N), and which modes' rates add up at each link of the chain."""
    M, N = y.shape

    def modes(X: Tensor) -> Tensor:
        """X with its axes after the first over training modes."""
        for axis in range(1, X.ndim):
            X = torch.tensordot(X.narrow(axis, 0, M), U, dims=([axis], [0])).movedim(-1, axis)
        return X

    # [b, a, c, d] of a tensor whose own indices stand in another order
    def bcad(X: Tensor) -> Tensor:
        return X.permute(0, 2, 1, 3)

    def bdac(X: Tensor) -> Tensor:
        return X.permute(0, 2, 3, 1)

    def abcd(X: Tensor) -> Tensor:
        return X.permute(1, 0, 2, 3)

    def acbd(X: Tensor) -> Tensor:
        return X.permute(2, 0, 1, 3)

    def adbc(X: Tensor) -> Tensor:
        return X.permute(2, 0, 3, 1)

    P, Q, R, S, T, W = s.P, s.Q, s.R, s.S, s.T, s.U
    H1 = -torch.einsum("ba,ai->bai", modes(s.H1), y)
    # axes b, a, a', c, the two a's being joined by the same mode
    pair = modes(s.A + bcad(s.B) + N * bdac(s.B))
    AB = torch.einsum("baac,ci->baci", pair, y)
    at_a = modes(P + Q + N * bcad(Q) + N * abcd(P) + abcd(Q) + acbd(Q))
    at_c = modes(P + N * Q + bcad(Q) + abcd(P) + N * abcd(Q) + acbd(Q))
    PQ = torch.einsum("baca,ci->baci", at_a, y) + torch.einsum("bacc,ai->baci", at_c, y)
    K = U.T @ s.K[:M, :M] @ U
    cube = torch.einsum("ai,cd->acdi", y, y @ y.T + N * K)
    cube = cube + torch.einsum("ac,di->acdi", K, y) + torch.einsum("ad,ci->acdi", K, y)
    one = modes(R + abcd(R) + S + abcd(S) + bcad(T) + acbd(T))
    two = modes(bcad(R) + adbc(R) + T + bcad(S) + abcd(W) + acbd(W))
    three = modes(bdac(R) + acbd(R) + W + bcad(W) + abcd(T) + acbd(S))
    RSTU = torch.einsum("bacd,acdi->bacdi", one, cube) + torch.einsum("bacd,cadi->bacdi", two, cube)
    RSTU = RSTU + torch.einsum("bacd,daci->bacdi", three, cube)
    return {
        "H1": (H1, ((0,),)),
        "AB": (AB, ((0,), (1,))),
        "PQ": (PQ, ((0,), (0, 1))),
        "RSTU": (-RSTU, ((0,), (0, 1), (0, 1, 2))),
    }


def _rates(rates: Tensor, chain: tuple[tuple[int, ...], ...]) -> Tensor:
    """Rates of every link of a chain for every combination of modes, shape (M, …, M, links)."""
    axes = 1 + max(max(link) for link in chain)
    each = [rates.reshape((1,) * i + (-1,) + (1,) * (axes - 1 - i)) for i in range(axes)]
    zero = torch.zeros((len(rates),) * axes, dtype=rates.dtype, device=rates.device)
    return torch.stack([zero + sum(each[i] for i in link) for link in chain], dim=-1)


def _shift(amplitude: Tensor, chain: Tensor, across: Tensor, U: Tensor, rates: Tensor, time: float) -> Tensor:
    """Shift of the outputs at every input by a term of S_b, (m, N)."""
    zero = torch.zeros_like(chain[..., :1])

    def summed(X: Tensor, chains: Tensor) -> Tensor:
        """Sum over modes of (…, modes, N) with an integral each."""
        weight = chain_integral(chains, time)
        return torch.tensordot(
            X, weight, dims=(list(range(X.ndim - 1 - weight.ndim, X.ndim - 1)), list(range(weight.ndim)))
        )

    direct = summed(amplitude, torch.cat([zero, chain], -1))
    own = torch.tensordot(U.T, amplitude[: len(rates)], dims=1)
    again = [summed(own[e], torch.cat([zero, zero + rate, chain], -1)) for e, rate in enumerate(rates)]
    return across @ torch.stack(again) - direct
