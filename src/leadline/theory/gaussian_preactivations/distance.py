"""How far pre-activations are from Gaussian: the distance of distribution functions, measured and predicted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.gaussian.normal import upper_tail

__all__ = ["kurtosis_distance", "log_normal_distance", "noise_distance", "normal_distance"]

_GRID = 1201


@checked(negative=("variance",))
def normal_distance(samples: Tensor, variance: Tensor | float | None = None) -> Tensor:
    r"""Kolmogorov-Smirnov distance of samples to a centred Gaussian.

    .. math:: D = \sup_z |F_N(z) - \Phi(z/s)|

    Args:
        samples: independent draws along the last axis, shape (..., N); for a layer one unit of many networks.
        variance: s^2; None for the mean square of the samples.
    Returns:
        Shape (...).
    Raises:
        ValueError: there are fewer than two samples.
    """
    if samples.shape[-1] < 2:
        raise ValueError(f"samples must have 2 or more along the last axis, got {samples.shape[-1]}")
    z = samples.detach().to(torch.float64)
    s2 = z.square().mean(-1) if variance is None else torch.as_tensor(variance, dtype=torch.float64)
    ordered = (z / s2.sqrt()[..., None]).sort(-1).values
    count = z.shape[-1]
    place = torch.arange(count, dtype=torch.float64, device=z.device)
    normal = upper_tail(-ordered)
    return torch.maximum((place + 1) / count - normal, normal - place / count).amax(-1)


@checked()
def noise_distance(count: int) -> float:
    """Distance that 5 % of samples of a Gaussian exceed: 1.36/sqrt(count); the level below which nothing is seen.

    Args:
        count: number of samples.
    Returns:
        The level.
    Raises:
        ValueError: count is not positive.
    Source: Kolmogorov (1933), Smirnov (1948).
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    return 1.36 / math.sqrt(count)


@checked()
def kurtosis_distance(v: Tensor | float) -> Tensor:
    r"""Distance of one pre-activation to a Gaussian, to first order in the relative variance of its scale.

    .. math:: D = \frac v8\,\max_z|z^3 - 3z|\,\varphi(z) = 0.0688\,v,\qquad \text{excess kurtosis} = 3v

    Args:
        v: V/(n K^2), any shape.
    Returns:
        Shape of v.
    """
    z = math.sqrt(3 - math.sqrt(6))
    peak = abs(z**3 - 3 * z) * math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return torch.as_tensor(v, dtype=None if isinstance(v, Tensor) else torch.float64) * (peak / 8)


@checked()
def log_normal_distance(log_variance: float) -> Tensor:
    r"""Distance of one pre-activation to the Gaussian of its variance where the scale is log-normal, exactly.

    .. math:: D = \max_z\Big|\Big\langle\Phi(z e^{-(\tau x - \tau^2/2)/2})\Big\rangle_{x\sim N(0,1)} - \Phi(z)\Big|

    Args:
        log_variance: tau^2, nu r for deep bias-free ReLU or linear networks.
    Returns:
        A scalar.
    Raises:
        ValueError: log_variance is negative or not finite.
    """
    if not (math.isfinite(log_variance) and log_variance >= 0):
        raise ValueError(f"log_variance must be a number of 0 or more, got {log_variance}; it is nu r")
    tau = math.sqrt(log_variance)
    x = torch.linspace(-10, 10, 401, dtype=torch.float64)
    w = torch.exp(-0.5 * x * x)
    # the distance is widest between the typical and the root mean square scale
    z = torch.linspace(-2.5 - 0.5 * log_variance, 1.5, _GRID, dtype=torch.float64).exp()
    mixed = (w / w.sum() * upper_tail(-z[:, None] * torch.exp(-0.5 * (tau * x - 0.5 * log_variance)))).sum(-1)
    return (mixed - upper_tail(-z)).abs().max()
