"""The spread of a network with residual connections, layer by layer, and how branches scale with depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.activations import activation
from leadline.gaussian.arguments import checked
from leadline.theory.criticality import third_moment

__all__ = ["ResidualFlow", "critical_branch_exponent", "residual_flow", "residual_growth"]


@dataclass(frozen=True)
class ResidualFlow:
    """Kernel, three-point and four-point vertex of each layer; the first axis is the layer, from 1.

    ``K``: E z^2 at infinite width. ``kappa``: n E[z_i z_j^2]. ``V``: n Cov(z_i^2, z_j^2), i not j.
    """

    K: Tensor
    kappa: Tensor
    V: Tensor

    @property
    def spread(self) -> Tensor:
        """V/K^2: n times the relative variance of the scale."""
        return self.V / self.K**2


@checked()
def residual_flow(
    obj: object,
    depth: int,
    *,
    K: Tensor | float,
    C_W: Tensor | float,
    C_b: Tensor | float = 0.0,
    residual: Tensor | float = 0.0,
    three_point: bool = True,
) -> ResidualFlow:
    r"""Leading 1/n statistics of z' = b + W sigma(z) + gamma z at constant width n, for single inputs.

    .. math::
        K' &= C_b + C_W g(K) + \gamma^2 K,\qquad \chi^0 = C_W g'(K),\quad \chi = \chi^0 + \gamma^2 \\
        \kappa' &= \gamma\chi\kappa + \gamma C_W\langle z\sigma^2\rangle \\
        V' &= \chi^2 V + C_W^2(\langle\sigma^4\rangle - g^2) + 4\gamma^2K^2\chi^0
              + 2C_W\frac{\langle z\sigma^2\rangle}{K}\chi\kappa

    Args:
        obj: anything that :func:`leadline.activations.activation` takes.
        depth: number of layers, the first included.
        K: kernel of the first layer, any shape, units of z squared.
        C_W: fan-in times the weight variance; broadcasts with K, as do the others.
        C_b: bias variance, units of z squared.
        residual: gamma; 1 for a plain skip connection.
        three_point: keep kappa, which is not 0 where sigma(z)^2 is not even and acts on the stream itself.
    Returns:
        Tensors of shape (depth, ...). In the first layer kappa and V are 0.
    Raises:
        ValueError: depth is not positive, or K is not.
    Source: Roberts, Yaida & Hanin (2022), appendix B.3, for even correlators; kappa from the same expansion.
    """
    act = activation(obj)
    if depth < 1:
        raise ValueError(f"depth must be 1 or more, got {depth}; pass the number of layers")
    values = (torch.as_tensor(v, dtype=torch.float64) for v in (K, C_W, C_b, residual))
    k, c_w, c_b, gamma = torch.broadcast_tensors(*values)
    if not bool((k > 0).all()):
        raise ValueError(
            f"K must be positive, got a smallest value of {float(k.min()):.6g}; pass the first layer's kernel"
        )
    kappa, V = torch.zeros_like(k), torch.zeros_like(k)
    rows = [(k, kappa, V)]
    skew = three_point and bool((gamma != 0).any())
    for _ in range(depth - 1):
        g, slope = act.second_moment(k), act.second_moment_slope(k)
        branch = c_w * slope
        chi = branch + gamma**2
        V = chi**2 * V + c_w**2 * (act.fourth_moment(k) - g**2) + 4 * gamma**2 * k**2 * branch
        if skew:
            third = third_moment(act, k)
            V = V + 2 * c_w * third / k * chi * kappa
            kappa = gamma * (chi * kappa + c_w * third)
        k = c_b + c_w * g + gamma**2 * k
        rows.append((k, kappa, V))
    return ResidualFlow(*(torch.stack(column) for column in zip(*rows, strict=True)))


@checked(
    negative=(
        "C_W",
        "slope_moment",
    )
)
def residual_growth(
    scales: Sequence[float], *, C_W: float, slope_moment: float, survival: Sequence[float] | None = None
) -> Tensor:
    r"""Mean growth of the squared norm of a residual stream h' = h + alpha_l W_l sigma(h) with independent branches.

    .. math:: \mathrm E|h_l|^2/|h_0|^2 = \prod_{k\le l}(1 + p_k\alpha_k^2 C_W A_2),\qquad A_2 = \langle\sigma^2\rangle_K/K

    Exact at any width for |z| and linear branches, up to 1/n for other scale-invariant activations; bounded in depth
    iff the sum of p alpha^2 is.

    Args:
        scales: alpha_l of every block.
        C_W: fan-in times the weight variance of the branch.
        slope_moment: A_2, mean of the two squared slopes of a scale-invariant activation (1/2 for ReLU).
        survival: p_l, probability that a block's branch is kept (stochastic depth without rescaling); None for 1.
    Returns:
        Shape (blocks + 1,), the first entry 1.
    Raises:
        ValueError: survival has another length, or is no probability.
    Source: Marion et al. (2022), Scaling ResNets in the large-depth regime, section 3; Hayou et al. (2021).

    >>> round(residual_growth([100**-0.5] * 100, C_W=1.0, slope_moment=0.5)[-1].item(), 4)  # tends to e^(1/2)
    1.6467
    """
    alpha = torch.tensor([float(a) for a in scales], dtype=torch.float64)
    p = torch.ones_like(alpha) if survival is None else torch.tensor([float(q) for q in survival], dtype=torch.float64)
    if p.shape != alpha.shape or bool(((p < 0) | (p > 1)).any()):
        raise ValueError(f"survival must hold a probability for each of {len(alpha)} blocks, got {len(p)} values")
    logs = torch.log1p(p * alpha**2 * C_W * slope_moment).cumsum(0)
    return torch.cat([torch.zeros(1, dtype=torch.float64), logs]).exp()


@checked()
def critical_branch_exponent(hurst: float) -> float:
    r"""Beta at which branches of size L^-beta neither vanish nor explode, for weights correlated along the depth.

    .. math:: \Big|\sum_{l\le L} w_l\Big| \sim L^H \quad\Rightarrow\quad \beta^* = H

    Args:
        hurst: H of the weights' sum over depth: 1/2 for independent layers, 1 for weights that vary smoothly.
    Returns:
        The critical beta.
    Raises:
        ValueError: H is outside [1/2, 1].
    Source: Marion et al. (2022), section 4.
    """
    if not (math.isfinite(hurst) and 0.5 <= hurst <= 1):
        raise ValueError(f"hurst must lie between 1/2 and 1, got {hurst}; independent layers have 1/2")
    return float(hurst)
