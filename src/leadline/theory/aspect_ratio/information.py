"""Mutual information of groups of output neurons, which share a random scale: as a series, and exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked

__all__ = ["divergence_series", "mutual_information", "mutual_information_series", "optimal_aspect_ratio",
           "scale_mixture_divergence"]  # fmt: skip

_REACH = 12.0


@checked(negative=("v",))
def divergence_series(v: Tensor | float, m: int, *, order: int = 3) -> Tensor:
    r"""Relative entropy of m output neurons to a Gaussian of the same variance, as a series in their spread.

    .. math:: \mathrm{KL}_m = \frac{v^2 m(m+2)}{16} - \frac{v^3 m(m+2)(m+8)}{48} + O(v^4)

    It holds for any law of the shared scale whose third central moment is of second order in v.

    Args:
        v: relative variance of the scale, any shape.
        m: number of neurons.
        order: 2 or 3.
    Returns:
        Shape of v, nats.
    Raises:
        ValueError: m is not positive, or order is neither 2 nor 3.
    Source: Roberts, Yaida & Hanin (2022), appendix A.3.
    """
    _check_counts(m)
    if order not in (2, 3):
        raise ValueError(f"order must be 2 or 3, got {order}; use mutual_information for the exact value")
    v = torch.as_tensor(v, dtype=None if isinstance(v, Tensor) else torch.float64)
    second = v**2 * (m * (m + 2) / 16)
    return second if order == 2 else second - v**3 * (m * (m + 2) * (m + 8) / 48)


@checked(
    negative=(
        "v",
        "m1",
        "m2",
    )
)
def mutual_information_series(v: Tensor | float, m1: int, m2: int, *, order: int = 3) -> Tensor:
    r"""Mutual information of two groups of output neurons of one input, as a series in their spread.

    .. math:: I(m_1; m_2) = m_1 m_2\Big[\frac{v^2}{8} - \frac{(20 + 3(m_1+m_2))\,v^3}{48}\Big] + O(v^4)

    Args:
        v: relative variance of the scale, nu r to first order, any shape.
        m1: neurons of the first group.
        m2: neurons of the second group.
        order: 2 or 3.
    Returns:
        Shape of v, nats. At third order it turns negative at v = 6/(20 + 3 n_L): that is the series' end, not physics.
    Source: Roberts, Yaida & Hanin (2022), appendix A.3.

    >>> round(mutual_information_series(0.01, 1, 1).item() * 1e5, 4)
    1.1958
    """
    parts = [divergence_series(v, m, order=order) for m in (m1 + m2, m1, m2)]
    return parts[0] - parts[1] - parts[2]


@checked()
def optimal_aspect_ratio(nu: float, outputs: int) -> float:
    r"""r*: aspect ratio at which the third-order mutual information of the outputs is largest.

    .. math:: r^* = \frac{4}{(20 + 3 n_L)\,\nu}

    An order-of-magnitude guide, not an optimum that a measurement would show: it is the extremum of a series cut at
    third order, where the third-order term is 2/3 of the second, and the exact information of the log-normal limit
    grows without a maximum (:func:`mutual_information`). Another choice of expansion parameter gives another number:
    4/(14 + 3 n_L)/nu with v = exp(nu r) - 1 in place of nu r.

    Args:
        nu: from :func:`leadline.theory.aspect_ratio.spread_rate`.
        outputs: n_L, the number of output neurons.
    Returns:
        r*, depth over width.
    Raises:
        ValueError: nu is not positive, or there is no output.
    Source: Roberts, Yaida & Hanin (2022), appendix A.3, equation A.73 ff.

    >>> [round(optimal_aspect_ratio(nu, 2), 4) for nu in (5.0, 2.0, 2 / 3)]
    [0.0308, 0.0769, 0.2308]
    """
    _check_counts(outputs)
    if not (math.isfinite(nu) and nu > 0):
        raise ValueError(f"nu must be a positive number, got {nu}; take it from spread_rate")
    return 4 / ((20 + 3 * outputs) * nu)


@checked()
def scale_mixture_divergence(m: int, log_scale: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Relative entropy of m Gaussians that share a random variance to a Gaussian of the same mean variance, exactly.

    .. math:: p_m(z) = \sum_s w_s\, N(z; 0, G_s 1_m),\qquad \mathrm{KL}_m = \int p_m \ln\frac{p_m}{N(0, \bar G 1_m)}

    The angle integrates out, and what is left is one integral over ln |z|^2, taken by the trapezoidal rule to about
    1e-10 relative.

    Args:
        m: number of neurons.
        log_scale: ln G at the nodes of its law, or at draws of it, shape (s,).
        weights: of the nodes, shape (s,), summing to 1; None for draws of equal weight.
    Returns:
        A scalar in nats.
    Raises:
        ValueError: m is not positive, or weights and nodes do not fit.
    """
    _check_counts(m)
    g = log_scale.detach().to(torch.float64)
    w = torch.full_like(g, 1 / g.numel()) if weights is None else weights.detach().to(torch.float64)
    if g.ndim != 1 or g.shape != w.shape or g.numel() == 0 or bool((w < 0).any()):
        raise ValueError(
            f"log_scale and weights must be vectors of one length, weights not negative, got shapes {tuple(g.shape)} and "
            f"{tuple(w.shape)}; pass nodes of the law of ln G"
        )
    keep = w > 0
    g, log_w = g[keep], (w[keep] / w.sum()).log()
    g = g - torch.logsumexp(g + log_w, 0)  # mean variance 1
    low, high = min(0.0, float(g.min())), max(0.0, float(g.max()))
    step = 0.1 * min(1.0, math.sqrt(2 / m))
    u = torch.arange(low + math.log(m) - 75.0 / m - 1, high + math.log(m + 14 * math.sqrt(2 * m) + 90), step).to(g)
    total = torch.zeros((), dtype=torch.float64, device=g.device)
    for part in u.split(max(1, 2_000_000 // g.numel())):
        total = total + _excess(part, g, log_w, m).sum() * step
    return total


def _excess(u: Tensor, g: Tensor, log_w: Tensor, m: int) -> Tensor:
    """Density over u = ln |z|^2 of q (R ln R - R + 1), R = p/q: its integral is KL(p, q) and no part of it cancels."""
    t = u.exp()
    log_q = 0.5 * m * u - 0.5 * t - 0.5 * m * math.log(2) - math.lgamma(0.5 * m)
    exponent = log_w - 0.5 * m * g - 0.5 * t[:, None] * torch.expm1(-g)
    log_R = torch.logsumexp(exponent, 1)
    d = torch.expm1(log_R.clamp_max(1.0))
    near = d * d * (0.5 - d * (1 / 6 - d * (1 / 12 - d * (1 / 20 - d / 30))))
    p, q = (log_q + log_R).exp(), log_q.exp()
    return torch.where(log_R.abs() < 1e-3, q * near, p * log_R - p + q)


@checked()
def mutual_information(log_variance: float, m1: int, m2: int) -> Tensor:
    r"""Mutual information of two groups of output neurons whose shared scale is log-normal, exactly.

    .. math:: \ln\hat G/K \sim N(-\tfrac12\tau^2, \tau^2),\qquad
              I(m_1; m_2) = \mathrm{KL}_{m_1+m_2} - \mathrm{KL}_{m_1} - \mathrm{KL}_{m_2}

    The scale of a deep bias-free ReLU or linear network is log-normal in the limit of depth and width growing
    together, with tau^2 = nu r. In other classes it is so to first order in r only.

    Args:
        log_variance: tau^2, variance of the logarithm of the scale.
        m1: neurons of the first group.
        m2: neurons of the second group.
    Returns:
        A scalar in nats.
    Raises:
        ValueError: log_variance is negative or not finite, or a group is empty.

    >>> round(mutual_information(0.4, 1, 1).item(), 4)
    0.0094
    """
    _check_counts(m1, m2)
    if not (math.isfinite(log_variance) and log_variance >= 0):
        raise ValueError(f"log_variance must be a number of 0 or more, got {log_variance}; it is nu r")
    if log_variance == 0:
        return torch.zeros((), dtype=torch.float64)
    total, first, second = (_log_normal_divergence(log_variance, m) for m in (m1 + m2, m1, m2))
    return total - first - second


def _log_normal_divergence(log_variance: float, m: int) -> Tensor:
    tau = math.sqrt(log_variance)
    # nodes closer than both the law of the scale and what a sample of m neurons says of it
    step = 0.25 * min(1.0, math.sqrt(2 / m) / tau)
    x = torch.arange(-_REACH, _REACH + step / 2, step, dtype=torch.float64)
    w = torch.exp(-0.5 * x * x)
    return scale_mixture_divergence(m, tau * x - 0.5 * log_variance, w / w.sum())


def _check_counts(*counts: int) -> None:
    if any(m < 1 for m in counts):
        raise ValueError(f"a group of neurons must have 1 or more, got {min(counts)}; leave empty groups out")
