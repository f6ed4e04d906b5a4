"""Drift of the covariance of a shaped network: what the activation does to pairs of inputs per unit of depth/width."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked

__all__ = ["relu_drift", "smooth_drift"]


@checked(nan=("V",))
def relu_drift(V: Tensor, c_plus: float, c_minus: float) -> Tensor:
    r"""Drift of the covariance under a shaped ReLU.

    .. math:: b_{ab} = \sqrt{V_{aa}V_{bb}}\,\frac{(c_+-c_-)^2}{2\pi}
              \big[\sqrt{1-\rho_{ab}^2} - \rho_{ab}\arccos\rho_{ab}\big],\qquad b_{aa} = 0

    Args:
        V: covariance matrices, shape (..., m, m), units of z squared.
        c_plus: bend of the right half, s(x) = (1 + c_plus/sqrt n) x for x > 0.
        c_minus: bend of the left half.
    Returns:
        Shape, dtype and device of V, units of V per unit of depth/width.
    Source: Li, Nica & Roy (2022), theorem 3.2.

    >>> V = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> round(relu_drift(V, 0.0, -1.0)[0, 1].item() * 2 * torch.pi, 12)
    1.0
    """
    _square(V)
    root = V.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    scale = root[..., :, None] * root[..., None, :]
    rho = (V / torch.where(scale > 0, scale, torch.ones_like(scale))).clamp(-1, 1)
    bend = ((1 - rho) * (1 + rho)).sqrt() - rho * torch.arccos(rho)
    bend = bend - torch.diag_embed(bend.diagonal(dim1=-2, dim2=-1))
    return scale * bend * ((c_plus - c_minus) ** 2 / (2 * math.pi))


@checked(nan=("V",))
def smooth_drift(V: Tensor, second: float, third: float, a: float = 1.0) -> Tensor:
    r"""Drift of the covariance under a shaped smooth activation s(x) = S f(x/S), S = a sqrt n, f(0) = 0, f'(0) = 1.

    .. math:: a^2 b_{ab} = \tfrac14 f''(0)^2\,[V_{aa}V_{bb} + V_{ab}(2V_{ab}-3)]
              + \tfrac12 f'''(0)\,V_{ab}(V_{aa}+V_{bb}-2)

    Args:
        V: covariance matrices, shape (..., m, m), units of z squared.
        second: f''(0).
        third: f'''(0).
        a: stretch in units of the root of the width.
    Returns:
        Shape, dtype and device of V, units of V per unit of depth/width.
    Source: Li, Nica & Roy (2022), theorem 3.9.

    >>> V = torch.tensor([[2.0]], dtype=torch.float64)
    >>> smooth_drift(V, 0.0, -2.0).item()  # tanh pulls a large variance back: f''' V (V - 1)
    -4.0
    """
    _square(V)
    diagonal = V.diagonal(dim1=-2, dim2=-1)
    rows, columns = diagonal[..., :, None], diagonal[..., None, :]
    even = 0.25 * second**2 * (rows * columns + V * (2 * V - 3))
    odd = 0.5 * third * V * (rows + columns - 2)
    return (even + odd) / a**2


def _square(V: Tensor) -> None:
    if V.ndim < 2 or V.shape[-1] != V.shape[-2]:
        raise ValueError(f"got a covariance of shape {tuple(V.shape)}: give one of m inputs, (..., m, m).")
