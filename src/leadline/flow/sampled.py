"""Networks of the law of a flow: kernels without their weights, tangent kernels with them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from leadline.measure.ensemble import Chain, ensemble
from leadline.measure.entry_moments import EntryMoments
from leadline.measure.tangent_ensemble import tangent_ensemble
from leadline.theory import Estimate
from leadline.theory.flow import Layers

__all__ = ["sampled"]

_ENTRIES = 1e8  # Gaussian numbers of a kernel ensemble: a few seconds
_PRODUCTS = 3e10  # multiplications of a tangent kernel ensemble: about as long
_FEWEST, _MOST = 100, 10_000

Measured = dict[str, tuple[Estimate, ...]]
Progress = Callable[[str, int, int], None]


def sampled(
    layers: Layers, norm: float, K: Tensor, networks: int | None, seed: int, progress: Progress | None = None
) -> tuple[Measured, tuple[int, int], list[str]]:
    """Draw networks of a law and take the moments that a flow predicts.

    Args:
        layers: widths, activation, variances and learning rates.
        norm: |x|^2/n_0 of the input.
        K: its kernel at infinite width, shape (L,).
        networks: to draw; 0 for none; None for as many as take some seconds.
        seed: of the draws.
        progress: called with (what is done, steps done, steps in all).

    Returns:
        Name -> estimates a layer; networks drawn for kernels and for tangent kernels; why something was not drawn.
    """
    if networks == 0:
        return {}, (0, 0), []
    cost = sum(layers.widths[1:])
    count = networks or _affordable(_ENTRIES / cost)
    reasons: list[str] = []
    measured: Measured = {}
    if count:
        measured |= _kernels(layers, norm, K, count, seed, progress)
    else:
        reasons.append(f"No kernels were drawn: {_FEWEST} networks of these widths take long; name networks=….")
    products = sum(2 * n * m * m for n, m in zip(layers.widths[1:], layers.widths[2:], strict=False))
    pairs = networks or _affordable(_PRODUCTS / max(products, 1))
    if layers.activation.jumps or min(layers.widths[1:]) < 2:
        pairs = 0
        reasons.append("No tangent kernels were drawn: each layer needs a slope and 2 neurons.")
    elif not pairs:
        reasons.append(f"No tangent kernels were drawn: {_FEWEST} networks of these widths take long; name networks=….")
    if pairs:
        if progress is not None:
            progress("drawing tangent kernels", 0, 1)
        measured |= tangent_ensemble(
            layers.activation, layers.widths, norm, pairs, seed,
            C_W=layers.C_W, C_b=layers.C_b, lambda_W=layers.lambda_W, lambda_b=layers.lambda_b,
        ).values  # fmt: skip
    return measured, (count, pairs), reasons


def _affordable(networks: float) -> int:
    return min(_MOST, int(networks)) if networks >= _FEWEST else 0


def _kernels(layers: Layers, norm: float, K: Tensor, count: int, seed: int, progress: Progress | None) -> Measured:
    # one input that has the given norm, since the law depends on nothing else of it
    chain = Chain.of([1, *layers.widths[1:]], layers.activation, C_W=layers.C_W, C_b=layers.C_b)
    told = None
    if progress is not None:
        done = [0]

        def told(layer: int, G: Tensor, z: Tensor) -> None:
            if layer == layers.depth:
                done[0] += G.shape[0]
                progress("drawing kernels", done[0], count)

    found = ensemble(chain, torch.full((1, 1), norm**0.5, dtype=torch.float64), count, seed, callback=told)
    rows = [layer.kernel for layer in found.layers]
    fan_in = (1, *layers.widths[1:-1])
    return {
        "K": tuple(_mean(row, 1.0, 0.0) for row in rows),
        "V": tuple(_vertex(row) for row in rows),
        "G1": tuple(_mean(row, float(n), k) for row, n, k in zip(rows, fan_in, K.tolist(), strict=True)),
    }


def _mean(row: EntryMoments, times: float, less: float) -> Estimate:
    return Estimate(times * (float(row.mean[0, 0]) - less), times * float(row.mean_error[0, 0]))


def _vertex(row: EntryMoments) -> Estimate:
    return Estimate(float(row.vertex[0, 0]), float(row.vertex_error[0, 0]))
