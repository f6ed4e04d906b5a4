"""Learning rates of each layer by the equivalence principle: every layer moves the output by the same amount."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.criticality import CriticalPoint, UniversalityClass
from leadline.theory.flow import Layers
from leadline.theory.tangent.mean import layer_contributions

__all__ = ["critical_rates", "equal_rates", "scaling_sentence"]


@checked(
    negative=(
        "bias",
        "weight",
    )
)
def critical_rates(
    point: CriticalPoint, depth: int, *, bias: float = 1.0, weight: float = 1.0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    r"""Learning rates that scale with depth as a critical network of this class asks for.

    .. math:: \lambda_b^{(l)} = \frac{\tilde\lambda_b}{L}\left(\frac Ll\right)^{p_\perp}, \qquad
        \lambda_W^{(l)} = \frac{\tilde\lambda_W}{L}\left(\frac Ll\right)^{p_\perp} l^{p_0}

    Then every layer contributes alike to the tangent kernel, up to a factor that does not depend on l or L.

    Args:
        point: critical point of the activation, which carries the exponents.
        depth: number of layers L.
        bias: lambda-tilde_b, of order 1.
        weight: lambda-tilde_W, of order 1.

    Returns:
        lambda_b and lambda_W, one number a layer, for :class:`Layers`.

    Raises:
        ValueError: there is no critical point, or fewer than one layer.

    Source: Roberts, Yaida and Hanin (2022), chapter 9; the cusp class by the same argument.

    >>> from leadline.theory.criticality import critical_point
    >>> rates = critical_rates(critical_point("tanh"), 4)
    >>> [round(r, 6) for r in rates[0]], [round(r, 6) for r in rates[1]]
    ([1.0, 0.5, 0.333333, 0.25], [1.0, 1.0, 1.0, 1.0])
    """
    p_0, p_perp = _exponents(point)
    if depth < 1:
        raise ValueError(f"got depth={depth}: a network has at least 1 layer.")
    common = [(depth / layer) ** p_perp / depth for layer in range(1, depth + 1)]
    return tuple(bias * c for c in common), tuple(weight * c * layer**p_0 for layer, c in enumerate(common, start=1))


@checked()
def equal_rates(layers: Layers, norm: float, *, bias: float = 1.0, weight: float = 1.0) -> Layers:
    r"""The same network with learning rates that make all layers contribute exactly alike, at or off criticality.

    .. math:: \lambda_b^{(l)} = \frac{\tilde\lambda_b}{L\prod_{m\ge l}\chi_\perp^{(m)}}, \qquad
        \lambda_W^{(l)} = \frac{\tilde\lambda_W}{L\,\langle s^2\rangle_{K^{(l-1)}}\prod_{m\ge l}\chi_\perp^{(m)}}

    so that Theta = lambda-tilde_b + lambda-tilde_W for an input of this norm, at any depth.

    Args:
        layers: the network; its learning rates are replaced.
        norm: |x|^2/n_0 of a typical input, positive.
        bias: lambda-tilde_b, what all biases together contribute.
        weight: lambda-tilde_W, what all weights together contribute.

    Returns:
        The network with new rates.

    Raises:
        ValueError: a layer passes nothing on, so that no finite rate would do; or the activation jumps.

    Source: the equivalence principle of Roberts, Yaida and Hanin (2022), chapter 9, solved for the rates.
    """
    one = dataclasses.replace(layers, lambda_b=(1.0,) * layers.depth, lambda_W=(1.0,) * layers.depth)
    parts = layer_contributions(one, norm)
    if not bool(((parts.bias > 0) & (parts.weight > 0)).all() & torch.isfinite(parts.bias + parts.weight).all()):
        raise ValueError("the kernel or the gradient vanishes or explodes at some layer: take a critical C_W and C_b.")
    return dataclasses.replace(layers, lambda_b=_share(bias, parts.bias), lambda_W=_share(weight, parts.weight))


def scaling_sentence(point: CriticalPoint) -> str:
    """How the learning rates of this class go with depth, in one sentence.

    Args:
        point: critical point of the activation.

    Returns:
        A sentence for people.

    Raises:
        ValueError: there is no critical point.
    """
    p_0, p_perp = _exponents(point)
    kind = point.universality_class
    if p_0 == p_perp == 0:
        log = " (up to logarithms)" if kind is UniversalityClass.marginal else ""
        return f"{point.activation} ({kind}): the learning rates of all layers alike fall with depth as 1/L{log}."
    return (
        f"{point.activation} ({kind}): bias rates of layer l go as L^{_power(p_perp - 1)} l^{_power(-p_perp)}, weight rates "
        f"as L^{_power(p_perp - 1)} l^{_power(p_0 - p_perp)}."
    )


def _exponents(point: CriticalPoint) -> tuple[float, float]:
    if point.exponents is None:
        raise ValueError(f"{point.activation} has no critical point: use equal_rates, which needs none.")
    return point.exponents.p_0, point.exponents.p_perp


def _power(value: float) -> str:
    return f"{value + 0.0:.4g}"


def _share(target: float, parts: Tensor) -> tuple[float, ...]:
    return tuple((target / len(parts) / parts).tolist())
