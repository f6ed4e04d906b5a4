"""Kernels and correlations of dense chains from networks drawn exactly in law, on the rows of a measurement."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.measure import Measurement
from leadline.measure.chain import chain_from, chain_inputs
from leadline.measure.ensemble import ensemble
from leadline.program import Program
from leadline.theory import Estimate

__all__ = ["sharpen"]

_GROUPS = 40


def sharpen(found: Measurement, program: Program, *, networks: int, seed: int) -> bool:
    """Replace kernel and correlation of every row of a dense chain by those of many networks drawn exactly in law.

    Args:
        found: measured on modules; changed in place where the program is a chain.
        program: of the network.
        networks: to draw, without their weights.
        seed: of the draws.

    Returns:
        Whether the program is a chain of dense layers, so that there was something to replace.
    """
    chain, _ = chain_from(program)
    if chain is None:
        return False
    size = max(2, networks // _GROUPS)
    means: dict[int, list[tuple[Tensor, Tensor | None]]] = {}

    def keep(layer: int, G: Tensor, z: Tensor) -> None:
        h = chain.activations[layer - 1].fn(z) if layer <= len(chain.activations) else None
        after = None if h is None else (h.mT @ h / h.shape[1]).mean(0)
        means.setdefault(layer, []).append((G.mean(0), after))

    moments = ensemble(chain, chain_inputs(program), size * _GROUPS, seed, chunk=size, callback=keep)
    rows = {row.step: row for row in found.rows}
    for layer, groups in means.items():
        before, after = moments.layers[layer - 1].steps
        for step, blocks in ((before, [g for g, _ in groups]), (after, [a for _, a in groups if a is not None])):
            if step in rows and blocks:
                rows[step].values |= _estimates(torch.stack(blocks))
    return True


def _estimates(blocks: Tensor) -> dict[str, Estimate]:
    """Kernel and correlation from the mean second moments of groups of networks, errors by leaving one group out."""
    count = blocks.shape[0]
    left_out = (blocks.sum(0) - blocks) / (count - 1)
    values = {"kernel": _kernel(blocks.mean(0)), "correlation": _correlation(blocks.mean(0))}
    parts = {"kernel": _kernel(left_out), "correlation": _correlation(left_out)}
    return {
        name: Estimate(float(value), float(parts[name].std(correction=0) * (count - 1) ** 0.5))
        for name, value in values.items()
        if blocks.shape[-1] > 1 or name == "kernel"
    }


def _kernel(M: Tensor) -> Tensor:
    return M.diagonal(dim1=-2, dim2=-1).mean(-1)


def _correlation(M: Tensor) -> Tensor:
    norm = M.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).sqrt()
    C = M / (norm[..., :, None] * norm[..., None, :])
    m = M.shape[-1]
    return (C.sum((-2, -1)) - C.diagonal(dim1=-2, dim2=-1).sum(-1)) / (m * (m - 1))
