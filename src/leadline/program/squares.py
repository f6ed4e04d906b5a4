"""Sums of squares that neither underflow nor wait for double precision."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["square_sum"]


def square_sum(tensor: Tensor) -> Tensor:
    """Sum of the squared entries in double precision, at the cost of single.

    A norm asked for in double precision of single-precision entries is fifty times slower than norms of its rows in
    their own. Squares of a vanishing gradient would underflow there, so the largest entry is taken out first.

    Args:
        tensor: real, of any shape; NaN and infinity pass through.

    Returns:
        A scalar, float64 (float32 on mps, which has no double).
    """
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64
    if not tensor.numel():
        return torch.zeros((), dtype=wide, device=tensor.device)
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    peak = torch.maximum(rows.amax(), -rows.amin()).clamp_min(torch.finfo(rows.dtype).tiny)
    norms = torch.linalg.vector_norm(rows / peak, dim=-1)
    return norms.to(wide).square().sum() * peak.to(wide).square()
