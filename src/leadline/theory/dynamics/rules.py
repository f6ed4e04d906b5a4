r"""Update rules of full-batch training, as what they do to one eigenmode of the tangent kernel.

The error of a mode with eigenvalue :math:`\lambda` is driven by itself alone: :math:`p_t(\lambda)` of it is left at
time t. A rule is a class with three methods; a user's own joins the family by having them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["GradientDescent", "GradientFlow", "Momentum", "Newton", "Rule"]


class Rule(Protocol):
    """What an update rule does to the eigenmodes of the tangent kernel."""

    def left(self, modes: Tensor, time: float) -> Tensor:
        """Share p_t of a mode's initial error that is left at a time, shape of ``modes``."""

    def stable(self, largest: float) -> bool:
        """Whether the error of every mode up to this eigenvalue goes to zero."""

    def lag(self, modes: Tensor) -> Tensor:
        r"""How far mode c has come while mode b is being learned.

        .. math:: Z_{cb} = \int \frac{\alpha_c(t)}{\alpha_c(\infty)}\, \frac{f_b(t)}{\alpha_b(\infty)}\, dt

        :math:`\alpha` are the coordinates of the weights along the features of the data, f the steps that
        gradients of mode b amount to.

        Args:
            modes: eigenvalues, shape (M,), positive.

        Returns:
            Z, shape (M, M); Z + Z^T = 1 for flows.
        """


@dataclass(frozen=True)
class GradientFlow:
    """dw/dt = -rate * gradient: the limit of small steps. ``rate`` times time is what counts."""

    rate: float = 1.0

    def __post_init__(self) -> None:
        _check(self.rate)

    def left(self, modes: Tensor, time: float) -> Tensor:
        """exp(-rate * mode * time)."""
        return (-self.rate * time * modes).exp()

    def stable(self, largest: float) -> bool:
        """A flow is stable at any rate."""
        return largest < math.inf

    def lag(self, modes: Tensor) -> Tensor:
        """mode_c / (mode_b + mode_c)."""
        return modes[:, None] / (modes[:, None] + modes)


@dataclass(frozen=True)
class GradientDescent:
    """Steps w -> w - rate * gradient; time counts steps."""

    rate: float

    def __post_init__(self) -> None:
        _check(self.rate)

    def left(self, modes: Tensor, time: float) -> Tensor:
        """(1 - rate * mode)^time."""
        return (1 - self.rate * modes) ** _steps(time)

    def stable(self, largest: float) -> bool:
        """Rate below 2 / largest."""
        return self.rate * largest < 2

    def lag(self, modes: Tensor) -> Tensor:
        """1 - mode_b / (mode_b + mode_c - rate * mode_b * mode_c)."""
        c, b = modes[:, None], modes
        return 1 - b / (b + c - self.rate * b * c)


@dataclass(frozen=True)
class Momentum:
    """Heavy ball: v -> decay * v - rate * gradient, w -> w + v, from v = 0; time counts steps."""

    rate: float
    decay: float

    def __post_init__(self) -> None:
        _check(self.rate)
        if not 0 <= self.decay < 1:
            raise ValueError(f"got decay={self.decay}: give a number from 0 up to (not including) 1.")

    def left(self, modes: Tensor, time: float) -> Tensor:
        """Solution of p(t+1) = (1 + decay - rate * mode) p(t) - decay * p(t-1) from rest."""
        return torch.linalg.matrix_power(self._step(modes), _steps(time))[..., 0, :].sum(-1)

    def stable(self, largest: float) -> bool:
        """Rate below 2 (1 + decay) / largest."""
        return self.rate * largest < 2 * (1 + self.decay)

    def lag(self, modes: Tensor) -> Tensor:
        """Sum over steps of (1 - p_c) p_b, from the geometric series of the product of the two recursions."""
        step, M = self._step(modes), len(modes)
        pair = torch.einsum("cij,bkl->cbikjl", step, step).reshape(M, M, 4, 4)
        start = torch.ones(4, 1, dtype=modes.dtype, device=modes.device)
        eye = torch.eye(4, dtype=modes.dtype, device=modes.device)
        both = torch.linalg.solve(eye - pair, start.expand(M, M, 4, 1))[..., 0, 0]
        gain = self.rate / (1 - self.decay)
        return 1 - gain * modes * both

    def _step(self, modes: Tensor) -> Tensor:
        step = torch.zeros(*modes.shape, 2, 2, dtype=modes.dtype, device=modes.device)
        step[..., 0, 0] = 1 + self.decay - self.rate * modes
        step[..., 0, 1] = -self.decay
        step[..., 1, 0] = 1
        return step


@dataclass(frozen=True)
class Newton:
    """Steps along the gradient whitened by the inverse tangent kernel of the data: every mode at one rate."""

    rate: float = 1.0

    def __post_init__(self) -> None:
        _check(self.rate)

    def left(self, modes: Tensor, time: float) -> Tensor:
        """(1 - rate)^time, whatever the mode."""
        return torch.full_like(modes, (1 - self.rate) ** _steps(time))

    def stable(self, largest: float) -> bool:
        """Rate below 2."""
        return self.rate < 2 and largest < math.inf

    def lag(self, modes: Tensor) -> Tensor:
        """(1 - rate) / (2 - rate) for every pair."""
        return torch.full((len(modes),) * 2, (1 - self.rate) / (2 - self.rate), dtype=modes.dtype, device=modes.device)


def _check(rate: float) -> None:
    if not 0 < rate < math.inf:
        raise ValueError(f"got a learning rate of {rate}: give a positive one.")


def _steps(time: float) -> int:
    if time != int(time) or time < 0:
        raise ValueError(f"got time={time}: this rule counts steps, give whole numbers (or use GradientFlow).")
    return int(time)
