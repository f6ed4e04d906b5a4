"""What the recursions for several inputs carry from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from leadline.theory.tangent.products import MeanProducts

__all__ = ["SecondDifferentials", "State", "Step"]


class SecondDifferentials(NamedTuple):
    """R, S, T, U between several inputs, shape (m, m, m, m) each: those of :class:`State`."""

    R: Tensor
    S: Tensor
    T: Tensor
    U: Tensor


@dataclass(frozen=True)
class State:
    r"""Tensors of one layer between m inputs; all but K and Theta are coefficients of 1/n, n = n_{l-1}.

    Args:
        K, Theta: kernel and mean tangent kernel, shape (m, m).
        G1, H1: their corrections, shape (m, m).
        V: pairs (12), (34) of the kernel's covariance, shape (m, m, m, m) like all that follow.
        A: H_12 H_34.
        B: H_13 H_24 (1, 2 are first indices of the two H's, 3, 4 second ones).
        D: z_1 z_2 with H_34.
        F: z at 1, the first index of H at 2, z at 3, the second index of H at 4.
        P, Q: differential with its curvature at 1, its slopes at 2 and 3, times z_4.
        second: R (first second differential, curvature at 1, slopes at 2, 3, 4) and S, T, U (the other one, curvatures
            at 1, 2, slopes at 3, 4); None for an activation with kinks.
    """

    K: Tensor
    Theta: Tensor
    G1: Tensor
    H1: Tensor
    V: Tensor
    A: Tensor
    B: Tensor
    D: Tensor
    F: Tensor
    P: Tensor
    Q: Tensor
    second: SecondDifferentials | None

    @classmethod
    def first(cls, K: Tensor, theta: Tensor, *, second: bool) -> State:
        """That of the first layer, which does not fluctuate; ``second``: with R, S, T, U."""
        m = K.shape[0]
        two, four = torch.zeros_like(K), K.new_zeros(m, m, m, m)
        bent = SecondDifferentials(four, four, four, four) if second else None
        return cls(K, theta, two, two, four, four, four, four, four, four, four, bent)

    @property
    def bent(self) -> SecondDifferentials:
        """R, S, T, U.

        Raises:
            ValueError: the activation has kinks.
        """
        if self.second is None:
            raise ValueError(
                "R, S, T and U between inputs are worked out for activations without kinks only (<s''^2> of a corner is "
                "infinite): use a smooth activation, or the other tensors."
            )
        return self.second

    @property
    def R(self) -> Tensor:
        """Mean of the first second differential."""
        return self.bent.R

    @property
    def S(self) -> Tensor:
        """Mean of the other one, both curvatures of one neuron."""
        return self.bent.S

    @property
    def T(self) -> Tensor:
        """Mean of the other one, each curvature with the slope that it does not share a sum with."""
        return self.bent.T

    @property
    def U(self) -> Tensor:
        """Mean of the other one, the last pairing."""
        return self.bent.U


@dataclass(frozen=True)
class Step:
    """The step from layer l to l + 1.

    Args:
        r: n_l / n_{l-1}, 0 for l = 1.
        c: C_W of layer l + 1.
        k: lambda_W / C_W of layer l + 1.
        mean: mean products at K^(l).
    """

    r: float
    c: float
    k: float
    mean: MeanProducts
