"""Inputs that are copies of another: their tensors follow from it, and the flow runs without them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.theory.flow.joint import input_pairs

__all__ = ["Replicas"]

_SAME = 1e-13


@dataclass(frozen=True)
class Replicas:
    """Which of the distinct inputs each input is, and by what factor.

    Args:
        kept: numbers of the inputs that the flow runs with.
        source: for each input, its place among ``kept``.
        factor: for each input, its multiple of that one.
    """

    kept: list[int]
    source: Tensor
    factor: Tensor

    @classmethod
    def of(cls, K: Tensor, scalable: bool) -> Replicas:
        """Find equal inputs; and positive multiples, where the network is homogeneous.

        Args:
            K: covariance at the first layer, shape (m, m).
            scalable: whether a multiple of an input gives the same multiple of every pre-activation.

        Returns:
            The replicas.
        """
        kept: list[int] = []
        source: list[int] = []
        factor: list[float] = []
        for a in range(K.shape[0]):
            size = float(K[a, a])
            for place, b in enumerate(kept):
                scale = (size / float(K[b, b])) ** 0.5 if scalable and float(K[b, b]) > 0 else 1.0
                rest = size + scale**2 * float(K[b, b]) - 2 * scale * float(K[a, b])
                if abs(rest) <= _SAME * size:
                    source.append(place)
                    factor.append(scale)
                    break
            else:
                source.append(len(kept))
                factor.append(1.0)
                kept.append(a)
        return cls(kept, torch.tensor(source, device=K.device), torch.tensor(factor, dtype=K.dtype, device=K.device))

    def reduce(self, K: Tensor) -> Tensor:
        """The covariance of the kept inputs.

        Args:
            K: shape (m, m).

        Returns:
            Shape (kept, kept).
        """
        return K[self.kept][:, self.kept]

    def expand(self, K: Tensor, V: Tensor, V_error: Tensor, G1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tensors of all inputs from those of the kept ones.

        Args:
            K: shape (L, kept, kept).
            V: shape (L, pairs, pairs) of the kept inputs.
            V_error: the same.
            G1: shape of K.

        Returns:
            The same for all inputs.
        """
        if len(self.kept) == self.source.numel():
            return K, V, V_error, G1
        s = self.source
        two = self.factor[:, None] * self.factor
        a, b = input_pairs(s.numel(), K.device)
        index = torch.zeros(len(self.kept), len(self.kept), dtype=torch.long, device=K.device)
        i, j = input_pairs(len(self.kept), K.device)
        index[i, j] = index[j, i] = torch.arange(i.numel(), device=K.device)
        place, scale = index[s[a], s[b]], two[a, b]
        four = scale[:, None] * scale
        pairs = [four * t[:, place][:, :, place] for t in (V, V_error)]
        K, G1 = (two * t[:, s][:, :, s] for t in (K, G1))
        return K, pairs[0], pairs[1], G1
