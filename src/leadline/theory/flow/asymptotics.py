"""What becomes of a critical network's kernel, spread and angles at great depth."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from leadline.activations import activation, origin_numbers
from leadline.gaussian.arguments import checked
from leadline.theory.criticality import layer_spread

__all__ = ["asymptotic_angle", "asymptotic_kernel", "spread_per_layer"]


@checked(negative=("depth",))
def asymptotic_kernel(obj: Any, depth: Tensor, anchor: tuple[float, float]) -> Tensor:
    r"""Kernel at great depth for activations that are critical at K* = 0, with C_W = 1/A_2 and C_b = 0.

    .. math:: \frac1{K^{(l)}} = -a_1 l + \frac{a_1^2 - a_2}{-a_1}\ln l + \text{const}\ \text{(smooth)}, \qquad
        \frac1{\sqrt{K^{(l)}}} = \frac c2 l + \text{const}\ \text{(cusp)}

    Args:
        obj: anything that :func:`leadline.activations.activation` takes, sigma(0) = 0, smooth or with a cusp at 0.
        depth: layers l, any shape.
        anchor: a layer and its kernel, which fix the constant.

    Returns:
        Kernels, shape of ``depth``, float64. What is left out of the brackets is of order ln l / l (smooth) and ln l (cusp).

    Raises:
        ValueError: the activation is not critical at K* = 0, or the kernel does not fall there.

    Source: Roberts, Yaida and Hanin (2022), section 5.3.3; the cusp from the same expansion on each side of 0.
    """
    act = activation(obj)
    n = origin_numbers(act)
    if isinstance(anchor, str) or len(anchor) != 2 or not all(0 < v < math.inf for v in anchor):
        raise ValueError(f"got anchor={anchor!r}: give (a layer, its kernel), both positive.")
    l0, K0 = anchor
    layers = depth.to(torch.float64)
    if n.a1 is not None and n.a2 is not None and n.a1 < 0:
        log = (n.a1**2 - n.a2) / -n.a1
        inverse = 1 / K0 - n.a1 * (layers - l0) + log * (layers.log() - math.log(l0))
        return 1 / inverse
    if n.cusp is not None and n.cusp > 0:
        return (1 / math.sqrt(K0) + n.cusp / 2 * (layers - l0)) ** -2
    raise ValueError(
        f"the kernel of {act.name} does not fall like a power of depth at K* = 0; iterate `kernel_flow` instead"
    )


@checked(negative=("depth",))
def asymptotic_angle(obj: Any, depth: Tensor) -> Tensor:
    r"""Distance 1 - rho of the correlation of two inputs from 1 at great depth, for a scale-invariant activation.

    .. math:: 1 - \rho^{(l)} \to \frac{9\pi^2}{2 t^2 l^2}, \qquad t = \frac{(a_+ - a_-)^2}{a_+^2 + a_-^2}

    Args:
        obj: anything that :func:`leadline.activations.activation` takes, of two slopes that meet at 0, not equal.
        depth: layers l, any shape.

    Returns:
        Shape of ``depth``.

    Raises:
        ValueError: the activation is not of this form, or linear (angles then stay as they are).
    """
    act = activation(obj)
    if act.slopes is None or act.slopes[0] == act.slopes[1]:
        raise ValueError(f"{act.name} is not of two different slopes that meet at 0: give ReLU or a relative.")
    plus, minus = act.slopes
    t = (plus - minus) ** 2 / (plus**2 + minus**2)
    return 9 * math.pi**2 / (2 * t**2 * depth.to(torch.float64) ** 2)


@checked(negative=("K",))
def spread_per_layer(obj: Any, K: float = 0.0) -> float:
    r"""Slope nu of the spread with depth at criticality: V/(nK^2) -> nu l/n.

    .. math:: \nu = \frac{C_W^2}{K^{*2}}\big(\langle\sigma^4\rangle - \langle\sigma^2\rangle^2\big)\ (K^* > 0),
        \qquad \nu = \tfrac13\Big(\frac{3A_4}{A_2^2} - 1\Big)\ (K^* = 0)

    with C_W = 1/<sigma'^2>. For a scale-invariant activation nu = 3 A_4/A_2^2 - 1 at every K.

    Args:
        obj: anything that :func:`leadline.activations.activation` takes.
        K: the critical kernel K*; 0 for activations that are critical there.

    Returns:
        nu.

    Raises:
        ValueError: K is 0 and the activation is not critical there.

    Source: Roberts, Yaida and Hanin (2022), section 5.4; the cusp from the same expansion on each side of 0.
    """
    act = activation(obj)
    n = origin_numbers(act)
    if act.slopes is not None:
        return 3 * n.A4 / n.A2**2 - 1
    if K > 0:
        return layer_spread(act, K)
    if n.cusp is None:
        raise ValueError(f"{act.name} is not critical at K* = 0: give the critical kernel K > 0.")
    return (3 * n.A4 / n.A2**2 - 1) / 3
