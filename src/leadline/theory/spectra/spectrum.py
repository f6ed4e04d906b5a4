"""Singular values of the input-output Jacobian of a deep network at infinite width."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from leadline.activations import activation
from leadline.gaussian.arguments import checked
from leadline.theory.spectra.series import free_product_moments
from leadline.theory.spectra.slopes import SlopeLaw, slope_law
from leadline.theory.spectra.solve import density, upper_edge

__all__ = ["WEIGHTS", "JacobianSpectrum", "jacobian_spectrum"]

WEIGHTS = ("gaussian", "orthogonal")
_SAME = 1e-12
_ATOM = 0.2  # more than any single node of a law without atoms has


@dataclass(frozen=True)
class JacobianSpectrum:
    r"""Law of the squared singular values of J = D_L W_L … D_1 W_1 for square layers of infinite width.

    .. math:: S_{JJ^T}(z) = \prod_l \frac{S_{D_l^2}(z)}{C_W^{(l)}}\times\begin{cases}1 & \text{orthogonal}\\
        (1+z)^{-L} & \text{Gaussian}\end{cases}

    D_l holds the slopes of layer l; they are free of the weights although they depend on them.

    Attributes:
        laws: law of the squared slopes, each with the number of layers that have it.
        log_scale: sum of ln C_W over layers.
        orthogonal: whether the weights are Haar orthogonal times the root of C_W, or Gaussian.
    Source: Pennington, Schoenholz & Ganguli (2018), The emergence of spectral universality in deep networks;
        freeness: Collins & Hayase (2022).
    """

    laws: tuple[tuple[SlopeLaw, int], ...] = field(repr=False)
    log_scale: float
    orthogonal: bool

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return sum(count for _, count in self.laws)

    @property
    def mean(self) -> float:
        """Mean squared singular value: the product of the layers' C_W <sigma'^2>."""
        return math.exp(self.log_scale + sum(count * math.log(law.moment(1)) for law, count in self.laws))

    @property
    def relative_variance(self) -> float:
        r"""Variance of the squared singular values over the square of their mean.

        .. math:: \sigma_{JJ^T}^2/m_1^2 = \sum_l\Big(\frac{\langle\sigma'^4\rangle_l}{\langle\sigma'^2\rangle_l^2} - 1
                  + [\text{Gaussian}]\Big)
        """
        return sum(count * law.excess for law, count in self.laws) + (0 if self.orthogonal else self.depth)

    @property
    def zero(self) -> float:
        """Share of singular values that are exactly 0: that of the layer with the most slopes of 0."""
        return max(law.zero for law, _ in self.laws)

    @property
    def isometric(self) -> tuple[float, float] | None:
        r"""(squared singular value, share) of directions that no layer bends, None where there are none.

        .. math:: x = \prod_l C_W^{(l)}s_l,\qquad \text{share} = 1 - \sum_l (1 - p_l) > 0

        where p_l is the probability of the slope whose square is s_l. Only orthogonal layers of piecewise linear
        activations keep such directions.
        """
        likeliest = [(law.weights * (law.values > 0)).argmax() for law, _ in self.laws]
        share = 1.0
        log_value = self.log_scale
        for (law, count), i in zip(self.laws, likeliest, strict=True):
            p = float(law.weights[i])
            share -= count * (1 - p if p > _ATOM else 1.0)
            log_value += count * math.log(float(law.values[i]))
        return (math.exp(log_value), share) if self.orthogonal and share > 0 else None

    def moments(self, order: int) -> Tensor:
        """Moments m_1, …, m_order of the squared singular values.

        Args:
            order: highest moment, at most 12 (the series loses digits beyond).
        Returns:
            float64, shape (order,).
        Raises:
            ValueError: order is not between 1 and 12.
        """
        if not 1 <= order <= 12:
            raise ValueError(f"order must lie between 1 and 12, got {order}")
        # slopes are measured in units of their root mean square, so that no power of the scale cancels
        factors = [
            (np.array([law.moment(k) / law.moment(1) ** k for k in range(1, order + 1)]), count)
            for law, count in self.laws
        ]
        m = free_product_moments(factors, order, 0 if self.orthogonal else self.depth)
        return torch.as_tensor(m * self.mean ** np.arange(1, order + 1))

    @property
    def largest(self) -> float:
        """Upper edge of the spectrum of squared singular values."""
        return upper_edge(self.laws, self.log_scale, self.orthogonal)

    def density(self, x: Tensor) -> Tensor:
        """Density of the squared singular values at positive points; the atoms (``zero``, ``isometric``) are not part of it.

        Args:
            x: points, any shape.
        Returns:
            Shape of x, per unit of x; 0 beyond the edges.
        Raises:
            ValueError: a point is not positive, or the law has no density: one orthogonal layer has the law of its
                slopes, a linear orthogonal network a single value.
        """
        if not bool((x > 0).all()):
            raise ValueError(
                f"x must be positive, got a smallest value of {float(x.min()):.6g}; the atom at 0 is `zero`"
            )
        if self.orthogonal and (self.depth == 1 or self.relative_variance < 1e-12):
            raise ValueError(
                "the spectrum has no density: one orthogonal layer has the law of its slopes and a linear orthogonal "
                "network a single singular value; use moments"
            )
        points = x.detach().to(torch.float64)
        value = density(points.reshape(-1), self.laws, self.log_scale, self.orthogonal).reshape(points.shape)
        return torch.where(points < self.largest, value, 0.0).to(x.dtype)


@checked()
def jacobian_spectrum(
    obj: object, depth: int, *, K: float, C_W: float, C_b: float = 0.0, weights: str = "gaussian"
) -> JacobianSpectrum:
    r"""The spectrum of a network's input-output Jacobian from its activation and its laws.

    .. math:: J = D_L W_L\cdots D_1 W_1,\qquad D_l = \mathrm{diag}\,\sigma'(z^{(l)}),\qquad z^{(l)} \sim N(0, K^{(l)})

    Args:
        obj: anything that :func:`leadline.activations.activation` takes.
        depth: number of layers L, each a square weight followed by the activation.
        K: kernel of the first layer's pre-activation, units of z squared.
        C_W: width times the weight variance; for orthogonal weights their squared scale.
        C_b: bias variance, units of z squared.
        weights: "gaussian" or "orthogonal".
    Returns:
        The spectrum.
    Raises:
        ValueError: a number is not allowed, the weights are neither, or the activation jumps.

    >>> spectrum = jacobian_spectrum("relu", 6, K=1.0, C_W=2.0, weights="orthogonal")
    >>> [round(m) for m in spectrum.moments(4).tolist()]
    [1, 7, 64, 663]
    """
    act = activation(obj)
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    if depth < 1 or not C_W > 0 or C_b < 0:
        raise ValueError(f"got depth={depth}, C_W={C_W}, C_b={C_b}: take a depth of 1 or more, C_W > 0 and C_b >= 0")
    laws: list[tuple[SlopeLaw, int]] = []
    k, last = float(K), math.nan
    for _ in range(depth):
        same = abs(k - last) <= _SAME * k or (bool(laws) and act.slopes is not None)
        if same:
            laws[-1] = (laws[-1][0], laws[-1][1] + 1)
        else:
            laws.append((slope_law(act, k), 1))
            last = k
        k = C_b + C_W * float(act.second_moment(k))
    return JacobianSpectrum(tuple(laws), depth * math.log(C_W), weights == "orthogonal")
