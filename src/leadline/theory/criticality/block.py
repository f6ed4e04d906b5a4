"""One layer as the theory of criticality sees it: a nonlinearity, a norm before or after it, a skip around it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leadline.activations import Activation, activation

__all__ = ["Block", "Norm"]


class Norm(enum.StrEnum):
    """Where a layer normalises: not at all, or by LayerNorm or RMSNorm before or after its activation."""

    none = "none"
    layer_norm_before = "layer_norm_before"
    layer_norm_after = "layer_norm_after"
    rms_norm_before = "rms_norm_before"
    rms_norm_after = "rms_norm_after"

    @property
    def before(self) -> bool:
        """Whether the preactivation is normalised; LayerNorm and RMSNorm agree there, its channel mean being 0."""
        return self in (Norm.layer_norm_before, Norm.rms_norm_before)


@dataclass(frozen=True)
class Block:
    r"""A layer h' = W s(h) + b + gamma h, with a norm inside the branch or none.

    .. math:: K' = C_b + C_W\, m(K) + \gamma^2 K, \qquad \chi_\parallel = C_W\, m'(K) + \gamma^2, \qquad
              \chi_\perp = C_W\, p(K) + \gamma^2

    with m = <s^2>_K, p = <s'^2>_K (no norm); m = <s^2>_1, p = <s'^2>_1/K (norm before the activation);
    m = 1, p = <s'^2>_K/(<s^2>_K - <s>_K^2) (LayerNorm after it; RMSNorm keeps the mean: p = <s'^2>_K/<s^2>_K).
    Norms are without gain and shift, and what they add to a Jacobian at order 1/n is dropped.

    Args:
        activation: the nonlinearity s.
        norm: where the branch normalises.
        residual: gamma, what the skip multiplies the stream by; 0 is no skip.

    Source: Doshi, He and Gromov (2023), sections 2-4.
    """

    activation: Activation
    norm: Norm = Norm.none
    residual: float = 0.0

    @classmethod
    def of(cls, obj: Any, norm: str | Norm = Norm.none, residual: float = 0.0) -> Block:
        """Block of whatever names an activation.

        Args:
            obj: module, function, name, callable or Activation.
            norm: one of "none", "layer_norm_before", "layer_norm_after", "rms_norm_before", "rms_norm_after".
            residual: gamma >= 0.

        Returns:
            The block.

        Raises:
            ValueError: the norm is unknown, or the residual strength is negative or not finite.
        """
        if norm not in list(Norm):
            raise ValueError(f"no norm called {norm!r}; pass one of {', '.join(Norm)}.")
        if not (math.isfinite(residual) and residual >= 0):
            raise ValueError(
                f"the residual strength must be a number >= 0, got {residual}; 0 is no skip, 1 a full one."
            )
        return cls(activation(obj), Norm(norm), float(residual))

    def _unit(self, K: Tensor) -> Tensor:
        return torch.ones((), dtype=torch.float64, device=K.device)

    def moment(self, K: Tensor) -> Tensor:
        """m(K): mean square of what the branch hands to its weights; K holds variances of any shape."""
        if self.norm is Norm.none:
            return self.activation.second_moment(K)
        if self.norm.before:
            return self.activation.second_moment(self._unit(K)).expand_as(K)
        return torch.ones_like(K)

    def moment_slope(self, K: Tensor) -> Tensor:
        """m'(K); 0 with a norm, which forgets the size of its input."""
        return self.activation.second_moment_slope(K) if self.norm is Norm.none else torch.zeros_like(K)

    def slope_moment(self, K: Tensor) -> Tensor:
        """p(K): mean square of the branch's derivative, norms included."""
        act = self.activation
        if self.norm is Norm.none:
            return act.derivative_moment(K)
        if self.norm.before:
            return act.derivative_moment(self._unit(K)) / K
        square = act.second_moment(K)
        centred = square - act.mean(K) ** 2 if self.norm is Norm.layer_norm_after else square
        return act.derivative_moment(K) / centred

    def kernel(self, K: Tensor, C_W: Tensor | float, C_b: Tensor | float) -> Tensor:
        """K' of the next layer; arguments broadcast."""
        return C_b + C_W * self.moment(K) + self.residual**2 * K

    def susceptibilities(self, K: Tensor, C_W: Tensor | float) -> tuple[Tensor, Tensor]:
        """(chi_parallel, chi_perp) at kernel K; arguments broadcast."""
        skip = self.residual**2
        return C_W * self.moment_slope(K) + skip, C_W * self.slope_moment(K) + skip
