"""Estimates of the mean kernel of finite networks with little noise, from the exact-in-law ensemble."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.measure.ensemble import Chain, EnsembleMoments, ensemble
from leadline.theory.flow import Layers
from leadline.theory.flow.joint import input_pairs
from leadline.theory.flow.pairs import pair_derivatives


def chain_of(layers: Layers) -> Chain:
    return Chain(layers.widths, (layers.activation,) * (layers.depth - 1), layers.C_W, layers.C_b)


def entries(G: Tensor) -> Tensor:
    a, b = input_pairs(G.shape[-1])
    return G[..., a, b]


def drawn(layers: Layers, x: Tensor, networks: int, seed: int) -> tuple[EnsembleMoments, Tensor, Tensor]:
    """Moments of an ensemble, and E G - K of the last layer over pairs with its standard error.

    Only the curvature of the kernel map shifts the mean: E G' - K' = J (E G - K) + E[F(G) - F(K) - J (G - K)], and the
    bracket fluctuates by 1/n where G itself does by 1/sqrt(n).
    """
    act, m = layers.activation, x.shape[0]
    a, b = input_pairs(m)
    K = layers.first_kernel(x @ x.T / x.shape[1])
    kernels, maps = [K], []
    for C_b, C_W in zip(layers.C_b[1:], layers.C_W[1:]):
        maps.append(jacobian(act, K))
        K = C_b + C_W * act.gram(K, rtol=1e-12)
        kernels.append(K)
    sums: list[list[Tensor]] = [[] for _ in range(layers.depth - 1)]

    def note(layer: int, G: Tensor, z: Tensor) -> None:
        if 1 < layer < layers.depth:
            K = kernels[layer - 1]
            image = act.dual(G[:, a, a], G[:, a, b], G[:, b, b]) - entries(act.gram(K, rtol=1e-12))
            sums[layer - 1].append(image - entries(G - K) @ maps[layer - 1].T)

    found = ensemble(chain_of(layers), x, networks, seed, chunk=10_000, callback=note)
    shift, spread = torch.zeros(a.numel(), dtype=torch.float64), torch.zeros(a.numel(), dtype=torch.float64)
    for i in range(1, layers.depth - 1):
        bracket = torch.cat(sums[i])
        shift = layers.C_W[i + 1] * (maps[i] @ shift + bracket.mean(0))
        spread = layers.C_W[i + 1] * (maps[i].abs() @ spread + bracket.std(0) / networks**0.5)
    return found, shift, spread


def jacobian(act, K: Tensor) -> Tensor:
    m = K.shape[0]
    a, b = input_pairs(m)
    J = torch.zeros(a.numel(), a.numel(), dtype=torch.float64)
    place = {(int(i), int(j)): n for n, (i, j) in enumerate(zip(a, b))}
    for n, (i, j) in enumerate(zip(a.tolist(), b.tolist())):
        if i == j:
            J[n, n] = act.second_moment_slope(K[i, i])
        else:
            d = pair_derivatives(act, K[i, i].reshape(1), K[i, j].reshape(1), K[j, j].reshape(1))
            J[n, n], J[n, place[i, i]], J[n, place[j, j]] = d[1, 1], d[2, 0] / 2, d[0, 2] / 2
    return J


def extrapolated(one: Tensor, two: Tensor, errors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A coefficient of 1/n from its estimates at n and at 2n, without the next order."""
    return 2 * two - one, (4 * errors[1] ** 2 + errors[0] ** 2).sqrt()
