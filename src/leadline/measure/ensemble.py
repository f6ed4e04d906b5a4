"""The exact-in-law ensemble of a chain of dense layers: many networks' pre-activations without their weights.

Given layer l, the units of layer l + 1 are independent and N(0, G) over the inputs, with G = C_b + C_W times
the mean over channels of s(z) s(z)^T. Drawing them from G's Cholesky factor gives networks of exactly the law
that drawing Gaussian weights gives, at a cost of n m^2 a layer in place of n^2 m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leadline.measure.chain import Chain, chain_from, chain_inputs
from leadline.measure.entry_moments import EntryMoments, EntrySums

__all__ = ["Chain", "EnsembleMoments", "LayerMoments", "chain_from", "chain_inputs", "ensemble", "factor"]

_MOST_INPUTS = 16
_CHUNK_ENTRIES = 2**19  # a few MB a tensor: larger chunks leave the cache and are slower

Callback = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True)
class LayerMoments:
    """One layer over the ensemble.

    ``kernel``: of G, the layer's law given the layers before (n is its fan-in): the row of the dense layer.
    ``sample``: of the mean over the layer's own channels of s(z) s(z)^T (n is its width): the row of the
    activation; None after a last layer without one. ``steps``: the names of these rows.
    """

    width: int
    kernel: EntryMoments
    sample: EntryMoments | None
    steps: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class EnsembleMoments:
    """Moments of every layer over an ensemble of networks."""

    chain: Chain = field(repr=False)
    networks: int
    layers: tuple[LayerMoments, ...] = field(repr=False)

    def step(self, name: str) -> EntryMoments:
        """Moments of a row, by the name of its step (z1, s1, z2, … in a chain that came from no Program).

        Args:
            name: of a dense layer's step, or of an activation's.

        Returns:
            The moments.

        Raises:
            KeyError: there is no such row.
        """
        for layer in self.layers:
            for label, moments in zip(layer.steps, (layer.kernel, layer.sample)):
                if label == name and name and moments is not None:
                    return moments
        known = ", ".join(label for layer in self.layers for label in layer.steps if label)
        raise KeyError(f"no row for {name!r}; there are {known}.")


def ensemble(
    chain: Chain,
    inputs: Tensor,
    networks: int,
    seed: int,
    *,
    chunk: int | None = None,
    callback: Callback | None = None,
) -> EnsembleMoments:
    r"""Draw networks of a chain exactly in law and take the moments of their kernels.

    .. math:: G^{(1)} = C_b + C_W\, x x^T/n_0, \quad z^{(l)}_i \sim N(0, G^{(l)}), \quad
        G^{(l+1)} = C_b + \frac{C_W}{n_l}\sum_i s(z^{(l)}_i)\, s(z^{(l)}_i)^T

    Args:
        chain: widths, activations and laws; weights and biases are Gaussian.
        inputs: shape (m, n_0), at most 16 inputs; the device of the work. The work is done in float64.
        networks: number of networks, at least 2.
        seed: of the draws.
        chunk: networks at a time (by default as many as fit a few MB); another chunk draws other networks.
        callback: called for each chunk and layer with the layer's number (from 1), G (chunk, m, m) and z
            (chunk, n_l, m).

    Returns:
        Moments of each layer, with standard errors.

    Raises:
        ValueError: the inputs do not fit the chain, are not finite or too many; or too few networks.

    Example:
        >>> chain = Chain.of([4, 32, 32, 1], "relu", C_W=2.0)
        >>> found = ensemble(chain, torch.ones(1, 4), networks=2000, seed=0)
        >>> float(found.step("z3").spread) > 2 * 5 / 32  # the product (1 + 5/32)^2 - 1 is 0.337
        True
    """
    x = _checked(chain, inputs)
    if networks < 2 or (chunk is not None and chunk < 1):
        raise ValueError(f"got networks={networks}, chunk={chunk}: take 2 networks or more, in chunks of 1 or more.")
    m = x.shape[0]
    chunk = chunk or max(1, _CHUNK_ENTRIES // (max(chain.widths[1:]) * m))
    generator = torch.Generator(device=x.device).manual_seed(seed)
    kernels = [EntrySums(m, n) for n in chain.widths[:-1]]
    samples = [EntrySums(m, n) for n in chain.widths[1:]]
    first = chain.C_b[0] + chain.C_W[0] / chain.widths[0] * (x @ x.T)
    for start in range(0, networks, chunk):
        G = first.expand(min(chunk, networks - start), m, m)
        for i, n in enumerate(chain.widths[1:]):
            kernels[i].add(G)
            noise = torch.randn(G.shape[0], n, m, generator=generator, dtype=x.dtype, device=x.device)
            z = noise @ factor(G).mT
            if callback is not None:
                callback(i + 1, G, z)
            if i < len(chain.activations):
                h = chain.activations[i].fn(z)
                M = h.mT @ h / n
                samples[i].add(M)
                if i + 1 < chain.depth:
                    G = chain.C_b[i + 1] + chain.C_W[i + 1] * M
    layers = tuple(
        LayerMoments(n, kernel.moments(), sample.moments() if sample.count else None, names)
        for n, kernel, sample, names in zip(chain.widths[1:], kernels, samples, chain.steps)
    )
    return EnsembleMoments(chain, networks, layers)


def _checked(chain: Chain, inputs: Tensor) -> Tensor:
    shape = tuple(inputs.shape)
    if inputs.ndim != 2 or shape[1] != chain.widths[0] or not 1 <= shape[0] <= _MOST_INPUTS:
        wanted = f"(m, {chain.widths[0]}) with m from 1 to {_MOST_INPUTS}"
        raise ValueError(f"got inputs of shape {shape}: give {wanted}.")
    if not bool(torch.isfinite(inputs).all()):
        raise ValueError("got inputs that are NaN or infinite: give finite ones.")
    return inputs.detach().to(torch.float64)


def factor(G: Tensor) -> Tensor:
    r"""Lower triangular Cholesky factors of a batch of covariances that may be singular.

    .. math:: L L^T = G

    Args:
        G: positive semi-definite, shape (..., m, m), units of z squared.

    Returns:
        L, shape of G. A pivot within rounding of 0 (equal, proportional or zero inputs) gives a zero column.

    >>> factor(torch.ones(2, 2, dtype=torch.float64)).tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    m = G.shape[-1]
    rounding = 4 * m * torch.finfo(G.dtype).eps
    L = torch.zeros(G.shape, dtype=G.dtype, device=G.device)
    for j in range(m):
        rest = G[..., j:, j] - (L[..., j:, :j] * L[..., j : j + 1, :j]).sum(-1)
        pivot = rest[..., :1]
        alive = pivot > rounding * G[..., j, j, None]
        root = torch.where(alive, pivot, torch.ones_like(pivot)).sqrt()
        L[..., j:, j] = torch.where(alive, rest / root, torch.zeros_like(rest))
    return L
