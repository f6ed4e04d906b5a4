"""Mean outputs of trained networks to first order in 1/n, and the targets they are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MeanOutput", "checked_targets"]


@dataclass(frozen=True)
class MeanOutput:
    r"""Mean over networks of the output at m inputs, :math:`E\,z = z_\infty + c/n + O(1/n^2)`.

    Args:
        infinite: at infinite width, units of z; shape (m, …), or (T, m) for T times.
        parts: the coefficient of 1/n as a sum over what causes it, each of the shape of ``infinite``: "H1" (mean of the
            tangent kernel), "AB" (its fluctuations), "PQ" (its differential), "RSTU" (its second differentials).
        fan_in: n, the width of the last hidden layer.
    """

    infinite: Tensor
    parts: Mapping[str, Tensor]
    fan_in: int

    @property
    def coefficient(self) -> Tensor:
        """c, what 1/n multiplies."""
        return torch.stack(list(self.parts.values())).sum(0)

    @property
    def mean(self) -> Tensor:
        """E z to first order in 1/n."""
        return self.infinite + self.coefficient / self.fan_in


def checked_targets(targets: Tensor, inputs: int, outputs: int) -> Tensor:
    """Targets in float64, as many as there can be training points.

    Args:
        targets: shape (M,) or (M, n_L).
        inputs: m, of which the first M are trained on.
        outputs: n_L of the network.

    Returns:
        Shape (M, n_L).

    Raises:
        ValueError: more targets than inputs, none, of another shape, not finite, or for another number of outputs.
    """
    if targets.ndim not in (1, 2) or not 1 <= targets.shape[0] <= inputs:
        raise ValueError(
            f"got targets of shape {tuple(targets.shape)} for {inputs} inputs: give (M,) or (M, outputs), one for each of "
            "the first M inputs."
        )
    given = targets.detach().to(torch.float64)
    if not bool(torch.isfinite(given).all()):
        raise ValueError("got targets that are not finite: give numbers.")
    given = given[:, None] if given.ndim == 1 else given
    if given.shape[1] != outputs:
        raise ValueError(f"got targets for {given.shape[1]} outputs of {outputs}: give one for each.")
    return given
