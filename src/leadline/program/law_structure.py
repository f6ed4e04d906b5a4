"""Patterns in a tensor that independent entries do not make: constants, few values, orthogonal matrices."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["matrix_of", "one_norm", "orthogonality", "sample_entries", "structure", "zero_rows"]

_ENTRIES = 2**16
_SIDES = (384, 1152)  # the shorter and the longer: eigenvalues cost the cube of the shorter


def zero_rows(tensor: Tensor) -> Tensor:
    """Indices of the rows of zeros in an otherwise non-zero tensor, as the padding of an embedding.

    Args:
        tensor: shape (rows, ...).

    Returns:
        Row indices; empty where the tensor has one axis, or where more than one row and a tenth of all
        vanish, which is no padding.
    """
    none = torch.empty(0, dtype=torch.long, device=tensor.device)
    if tensor.dim() < 2 or tensor.shape[0] < 2:
        return none
    # A row of zeros begins with one: only rows that do are read to the end.
    candidates = torch.nonzero(tensor.flatten(1)[:, 0] == 0).flatten()
    zeros = candidates[~tensor[candidates].flatten(1).any(1)]
    limit = max(1, tensor.shape[0] // 10)
    return zeros if 0 < zeros.numel() <= limit and bool(tensor.any()) else none


def sample_entries(tensor: Tensor) -> np.ndarray:
    """At most 2^16 entries, picked by a fixed pseudo-random rule, in double precision.

    Args:
        tensor: any shape.

    Returns:
        Shape (N,).
    """
    flat = tensor.reshape(-1)
    if flat.numel() > _ENTRIES:
        generator = torch.Generator().manual_seed(flat.numel())
        # One entry from each of 2^16 equal stretches: distinct without sorting, no stride to alias with rows.
        place = torch.arange(_ENTRIES) + torch.rand(_ENTRIES, generator=generator, dtype=torch.float64)
        flat = flat[(place * (flat.numel() / _ENTRIES)).long().to(flat.device)]
    return flat.double().cpu().numpy()


def _as_matrix(tensor: Tensor, matrix_shape: tuple[int, int] | None) -> Tensor | None:
    if matrix_shape is not None:
        return tensor.reshape(matrix_shape) if tensor.numel() == matrix_shape[0] * matrix_shape[1] else None
    if tensor.dim() < 2:
        return None
    if tensor.shape[0] == 1:  # position tables of shape (1, tokens, width)
        return tensor.reshape(-1, tensor.shape[-1])
    return tensor.reshape(tensor.shape[0], -1)


def matrix_of(tensor: Tensor, matrix_shape: tuple[int, int] | None = None) -> np.ndarray | None:
    """The tensor as a matrix, thinned evenly to at most 384 x 1152.

    Args:
        tensor: any shape.
        matrix_shape: (rows, columns); by default the first axis against all others.

    Returns:
        A double-precision matrix, or None for a tensor with one axis.
    """
    matrix = _as_matrix(tensor, matrix_shape)
    if matrix is None:
        return None
    shorter = int(matrix.shape[0] > matrix.shape[1])
    for axis, side in ((shorter, _SIDES[0]), (1 - shorter, _SIDES[1])):
        size = matrix.shape[axis]
        if size > side:
            # Middles of equal stretches: halves, thirds and quarters of the matrix stay what they are.
            picked = ((torch.arange(side, dtype=torch.float64) + 0.5) * (size / side)).long()
            matrix = matrix.index_select(axis, picked.to(matrix.device))
    return matrix.double().cpu().numpy()


def one_norm(block: np.ndarray) -> bool:
    """Whether all rows have one norm to a part in 10^4, and so many that chance does not do it.

    Args:
        block: shape (m, n).

    Returns:
        The answer; independent entries of n columns give a relative scatter near 1 / sqrt(2 n).
    """
    if min(block.shape) < 3:
        return False
    norms = np.linalg.norm(block, axis=1)
    return bool(norms.std() < 1e-4 * norms.mean())


def structure(tensor: Tensor) -> tuple[str, bool, str] | None:
    """Look for a constant, for few values, many zeros, and kernels with a middle tap only.

    Args:
        tensor: any shape, at least one entry.

    Returns:
        (kind, whether it looks random, reason), or None for entries that look continuous.
    """
    low, high = (float(v) for v in tensor.aminmax())
    if low == high:
        single = tensor.numel() == 1 and tensor.is_floating_point() and not _round_number(tensor)
        # One entry that no one would type is a draw, for instance the bias of a single output.
        return ("uniform", True, "") if single else ("constant", False, "")
    entries = sample_entries(tensor)
    values = np.unique(entries).size
    if values <= min(16, entries.size // 2):
        return "structured", False, f"it holds only {values} different values"
    if tensor.dim() > 2 and _centre_only(tensor):
        orthogonal = orthogonality(tensor) is not None
        return None if orthogonal else ("structured", True, "all its taps but the middle one are zero")
    share = float(np.mean(entries == 0))
    if share > 0.02 and entries.size >= 64:
        return "structured", True, f"{share:.0%} of its entries are exactly zero"
    if values < entries.size / 2 and tensor.element_size() >= 4:
        return "structured", False, f"it holds only {values} different values"
    return None


def _round_number(tensor: Tensor) -> bool:
    value = tensor.reshape(()).double()
    typed = torch.tensor(float(f"{float(value):.5g}"), dtype=tensor.dtype)
    return bool(typed.double() == value.cpu())


def _middle_tap(kernel: Tensor) -> Tensor:
    for size in kernel.shape[2:]:
        kernel = kernel.select(2, size // 2)
    return kernel


def _centre_only(tensor: Tensor) -> bool:
    """Whether a kernel vanishes at every tap but the middle one."""
    if all(size == 1 for size in tensor.shape[2:]):
        return False
    centre = _middle_tap(tensor)
    return int(torch.count_nonzero(tensor)) == int(torch.count_nonzero(centre))


def orthogonality(tensor: Tensor, matrix_shape: tuple[int, int] | None = None) -> str | None:
    r"""Whether rows or columns of the matrix (or of a kernel's middle tap) are orthogonal, of one length.

    .. math:: W W^T = c\,1 \quad\text{or}\quad W^T W = c\,1

    Args:
        tensor: any shape.
        matrix_shape: (rows, columns); by default the first axis against all others.

    Returns:
        "orthogonal", "delta_orthogonal" or None. At most 64 vectors of the shorter side are compared;
        independent entries pass with probability below 1e-6.
    """
    kind = "orthogonal"
    if matrix_shape is None and tensor.dim() > 2 and _centre_only(tensor):
        kind = "delta_orthogonal"
        tensor = _middle_tap(tensor)
    matrix = _as_matrix(tensor, matrix_shape)
    if matrix is None or min(matrix.shape) < 3:
        return None
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    rows = matrix[:: -(-matrix.shape[0] // 64)].double()
    gram = rows @ rows.T
    scale = gram.diagonal().mean()
    error = gram / scale - torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    # Independent entries give errors of 1 on this scale, rounding about one unit in the last place.
    rms = float(error.square().mean().sqrt() * matrix.shape[1] ** 0.5)
    return kind if rms < max(1e-3, 4 * torch.finfo(tensor.dtype).eps) else None
