"""How fast the relative spread of a network's scale grows with depth over width, for each universality class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from leadline.activations import Activation, activation
from leadline.activations.universality import origin_numbers
from leadline.gaussian.arguments import checked
from leadline.theory.criticality import layer_spread, spread_with_skip, third_moment

__all__ = ["aspect_ratio", "log_normal_spread", "product_spread", "spread_rate"]

_CRITICAL = 1e-3


@checked()
def aspect_ratio(hidden_widths: Sequence[int]) -> float:
    r"""Depth over width of a network whose widths may vary.

    .. math:: r = \sum_l 1/n_l

    Args:
        hidden_widths: n_l of every hidden layer; neither inputs nor outputs.
    Returns:
        r; L/n for L hidden layers of one width n.
    Raises:
        ValueError: a width is not positive.
    Source: Roberts, Yaida & Hanin (2022), section 4.4.

    >>> aspect_ratio([64] * 16)
    0.25
    """
    if any(n < 1 for n in hidden_widths):
        raise ValueError(
            f"hidden widths must be 1 or more, got {min(hidden_widths)}; leave out layers that do not exist"
        )
    return float(sum(1.0 / n for n in hidden_widths))


@checked(
    negative=(
        "nu",
        "hidden_widths",
    )
)
def product_spread(nu: float, hidden_widths: Sequence[int]) -> float:
    r"""Relative variance of the last kernel where every layer multiplies the scale by an independent factor.

    .. math:: \mathrm{Var}\,\hat G/(\mathrm E\,\hat G)^2 = \prod_l (1 + \nu/n_l) - 1

    Exact for scale-invariant activations without bias; first order in 1/n elsewhere.

    Args:
        nu: from :func:`spread_rate`.
        hidden_widths: n_l of every hidden layer.
    Returns:
        The relative variance v.
    Source: Hanin & Rolnick (2018); Roberts, Yaida & Hanin (2022), section 3.3 for linear networks.

    >>> round(product_spread(5.0, [64] * 8), 4)  # a ReLU network of depth 8 and width 64
    0.8254
    """
    return math.prod(1 + nu / n for n in hidden_widths) - 1


@checked(
    negative=(
        "nu",
        "ratio",
    )
)
def log_normal_spread(nu: float, ratio: float) -> float:
    r"""Relative variance of the last kernel in the limit of depth and width growing together.

    .. math:: \ln\hat G/K \sim N(-\tfrac12\nu r,\ \nu r),\qquad v = e^{\nu r} - 1

    Args:
        nu: from :func:`spread_rate`, of a scale-invariant activation.
        ratio: r, from :func:`aspect_ratio`.
    Returns:
        The relative variance v.
    Source: Hanin & Nica (2019), Products of many large random matrices.
    """
    return math.expm1(nu * ratio)


@checked()
def spread_rate(obj: object, *, K: float | None = None, residual: float = 0.0, three_point: bool = True) -> float:
    r"""nu: growth of the relative spread of a critical network's kernel per unit of depth over width.

    .. math:: \frac{V}{nK^2} = \nu r + O(r^2),\qquad
        \nu_0 = \frac{C_W^2(\langle\sigma^4\rangle - \langle\sigma^2\rangle^2)}{K^2} + 4\gamma^2(1-\gamma^2)
        + \frac{2\gamma}{1-\gamma}\,\frac{C_W^2\langle z\sigma^2\rangle^2}{K^3}

    at C_W <sigma'^2> = 1 - gamma^2. nu = nu_0 where the critical kernel is finite (scale-invariant, half-stable) and
    nu_0/3 in the limit of slopes at 0 where it vanishes (K* = 0: smooth, cusp and marginal).

    Args:
        obj: anything that :func:`leadline.activations.activation` takes.
        K: critical kernel of a half-stable activation, units of z squared; None for the other classes.
        residual: gamma of z' = b + W sigma(z) + gamma z, 0 <= gamma < 1.
        three_point: count the last term. Without it this is the rate that the book gives, which holds for odd and
            even activations and for blocks whose first operation on the stream is linear.
    Returns:
        nu.
    Raises:
        ValueError: the activation is not critical there, or residual is outside [0, 1).
    Source: Roberts, Yaida & Hanin (2022), sections 4.4, 5.3 and appendix B.3; the cusp and the last term follow from
        the same recursions.

    >>> [round(spread_rate(name), 4) for name in ("relu", "identity", "tanh")]
    [5.0, 2.0, 0.6667]
    >>> round(spread_rate("gelu", K=3.5615528), 4)
    4.9042
    """
    act = activation(obj)
    if not 0 <= residual < 1:
        raise ValueError(
            f"residual must be at least 0 and less than 1, got {residual}; a stream that keeps its full size has no "
            "critical point, iterate residual_flow instead"
        )
    if act.slopes is not None:
        return _injected(act, 1.0, residual, three_point)
    if K is not None:
        _check_critical(act, K)
        return _injected(act, K, residual, three_point)
    numbers = origin_numbers(act)
    grows = numbers.cusp is None or numbers.cusp < 0 or (numbers.a1 is not None and numbers.a1 > 1e-9)
    if grows:
        raise ValueError(
            f"{act.name} has no stable critical point at a vanishing kernel; pass K, the kernel of its half-stable "
            "point, or iterate residual_flow at the weights that you have"
        )
    return _injected(_slopes_at_zero(*numbers.slope), 1.0, residual, three_point) / 3


def _slopes_at_zero(plus: float, minus: float) -> Activation:
    def fn(z: torch.Tensor) -> torch.Tensor:
        return plus * z.clamp_min(0) + minus * z.clamp_max(0)

    return activation(fn, kinks=(0.0,))


def _injected(act: Activation, K: float, gamma: float, three_point: bool) -> float:
    skew = 0.0
    if three_point and gamma > 0:
        k = torch.tensor(float(K), dtype=torch.float64)
        skew = float(third_moment(act, k)) / float(act.derivative_moment(k)) / K**1.5
    return spread_with_skip(layer_spread(act, K), skew, gamma)


def _check_critical(act: Activation, K: float) -> None:
    if not (math.isfinite(K) and K > 0):
        raise ValueError(f"K must be a positive number, got {K}; pass the kernel of the half-stable point")
    k = torch.tensor(float(K), dtype=torch.float64)
    parallel, perp = float(act.second_moment_slope(k)), float(act.derivative_moment(k))
    if abs(parallel / perp - 1) > _CRITICAL:
        raise ValueError(
            f"{act.name} is not critical at K={K:g}: chi_parallel/chi_perp is {parallel / perp:.4g} there, not 1; pass "
            "the kernel of its half-stable point"
        )
