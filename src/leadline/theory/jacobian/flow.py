"""The averaged partial Jacobian norm layer by layer, at infinite width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.criticality import Block, Norm
from leadline.theory.flow.kernel import SecondMoment

__all__ = ["PartialJacobian", "partial_jacobian"]


@dataclass(frozen=True)
class PartialJacobian:
    r"""Kernel, susceptibility and averaged partial Jacobian norm from a layer l0 on.

    .. math:: J^{l_0,l} = \mathbb E\,\frac1{n_l}\sum_{ij}\Big(\frac{\partial h^l_i}{\partial h^{l_0}_j}\Big)^2
              = \prod_{m=l_0}^{l-1}\chi_\perp^m

    Attributes:
        K: kernels of layers l0 … l0 + depth, float64 of shape (depth + 1, …).
        chi_perp: factor of each layer, shape (depth, …).
        log_J: ln J from l0 to each layer, shape (depth + 1, …); starts at 0.
    """

    K: Tensor
    chi_perp: Tensor
    log_J: Tensor

    @property
    def J(self) -> Tensor:
        """Averaged partial Jacobian norms, shape (depth + 1, …); J[0] = 1."""
        return self.log_J.exp()

    def between(self, first: int, last: int) -> Tensor:
        """J from layer l0 + first to layer l0 + last.

        Args:
            first: layers after l0 of the start.
            last: layers after l0 of the end, not before the start.

        Returns:
            J of these layers, shape (…).

        Raises:
            ValueError: the layers are out of range or out of order.
        """
        if not 0 <= first <= last < self.log_J.shape[0]:
            raise ValueError(f"got layers {first} to {last}: give 0 <= first <= last <= {self.log_J.shape[0] - 1}.")
        return (self.log_J[last] - self.log_J[first]).exp()


@checked()
@torch.no_grad()
def partial_jacobian(
    obj: Any,
    depth: int,
    *,
    C_W: Tensor | float,
    C_b: Tensor | float = 0.0,
    K: Tensor | float = 1.0,
    norm: str | Norm = Norm.none,
    residual: float = 0.0,
) -> PartialJacobian:
    r"""Averaged partial Jacobian norm of a deep network at infinite width.

    .. math:: J^{l_0,l+1} = \chi_\perp(K^l)\, J^{l_0,l},\qquad K^{l+1} = C_b + C_W\, m(K^l) + \gamma^2 K^l

    with m and chi_perp of :class:`leadline.theory.criticality.Block`.

    Args:
        obj: module, function, name, callable or Activation.
        depth: number of layers.
        C_W: fan-in times weight variance, any shape.
        C_b: bias variances, broadcast.
        K: kernels of layer l0, broadcast, units of the preactivation squared.
        norm: where the branch normalises, see :class:`leadline.theory.criticality.Norm`.
        residual: strength gamma of the skip.

    Returns:
        Kernels, susceptibilities and ln J, float64.

    Raises:
        ValueError: depth is negative, a variance is negative or not finite, or norm or residual are not valid.

    Source: Doshi, He and Gromov (2023), sections 2-4.

    >>> [round(J, 12) for J in partial_jacobian("relu", 3, C_W=1.0).J.tolist()]
    [1.0, 0.5, 0.25, 0.125]
    """
    block = Block.of(obj, norm, residual)
    if depth < 0:
        raise ValueError(f"the depth must be 0 or more, got {depth}.")
    w, b, k = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.float64) for v in (C_W, C_b, K)))
    if not all(bool(((v >= 0) & torch.isfinite(v)).all()) for v in (w, b, k)):
        raise ValueError("C_W, C_b and K are variances and must be finite and >= 0; check their signs.")
    K_all = _kernels(block, w, b, k, depth)
    chi = block.susceptibilities(K_all[:-1], w)[1]
    log_J = torch.cat([torch.zeros_like(w)[None], chi.log().cumsum(0)])
    return PartialJacobian(K_all, chi, log_J)


def _kernels(block: Block, C_W: Tensor, C_b: Tensor, K: Tensor, depth: int) -> Tensor:
    """Kernels of all layers, shape (depth + 1, …)."""
    out = torch.empty(depth + 1, *K.shape, dtype=K.dtype)
    out[0] = K
    skip = block.residual**2
    if block.norm is not Norm.none:  # a norm forgets the kernel: its branch always gives the same
        branch = C_b + C_W * block.moment(torch.ones_like(K))
        for i in range(depth):
            out[i + 1] = branch + skip * out[i]
        return out
    if K.numel() > 1:
        for i in range(depth):
            out[i + 1] = block.kernel(out[i], C_W, C_b)
        return out
    one = SecondMoment(block.activation)  # nodes that many layers share
    k, w, b = float(K), float(C_W), float(C_b)
    for i in range(depth):
        inside = 0 < k < math.inf and block.activation.slopes is None
        k = b + w * (one(k) if inside else float(block.moment(torch.tensor(k, dtype=K.dtype)))) + skip * k
        out[i + 1] = k
    return out
