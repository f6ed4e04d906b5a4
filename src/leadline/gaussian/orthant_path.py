"""Nodes of the path along which correlations grow from 0 to their values."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["panels_needed", "path_nodes"]

_PANELS = 15


def panels_needed(rho: Tensor) -> Tensor:
    """Panels that each row needs: the path is singular at 1 - t = -x/(1 - x), x the smallest eigenvalue.

    Args:
        rho: correlations, shape (R, n, n), float64.
    Returns:
        Numbers from 1 to 15, shape (R,).
    """
    finite = torch.isfinite(rho).all(dim=-1).all(dim=-1)
    smallest = torch.linalg.eigvalsh(torch.where(finite[:, None, None], rho, 0.0))[:, 0].clamp(1e-30, 0.5)
    return (-torch.log(smallest) / math.log(16.0)).ceil().clamp(1, _PANELS).to(torch.long)


def path_nodes(order: int, panels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes 1 - t = s^2 and weights dt of Gauss-Legendre panels in s, each four times as wide as the last.

    Args:
        order: nodes a panel.
        panels: their number.
        device: of the result.
    Returns:
        1 - t and weights, shape ((panels + 1) order,).
    """
    x, w = (torch.as_tensor(v, device=device) for v in np.polynomial.legendre.leggauss(order))
    ends = torch.tensor([0.0, *(4.0**-k for k in range(panels, -1, -1))], dtype=torch.float64, device=device)
    half = (ends[1:] - ends[:-1])[:, None] / 2
    s = ((ends[1:] + ends[:-1])[:, None] / 2 + half * x).reshape(-1)
    return s * s, 2 * s * (half * w).reshape(-1)
