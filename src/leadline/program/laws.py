"""Init laws: what a tensor of weights says about the law that it was drawn from.

:func:`read_law` takes one tensor; :func:`explains` takes the laws of a network and says if it looks trained.
A tensor is called trained when tests of its entries and of its matrix (norms and means of rows and columns,
largest singular value) leave no law that an initializer could have used: independent Gaussian, uniform or
truncated entries, or an orthogonal matrix.

A lightly trained network can be indistinguishable from a fresh one: steps that move the weights by less than
their sampling error leave no trace. "Not trained" means "an init law explains it", no more. Biases and gains
(tensors with one axis) never count as evidence, since initializers use many laws for them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from leadline.program.law import Law, stated_law
from leadline.program.law_shape import fan_in, tied_parameters
from leadline.program.law_structure import (
    matrix_of,
    one_norm,
    orthogonality,
    sample_entries,
    structure,
    zero_rows,
)
from leadline.program.law_tests import fit_entries, goodness_of_fit, gram_eigenvalues, matrix_p_values
from leadline.program.law_verdict import TRAINED_LEVEL, TrainedVerdict, explains
from leadline.program.squares import square_sum

__all__ = [
    "TRAINED_LEVEL",
    "Law",
    "TrainedVerdict",
    "explains",
    "fan_in",
    "read_law",
    "stated_law",
    "tied_parameters",
]


def read_law(tensor: Tensor, *, fan_in: int, name: str = "", matrix_shape: tuple[int, int] | None = None) -> Law:
    r"""Read the init law of a tensor from its entries.

    .. math:: C_W = \text{fan-in} \cdot \frac1N \sum_i w_i^2

    Moments use every entry; the shape of the law at most 2^16 of them and the matrix tests a block of at most
    384 x 1152, picked by a fixed rule.

    Args:
        tensor: real weights of any shape, with data (not on the meta device).
        fan_in: number of input values that one output value sums.
        name: qualified parameter name, kept in the law and used in messages.
        matrix_shape: (rows, columns) of the matrix in which to look for orthogonality and low rank; by
            default the first axis against all others.

    Returns:
        The law. `p_value` below 1e-7 makes it trained: that is the nominal false-positive rate a tensor.

    Raises:
        ValueError: the tensor has no data, is complex, or holds NaN or infinite entries.
    """
    label = f"parameter {name!r}" if name else "the tensor"
    if tensor.device.type == "meta":
        raise ValueError(f"{label} is on the meta device and has no values: build the model with real weights.")
    if tensor.is_complex():
        raise ValueError(f"{label} is complex ({tensor.dtype}): init laws are read from real tensors only.")
    tensor = tensor.detach()
    if tensor.numel() == 0:
        return _law(name, "constant", 0.0, 0.0, 0.0, fan_in)
    wide = tensor if tensor.is_floating_point() else tensor.float()
    count, mean, second = _moments(wide)
    if not (math.isfinite(mean) and math.isfinite(second)):
        raise ValueError(f"{label} holds NaN or infinite entries: load weights that are finite.")
    std = math.sqrt(max(second - mean * mean, 0.0))

    # Padding rows of an embedding are set to zero after the draw and say nothing about it.
    zeros = zero_rows(wide)
    if zeros.numel():
        keep = torch.ones(wide.shape[0], dtype=torch.bool, device=wide.device)
        keep[zeros] = False
        wide = wide[keep]
        count, mean, second = _moments(wide)
        std = math.sqrt(max(second - mean * mean, 0.0))

    found = structure(wide)
    if found is not None:
        kind, random, reason = found
        if random and wide.numel() == 1:
            mean, std = 0.0, abs(mean)
        return _law(name, kind, mean, 0.0 if kind == "constant" else std, second, fan_in, random, reason)
    if abs(mean) <= 4 * std / math.sqrt(count):
        mean, std = 0.0, math.sqrt(second)
    orthogonal = orthogonality(wide, matrix_shape)
    if orthogonal is not None:
        return _law(name, orthogonal, mean, std, second, fan_in, True)
    return _random_law(wide, name, mean, std, second, fan_in, matrix_shape)


def _random_law(
    wide: Tensor,
    name: str,
    mean: float,
    std: float,
    second: float,
    fan: int,
    matrix_shape: tuple[int, int] | None,
) -> Law:
    """Law of entries that are neither constant nor patterned nor an orthogonal matrix."""
    centred = sample_entries(wide) - mean
    fit = fit_entries(centred)
    p_values = {f"shape of the {fit.kind} law": min(goodness_of_fit(centred, fit), default=1.0)}
    tests = 3
    block = matrix_of(wide, matrix_shape)
    if block is not None:
        centred_block = block - mean
        spectrum = gram_eigenvalues(centred_block)
        if one_norm(block):
            reason = "all its rows have one norm, as in a table of sines and cosines"
            return _law(name, "structured", mean, std, second, fan, False, reason)
        if len(spectrum) >= 8 and np.mean(spectrum < 1e-6 * spectrum[-1]) > 0.25:
            rank = int(np.sum(spectrum >= 1e-6 * spectrum[-1]))
            reason = f"a block of {block.shape[0]} x {block.shape[1]} has rank {rank}"
            law = _law(name, "low_rank", mean, std, second, fan, False, reason)
            return replace(law, trained=True, p_value=0.0)
        matrix = matrix_p_values(centred_block, spectrum)
        p_values |= matrix
        tests += len(matrix)
    worst = min(p_values, key=lambda test: p_values[test])
    p_value = min(1.0, tests * p_values[worst])
    law = replace(_law(name, fit.kind, mean, std, second, fan, True), cutoff=fit.cutoff, p_value=p_value)
    if p_value >= TRAINED_LEVEL:
        return law
    if wide.dim() < 2:
        return replace(law, kind="structured", reason="its entries follow none of the known laws", p_value=1.0)
    parts = None if block is None else _parts(block)
    if parts is not None:
        reason = f"its {parts} follow laws of different scale"
        return replace(law, kind="structured", reason=reason, p_value=1.0)
    kind = "low_rank" if worst == "largest singular value" else "structured"
    chance = f"p = {p_value:.0e}" if p_value > 1e-99 else "p < 1e-99"
    reason = f"no init law explains its {worst} ({chance})"
    return replace(law, kind=kind, random=False, trained=True, reason=reason)


def _parts(block: np.ndarray) -> str | None:
    """Name the equal parts of a matrix (queries, keys and values; gates) that are each explained, if any."""
    for axis, what in ((0, "rows"), (1, "columns")):
        for count in (2, 3, 4):
            parts = np.split(block, count, axis) if block.shape[axis] % count == 0 else []
            scales = [float(part.std()) for part in parts]
            # Blocks of nearly one scale do not explain why the whole fails.
            if parts and max(scales) > 1.2 * min(scales) and all(_explained(part) for part in parts):
                return f"{count} blocks of {what}"
    return None


def _explained(part: np.ndarray) -> bool:
    if not part.any():
        return True
    centred = part - part.mean()
    if np.ptp(part) == 0:
        return True
    if np.unique(part).size < 16 or orthogonality(torch.from_numpy(np.ascontiguousarray(part))):
        return True
    entries = centred.ravel()
    tests = [*goodness_of_fit(entries, fit_entries(entries)), *matrix_p_values(centred).values()]
    return len(tests) * min(tests, default=1.0) > 1e-3


def _moments(tensor: Tensor) -> tuple[int, float, float]:
    """Number, mean and mean square of the entries."""
    n = tensor.numel()
    wide = tensor.dtype if tensor.dtype in {torch.float32, torch.float64} else torch.float32
    mean = float(tensor.mean(dtype=wide))
    return n, mean, float(square_sum(tensor)) / n


def _law(
    name: str,
    kind: str,
    mean: float,
    std: float,
    second: float,
    fan: int,
    random: bool = False,
    reason: str = "",
) -> Law:
    return Law(name, kind, mean, std, second, fan, fan * second, random, False, reason)
