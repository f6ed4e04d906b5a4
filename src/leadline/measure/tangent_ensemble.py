"""An ensemble of random perceptrons with their tangent kernels, carried forward layer by layer for one input."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leadline.activations import activation
from leadline.theory import Estimate

__all__ = ["TANGENT_FIELDS", "TangentMoments", "tangent_ensemble"]

TANGENT_FIELDS = ("Theta", "A", "B", "D", "F")
_CHUNK_ENTRIES = 2**21


@dataclass(frozen=True)
class TangentMoments:
    """Moments of the tangent kernel of every layer over random networks.

    ``values``: for each of Theta, A, B, D and F an estimate a layer. Theta is the mean of a diagonal entry itself, so
    that it contains its correction in 1/n; the others are n_{l-1} times a covariance over networks.
    """

    networks: int
    values: Mapping[str, tuple[Estimate, ...]]


def tangent_ensemble(
    nonlinearity: Any,
    widths: Sequence[int],
    norm: float,
    networks: int,
    seed: int,
    *,
    C_W: Sequence[float],
    C_b: Sequence[float],
    lambda_W: Sequence[float],
    lambda_b: Sequence[float],
    chunk: int | None = None,
) -> TangentMoments:
    r"""Draw networks with Gaussian weights and carry their tangent kernels forward.

    .. math::
        H^{(l+1)} = \Big(\lambda_b + \frac{\lambda_W}{n_l}\sum_k s_k^2\Big) 1 + W\,\mathrm{diag}(s')\,H^{(l)}\,
        \mathrm{diag}(s')\,W^T

    Every neuron and every pair of neurons of a layer counts as a sample; standard errors are over networks.

    Args:
        nonlinearity: anything that :func:`leadline.activations.activation` takes.
        widths: n_0, n_1, …, n_L; each n_l at least 2.
        norm: |x|^2/n_0 of the input.
        networks: number of networks, at least 2.
        seed: of the draws.
        C_W: fan-in times the weight variance of each layer.
        C_b: bias variance of each layer.
        lambda_W: fan-in times the weight learning rate of each layer.
        lambda_b: bias learning rate of each layer.
        chunk: networks at a time; another chunk draws other networks.

    Returns:
        Estimates of every layer.

    Raises:
        ValueError: fewer than two networks, or a layer with a single neuron.
    """
    if networks < 2 or min(widths[1:]) < 2:
        raise ValueError(
            f"got networks={networks}, widths {tuple(widths)[:6]}: take 2 networks or more of 2 neurons a layer or more."
        )
    act = activation(nonlinearity)
    generator = torch.Generator().manual_seed(seed)
    size = chunk or max(1, _CHUNK_ENTRIES // max(widths[1:]) ** 2)
    rows: list[list[Tensor]] = [[] for _ in widths[1:]]
    for start in range(0, networks, size):
        count = min(size, networks - start)

        def normal(*shape: int, count: int = count) -> Tensor:
            return torch.randn(count, *shape, generator=generator, dtype=torch.float64)

        # one input: the first layer's weights act through its norm alone
        z = (C_b[0] + C_W[0] * norm) ** 0.5 * normal(widths[1])
        H = (lambda_b[0] + lambda_W[0] * norm) * torch.eye(widths[1], dtype=torch.float64).expand(count, -1, -1)
        rows[0].append(_sums(z, H))
        for i, (n, m) in enumerate(itertools.pairwise(widths[1:]), start=1):
            s, slope = act.fn(z), act.derivative(z)
            W = (C_W[i] / n) ** 0.5 * normal(m, n)
            own = lambda_b[i] + lambda_W[i] * s.square().mean(1)
            Y = W * slope[:, None, :]
            H = Y @ H @ Y.mT
            H.diagonal(dim1=1, dim2=2).add_(own[:, None])
            z = (W @ s[:, :, None])[..., 0] + C_b[i] ** 0.5 * normal(m)
            rows[i].append(_sums(z, H))
    found = [_moments(torch.cat(row), n) for row, n in zip(rows, widths[:-1], strict=True)]
    # the first layer's tangent kernel is the same in every network: what is left of its covariances is rounding
    found[0] = {name: found[0][name] if name == "Theta" else Estimate(0.0) for name in TANGENT_FIELDS}
    return TangentMoments(networks, {name: tuple(f[name] for f in found) for name in TANGENT_FIELDS})


def _sums(z: Tensor, H: Tensor) -> Tensor:
    """Averages over the neurons of each network and over their pairs, shape (networks, 6)."""
    n = z.shape[1]
    pairs = n * (n - 1)
    square, own = z.square(), H.diagonal(dim1=1, dim2=2)
    return torch.stack(
        [
            own.mean(1),
            square.mean(1),
            (own.sum(1).square() - own.square().sum(1)) / pairs,
            (H.square().sum((1, 2)) - own.square().sum(1)) / pairs,
            (square.sum(1) * own.sum(1) - (square * own).sum(1)) / pairs,
            ((z[:, None, :] @ H @ z[:, :, None])[:, 0, 0] - (square * own).sum(1)) / pairs,
        ],
        dim=1,
    )


def _moments(sums: Tensor, fan_in: int) -> dict[str, Estimate]:
    h, g, hh, off, gh, zz = sums.unbind(1)
    return {
        "Theta": _estimate(h.mean(), h, 1),
        "A": _covariance(hh, h, h, fan_in),
        "B": _estimate(off.mean(), off, fan_in),
        "D": _covariance(gh, g, h, fan_in),
        "F": _estimate(zz.mean(), zz, fan_in),
    }


def _covariance(product: Tensor, x: Tensor, y: Tensor, fan_in: int) -> Estimate:
    """Covariance times the fan-in; a product of two sample means is too large by their own covariance."""
    N = len(x)
    mean = product.mean() - x.mean() * y.mean() + ((x - x.mean()) * (y - y.mean())).sum() / (N * (N - 1))
    return _estimate(mean, product - x.mean() * y - y.mean() * x, fan_in)


def _estimate(mean: Tensor, influence: Tensor, fan_in: int) -> Estimate:
    return Estimate(fan_in * float(mean), fan_in * float(influence.std()) / len(influence) ** 0.5)
