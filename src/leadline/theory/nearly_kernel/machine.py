"""The nearly-kernel machine: predictions of a quadratic model after training, to first order in its nonlinearity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.bayes.posterior import targets
from leadline.theory.dynamics import GradientFlow

__all__ = ["LeastNorm", "NearlyKernelMachine", "effective_features", "quadratic_model"]


class Lag(Protocol):
    """Whatever says how the coordinates of the modes are learned after one another: any update rule, or least norm."""

    def lag(self, modes: Tensor) -> Tensor:
        """Z, shape (M, M), of eigenvalues of shape (M,)."""


@dataclass(frozen=True)
class LeastNorm:
    """The weights of least norm that fit the data, found directly and not by following a gradient."""

    def lag(self, modes: Tensor) -> Tensor:
        """One for every pair: all modes are there at once."""
        return torch.ones(len(modes), len(modes), dtype=modes.dtype, device=modes.device)


@checked()
def quadratic_model(features: Tensor, meta_features: Tensor, epsilon: float, weights: Tensor) -> Tensor:
    r"""Outputs of the quadratic model.

    .. math:: z_{i}(x) = \sum_j W_{ij}\phi_j(x) + \frac\epsilon2 \sum_{jk} W_{ij} W_{ik}\psi_{jk}(x)

    Args:
        features: phi at m inputs, shape (m, F).
        meta_features: psi, symmetric, shape (m, F, F).
        epsilon: strength of the quadratic part.
        weights: shape (F,) or (F, outputs).

    Returns:
        Shape (m,) or (m, outputs), units of the targets.

    Source: Roberts, Yaida and Hanin (2022), section 11.4.
    """
    linear = features @ weights
    bent = torch.tensordot(meta_features, weights, dims=([2], [0]))
    return linear + epsilon / 2 * torch.einsum("mf...,f...->m...", bent, weights)


@checked()
def effective_features(features: Tensor, meta_features: Tensor, epsilon: float, weights: Tensor) -> Tensor:
    r"""Features that a gradient sees at given weights of one output: dz/dw.

    A model that starts at w is one that starts at 0 with these features, targets less its outputs at the start,
    and the same meta features.

    .. math:: \phi^E_j(x; w) = \phi_j(x) + \epsilon \sum_k \psi_{jk}(x) w_k

    Args:
        features: phi at m inputs, shape (m, F).
        meta_features: psi, symmetric, shape (m, F, F).
        epsilon: strength of the quadratic part.
        weights: shape (F,).

    Returns:
        Shape (m, F).

    Source: Roberts, Yaida and Hanin (2022), section 11.4.
    """
    return features + epsilon * meta_features @ weights


class NearlyKernelMachine:
    r"""A quadratic model trained from zero weights on the squared error until it fits the data, to first order.

    With :math:`k_{xa} = \phi_x\cdot\phi_a`, :math:`\mu_{x;ab} = \phi_a^T\psi_x\phi_b`,
    :math:`\alpha = k_{XX}^{-1} Y` and the rule's lag Z in the eigenbasis of :math:`k_{XX}`,

    .. math:: z_x = k_{xa}\alpha_a + \epsilon\,(q_x - k_{xa} k^{-1}_{ab} q_b) , \qquad
        q_x = \tfrac12 \mu_{x;bc}\alpha_b\alpha_c + \mu_{b;xc}\, (Z_{cb}\,\alpha_c\alpha_b) .

    The first part of q is the same for every algorithm; Z projects the second and depends on how the data were
    fitted: 1 for least norm, :math:`\lambda_c/(\lambda_b + \lambda_c)` for gradient flow.

    Args:
        features: phi of the M data, shape (M, F), linearly independent.
        meta_features: psi of the data, symmetric in its last two axes, shape (M, F, F).
        Y: targets, shape (M,) or (M, outputs).
        epsilon: strength of the quadratic part.
        rule: how it is trained: an update rule (gradient flow if None) or :class:`LeastNorm`.

    Raises:
        ValueError: shapes do not fit, the features of the data are linearly dependent, or the rule diverges.

    Source: Roberts, Yaida and Hanin (2022), section 11.4; the derivation, with its projectors, is own.

    >>> one = torch.ones(1, 2, dtype=torch.float64)
    >>> machine = NearlyKernelMachine(one, torch.zeros(1, 2, 2, dtype=torch.float64), torch.ones(1), 0.1)
    >>> machine(one, torch.zeros(1, 2, 2, dtype=torch.float64)).tolist()
    [[1.0]]
    """

    def __init__(
        self, features: Tensor, meta_features: Tensor, Y: Tensor, epsilon: float, rule: Lag | None = None
    ) -> None:
        _checked(features, meta_features, features.shape[-1])
        self.features, self.meta_features, self.epsilon = features, meta_features, epsilon
        self.rule = rule or GradientFlow()
        k = features @ features.mT
        self.Y = targets(k, Y)
        if self.Y.shape[0] != features.shape[0]:
            raise ValueError(f"got {self.Y.shape[0]} targets for {features.shape[0]} rows of features: give one each.")
        self._modes, self._vectors = torch.linalg.eigh(k)
        smallest, largest = float(self._modes[0]), float(self._modes[-1])
        if not smallest > 1e-12 * largest:
            raise ValueError(
                "got features of the data that are linearly dependent: give more features than data, or drop repeated data."
            )
        stable = getattr(self.rule, "stable", None)
        if stable is not None and not stable(largest):
            raise ValueError(f"got {self.rule}, which diverges on modes up to {largest:.3g}: lower the rate.")
        along = self._vectors.mT @ self.Y / self._modes[:, None]
        # alpha is the kernel machine; ordered_cb weighs "c was there when b was learned", an output each
        self.alpha = self._vectors @ along
        lagged = self.rule.lag(self._modes)[:, :, None] * along[:, None] * along[None]
        self.ordered = torch.einsum("ac,cdo,bd->abo", self._vectors, lagged, self._vectors)
        self._correction = self._solve(self._bend(features, meta_features))

    def __call__(self, features: Tensor, meta_features: Tensor) -> Tensor:
        """Outputs after training, to first order in epsilon.

        Args:
            features: phi at the inputs, shape (m, F).
            meta_features: psi there, shape (m, F, F).

        Returns:
            Shape (m, outputs), units of the targets.

        Raises:
            ValueError: shapes do not fit the data's.
        """
        _checked(features, meta_features, self.features.shape[1])
        bend = self._bend(features, meta_features) - features @ self.features.mT @ self._correction
        return self.kernel_machine(features) + self.epsilon * bend

    def kernel_machine(self, features: Tensor) -> Tensor:
        """Outputs of the kernel machine alone (epsilon = 0), shape (m, outputs)."""
        return features @ self.features.mT @ self.alpha

    @property
    def weights(self) -> Tensor:
        """Weights after training, to first order in epsilon, shape (F, outputs)."""
        apart = torch.einsum("bfg,cg,cbo->fo", self.meta_features, self.features, self.ordered)
        return self.features.mT @ (self.alpha - self.epsilon * self._correction) + self.epsilon * apart

    def dynamical_kernel(
        self, features: Tensor, meta_features: Tensor, output: int = 0, time: float = math.inf
    ) -> Tensor:
        r"""Kernel of the effective features between inputs and data at a time of training, to first order.

        .. math:: k^E_{xa}(t) = k_{xa} + \epsilon\, (\mu_{a;xb} + \mu_{x;ab})\, \alpha_b(t)

        Args:
            features: phi at the inputs, shape (m, F).
            meta_features: psi there, shape (m, F, F).
            output: whose weights.
            time: of training; inf is its end.

        Returns:
            Shape (m, M): the kernel at the start plus what the features have learned.

        Raises:
            ValueError: shapes do not fit, or a time before the end is asked of least norm, which has none.
        """
        _checked(features, meta_features, self.features.shape[1])
        alpha = self.alpha[:, output]
        if time != math.inf:
            left = getattr(self.rule, "left", None)
            if left is None:
                raise ValueError(f"got time={time} with {self.rule}, which has no time: ask for the end, inf.")
            alpha = self._vectors @ ((1 - left(self._modes, time)) * (self._vectors.mT @ alpha))
        w = self.features.mT @ alpha
        moved = features @ (self.meta_features @ w).mT + (meta_features @ w) @ self.features.mT
        return features @ self.features.mT + self.epsilon * moved

    def _bend(self, features: Tensor, meta_features: Tensor) -> Tensor:
        """What q is at inputs, shape (m, outputs)."""
        w = self.features.mT @ self.alpha
        common = torch.einsum("mfg,fo,go->mo", meta_features, w, w) / 2
        apart = torch.einsum("bfg,cg,cbo->fo", self.meta_features, self.features, self.ordered)
        return common + features @ apart

    def _solve(self, values: Tensor) -> Tensor:
        return self._vectors @ ((self._vectors.mT @ values) / self._modes[:, None])


def _checked(features: Tensor, meta_features: Tensor, F: int) -> None:
    if features.ndim != 2 or features.shape[1] != F or tuple(meta_features.shape) != (len(features), F, F):
        raise ValueError(
            f"got features of shape {tuple(features.shape)} and meta features of shape {tuple(meta_features.shape)}: "
            f"give (m, {F}) and (m, {F}, {F})."
        )
    if not torch.allclose(meta_features, meta_features.mT):
        raise ValueError("got meta features that are not symmetric: give (psi + psi^T) / 2, which is the same model.")
