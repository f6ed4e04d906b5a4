"""Learning curves of deep linear networks: every singular mode of the task on its own, at any depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, log_expit
from torch import Tensor

from leadline.gaussian.arguments import checked

__all__ = ["DeepLinear", "mode_strength", "time_to_learn"]

Array = NDArray[np.float64]

_HALVINGS = 90
_TERMS = 8
_NODES, _WEIGHTS = (v / 2 for v in np.polynomial.legendre.leggauss(40))
_NODES = _NODES + 0.5


@dataclass(frozen=True)
class DeepLinear:
    r"""A deep linear network that learns a task with whitened inputs by gradient flow, mode by mode.

    .. math:: \Sigma_{yx} = U\,\mathrm{diag}(s)\,V^T, \qquad
        W(t) = U\,\mathrm{diag}(u(t))\,V^T, \qquad
        \tau \frac{du}{dt} = N\, u^{2-2/N} (s - u)

    It is exact for weights that start balanced and aligned with the task (every W_l the N-th root of the start
    along the modes, nothing elsewhere); a small random start becomes so by itself.

    Args:
        target: correlation of outputs with inputs, Sigma_yx, shape (outputs, inputs).
        depth: number N of weight matrices; inf is allowed.
        start: strength u_0 > 0 of every mode before training, a number or one a mode.
        tau: inverse learning rate, units of time.

    Raises:
        ValueError: the target is not a matrix, or start, depth or tau are not positive.

    Source: Saxe, McClelland and Ganguli (2013).

    >>> net = DeepLinear(torch.eye(2, dtype=torch.float64), depth=2, start=0.01)
    >>> round(net.strength(2.0)[0].item(), 4)
    0.3555
    """

    target: Tensor
    depth: float
    start: float | Tensor
    tau: float = 1.0

    def __post_init__(self) -> None:
        if self.target.ndim != 2:
            raise ValueError(f"got a target of shape {tuple(self.target.shape)}: give Sigma_yx, (outputs, inputs).")
        _positive(self.depth, self.start, self.tau)

    @property
    def modes(self) -> Tensor:
        """Singular values s of the task, largest first; those within rounding of 0 are left out."""
        return self._parts[1]

    def strength(self, time: float) -> Tensor:
        """Strength u of every mode at a time, shape of ``modes``."""
        return mode_strength(torch.as_tensor(time), self.modes, self.start, self.depth, self.tau)

    def map(self, time: float) -> Tensor:
        """Product of all weights at a time, shape of the target."""
        U, _, V = self._parts
        return (U * self.strength(time).to(U)) @ V

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        U, s, V = torch.linalg.svd(self.target, full_matrices=False)
        kept = s > max(self.target.shape) * torch.finfo(s.dtype).eps * s[0]
        return U[:, kept], s[kept], V[kept]

    def loss(self, time: float) -> float:
        """One half of the squared error of the map, sum over modes of (s - u)^2 / 2: what can be learned of the loss."""
        return float((self.modes - self.strength(time)).square().sum() / 2)

    @property
    def largest_stable_rate(self) -> float:
        r"""Learning rate below which gradient descent stays at the solution.

        .. math:: 2 / (N s_1^{2 - 2/N})
        """
        return 2 / (self.depth * float(self.modes[0]) ** (2 - 2 / self.depth))


@checked(infinite=("depth",))
def time_to_learn(u: Tensor | float, s: Tensor | float, u0: Tensor | float, depth: float, tau: float = 1.0) -> Tensor:
    r"""Time after which a mode of a deep linear network has gone from u_0 to u.

    .. math:: t = \frac{\tau}{N s^{2-2/N}} \int_{u_0/s}^{u/s} \frac{dx}{x^{2-2/N}(1-x)} , \qquad
        N = 2:\ \frac{\tau}{2s} \ln\frac{u (s-u_0)}{u_0 (s-u)}

    For N = inf the time is in units of tau / N, :math:`t N/\tau`, since a step of the whole product is N steps.

    Args:
        u: strength to reach, between u0 and s, broadcast.
        s: singular values of the task, positive.
        u0: strengths at the start, positive, on the same side of s as u.
        depth: number N of weight matrices, 1 or more; inf is allowed.
        tau: inverse learning rate, units of time.

    Returns:
        Broadcast shape, float64, units of tau. Modes with s = 0 are not covered.

    Raises:
        ValueError: u does not lie between u0 and s, or a number is not positive.

    Source: Saxe, McClelland and Ganguli (2013), sections 1.2 and 2; the form for any N is own.

    >>> round(time_to_learn(1.5, 2.0, 0.01, depth=2).item(), 6)
    1.597979
    """
    _positive(depth, u0, tau)
    end, mode, start = np.broadcast_arrays(*(_array(v) for v in (u, s, u0)))
    if (mode <= 0).any():
        raise ValueError(f"got a singular value of {mode.min():.6g}: give positive ones.")
    x, x0 = end / mode, start / mode
    if ((x - x0) * (1 - x0) < 0).any() or ((x - 1) * (x0 - 1) <= 0).any():
        raise ValueError("got a strength that is not between the start and the singular value: learning stays there.")
    rise = _clock(*_logit(x), depth) - _clock(*_logit(x0), depth)
    return torch.from_numpy(np.asarray(rise / _pace(mode, depth, tau)))


@checked(infinite=("time", "depth"))
def mode_strength(
    time: Tensor | float, s: Tensor | float, u0: Tensor | float, depth: float, tau: float = 1.0
) -> Tensor:
    r"""Strength of a mode of a deep linear network after training for a time.

    .. math:: N = 2:\ u = \frac{s\, e^{2st/\tau}}{e^{2st/\tau} - 1 + s/u_0} , \qquad
        \text{else the inverse of } \texttt{time\_to\_learn}

    Args:
        time: of training, not negative, broadcast, units of tau (of tau / N for N = inf).
        s: singular values of the task, not negative.
        u0: strengths at the start, positive.
        depth: number N of weight matrices, 1 or more; inf is allowed.
        tau: inverse learning rate, units of time.

    Returns:
        Broadcast shape, float64. A mode with s = 0 decays by itself.

    Raises:
        ValueError: a time is negative, or a start, depth or tau is not positive.

    Source: Saxe, McClelland and Ganguli (2013), sections 1.2 and 2.

    >>> round(mode_strength(1.0, 2.0, 0.01, depth=2).item(), 5)
    0.43059
    """
    _positive(depth, u0, tau)
    t, mode, start = np.broadcast_arrays(*(_array(v) for v in (time, s, u0)))
    if (t < 0).any() or (mode < 0).any():
        raise ValueError(f"got a time of {t.min():.6g} and a singular value of {mode.min():.6g}: give neither below 0.")
    found = np.empty(t.shape)
    idle = mode == 0
    found[idle] = _decay(t[idle], start[idle], depth, tau)
    busy = ~idle
    x0 = start[busy] / mode[busy]
    found[busy] = mode[busy] * _approach(t[busy] * _pace(mode[busy], depth, tau), x0, depth)
    return torch.from_numpy(found)


def _pace(s: Array, depth: float, tau: float) -> Array:
    """How fast the clock of a mode runs: N s^(2-2/N) / tau."""
    return (1.0 if depth == math.inf else depth) * s ** (2 - 2 / depth) / tau


def _clock(logit: Array, above: NDArray[np.bool_], depth: float) -> Array:
    """Antiderivative of x^(-p)/(1-x), p = 2 - 2/N, at x = expit(logit), or 1/x = expit(logit) where above."""
    # In y, the smaller of x and 1/x, it is that of y^(q-1)/(1-y): take out terms (y^q - 1)/q, (y^(q+1) - 1)/(q+1), …
    # until a Gauss rule does the rest.
    p = 2 - 2 / depth
    q = np.where(above, p, 1 - p)
    y, log_y, log_rest = expit(logit), log_expit(logit), log_expit(-logit)
    total = -log_rest
    for k in range(_TERMS):
        power = q + k
        small = np.abs(power) < 1e-12
        total += np.where(small, log_y, np.expm1(power * log_y) / np.where(small, 1.0, power))
    # what is left: the integral from 0 to y of (t^m - 1)/(1 - t)
    m = q[..., None] + _TERMS - 1
    away = expit(-logit)[..., None] * _NODES + (1 - _NODES)  # 1 - t, with its digits
    return total + ((np.expm1(m * np.log1p(-away)) / away) @ _WEIGHTS) * y


def _approach(ticks: Array, x0: Array, depth: float) -> Array:
    """Strength in units of s after some ticks of the clock."""
    if depth == 1:
        return 1 + (x0 - 1) * np.exp(-ticks)
    if depth == 2:
        return 1 / (1 + (1 / x0 - 1) * np.exp(-ticks))
    # Bisect for the logit of x (of 1/x above 1): it runs no faster than the clock (than x0^p times the clock).
    there = (x0 == 1) | np.isinf(ticks)
    x0, ticks = np.where(there, 0.5, x0), np.where(there, 0.0, ticks)
    low, above = _logit(x0)
    high = low + ticks * np.where(above, x0, 1.0) ** (2 - 2 / depth) + 1e-9
    wanted = ticks + _clock(low, above, depth)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        ahead = _clock(middle, above, depth) > wanted
        low, high = np.where(ahead, low, middle), np.where(ahead, middle, high)
    x = np.where(above, 1 + np.exp(-low), expit(low))
    return np.where(there, 1.0, x)


def _logit(x: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The logit of the smaller of x and 1/x, and whether that is 1/x."""
    above = x > 1
    return np.where(above, -np.log(np.abs(x - 1)), np.log(x) - np.log(np.abs(1 - x))), above


def _decay(t: Array, u0: Array, depth: float, tau: float) -> Array:
    """Strength without a target: tau du/dt = -N u^(3-2/N)."""
    p, steps = 2 - 2 / depth, 1.0 if depth == math.inf else depth
    if p == 0:
        return u0 * np.exp(-t / tau)
    return (u0**-p + p * steps * t / tau) ** (-1 / p)


def _array(value: Tensor | float) -> Array:
    return torch.as_tensor(value, dtype=torch.float64).detach().cpu().numpy()


def _positive(depth: float, start: Tensor | float, tau: float) -> None:
    if not (depth == math.inf or (depth >= 1 and depth == int(depth))):
        raise ValueError(f"got depth={depth}: give a whole number of weight matrices, or inf.")
    if not bool((torch.as_tensor(start) > 0).all()) or not tau > 0:
        raise ValueError(f"got a start of {start} and tau={tau}: give positive ones; a deep network never leaves 0.")
