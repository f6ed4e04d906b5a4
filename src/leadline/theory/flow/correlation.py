"""Kernels of several inputs to any depth: variances with their scale carried, and correlations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leadline.activations import Activation
from leadline.activations.piecewise_linear import PiecewiseLinear
from leadline.gaussian import correlation, hermite_series
from leadline.gaussian.arguments import checked
from leadline.theory.flow.joint import checked_gram, input_pairs
from leadline.theory.flow.kernel import LARGE, SMALL, end_slopes, kernel_flow
from leadline.theory.flow.layers import Layers

__all__ = ["CorrelationFlow", "correlation_flow"]

_ORDERS = (48, 240)
_RTOL = 1e-11
_ENTRIES = 2**18  # products of coefficients held at a time

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CorrelationFlow:
    """Infinite-width kernels of m inputs at every layer.

    Args:
        variance: K_aa, shape (L, m); 0 or inf where it leaves the range of floats.
        log_variance: ln K_aa.
        correlation: K_ab / sqrt(K_aa K_bb), shape (L, m, m), in [-1, 1].
    """

    variance: Tensor
    log_variance: Tensor
    correlation: Tensor

    @property
    def K(self) -> Tensor:
        """Kernels, shape (L, m, m), units of z squared; a diagonal entry is ``variance`` exactly."""
        sd = (self.log_variance / 2).exp()
        K = sd[..., :, None] * sd[..., None, :] * self.correlation
        K.diagonal(dim1=-2, dim2=-1).copy_(self.variance)
        return K


@checked()
def correlation_flow(layers: Layers, gram: Tensor) -> CorrelationFlow:
    r"""Kernels of several inputs at every layer, to any depth.

    .. math:: K'_{ab} = C_b + C_W\langle\sigma_a\sigma_b\rangle_K

    Variances by :func:`kernel_flow`; correlations by the closed form where there is one, else by Hermite series whose
    coefficients are found for many layers at once, or by quadrature where the series does not converge (slow: some
    tens of milliseconds a layer, for kinked activations at correlations near 1).

    Args:
        layers: activation and variances.
        gram: x_a · x_b / n_0, shape (m, m).

    Returns:
        Variances and correlations, dtype and device of ``gram``.

    Raises:
        ValueError: gram is not the Gram matrix of m inputs.

    Source: Poole et al. (2016); Roberts, Yaida and Hanin (2022), section 4.1.

    >>> flow = correlation_flow(Layers.of("relu", depth=2, C_W=2.0), torch.eye(2, dtype=torch.float64))
    >>> round(flow.correlation[-1, 0, 1].item(), 6)
    0.31831
    """
    checked_gram(gram)
    first = layers.first_kernel(gram.detach().to("cpu", torch.float64))
    m = first.shape[0]
    variance, log_variance = kernel_flow(layers.activation, layers.C_b[1:], layers.C_W[1:], first.diagonal())
    a, b = input_pairs(m)
    off = a != b
    a, b = a[off], b[off]
    rho = correlation(first[a, a], first[a, b], first[b, b])
    same = (rho == 1) & (first[a, a] == first[b, b])
    steps = _Steps(layers.activation, variance, a, b)
    scale = ((log_variance[:, a] + log_variance[:, b]) / 2).numpy()
    with np.errstate(divide="ignore"):
        log_C_b, log_C_W = (np.log(np.array(v[1:]))[:, None] for v in (layers.C_b, layers.C_W))
    bias, gain = np.exp(log_C_b - scale[1:]), np.exp(log_C_W + scale[:-1] - scale[1:])
    flow = np.ones((layers.depth, a.numel()))
    flow[0] = rho.numpy()
    for i in range(layers.depth - 1 if a.numel() else 0):
        flow[i + 1] = np.clip(bias[i] + gain[i] * steps.product(i, flow[i]), -1.0, 1.0)
        flow[i + 1, same.numpy()] = 1.0
    out = torch.ones(layers.depth, m, m, dtype=torch.float64)
    out[:, a, b] = out[:, b, a] = torch.from_numpy(flow)
    return CorrelationFlow(*(t.to(gram) for t in (variance, log_variance, out)))


class _Steps:
    """<sigma_a sigma_b> / sqrt(K_aa K_bb) of pairs (a, b), layer by layer."""

    def __init__(self, activation: Activation, variance: Tensor, a: Tensor, b: Tensor) -> None:
        self.activation, self.a, self.b = activation, a, b
        self.variance = variance.clamp(SMALL, LARGE)
        self._layers = max(1, _ENTRIES // (a.numel() * _ORDERS[-1] + 1))
        self._start = -1
        self._series: dict[int, tuple[Array, Array]] = {}
        near, far = end_slopes(activation)
        self._ends = [PiecewiseLinear(*near), PiecewiseLinear(*far) if math.isfinite(far[0]) else None]

    def product(self, layer: int, rho: Array) -> Array:
        """The normalized mean product of each pair at a layer."""
        K = self.variance[layer]
        for end, edge in zip(self._ends, (SMALL, LARGE)):
            if end is not None and (self.activation.slopes is not None or bool(K.eq(edge).all())):
                correlations = torch.from_numpy(rho)
                one = torch.ones_like(correlations)
                return end.dual(one, correlations, one).numpy()
        for order in _ORDERS:
            products, bound = self._products(layer, order)
            powers = np.empty((rho.size, order + 1))
            powers[:, 0], powers[:, 1:] = 1.0, rho[:, None]
            np.multiply.accumulate(powers, axis=1, out=powers)
            bad = bound * np.abs(powers[:, -1] * rho) > _RTOL
            if not bad.any():
                return (products * powers).sum(1)
        value = (products * powers).sum(1)
        i, j = self.a[bad], self.b[bad]
        size = (K[i] * K[j]).sqrt()
        value[bad] = self.activation.dual(K[i], torch.from_numpy(rho[bad]) * size, K[j]) / size
        return value

    def _products(self, layer: int, order: int) -> tuple[Array, Array]:
        """Products of coefficients of each pair, and the tail beyond them, for a unit mean product at equal points."""
        start = layer - layer % self._layers
        if start != self._start:
            self._start, self._series = start, {}
        if order not in self._series:
            K = self.variance[start : start + self._layers]
            series = hermite_series(self.activation.fn, K.reshape(-1), order, self.activation.kinks)
            c = (series.coefficients / K.reshape(-1, 1).sqrt()).reshape(*K.shape, order + 1)
            tail = (series.tail[:, -1] / series.energy.clamp_min(1e-300)).sqrt().reshape(K.shape)
            a, b = self.a, self.b
            self._series[order] = (c[:, a] * c[:, b]).numpy(), (tail[:, a] * tail[:, b]).numpy()
        products, bound = self._series[order]
        return products[layer - start], bound[layer - start]
