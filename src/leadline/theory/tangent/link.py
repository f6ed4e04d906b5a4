"""One step of the recursions, from layer l to l + 1: moments of the activation times the next layer's law."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from leadline.theory.flow import SingleInputFlow
from leadline.theory.tangent.moments import Bends, Moments, bends, moments

__all__ = ["Link", "links"]


@dataclass(frozen=True)
class Link:
    r"""What the step from layer l to l + 1 is made of; tensors have the shape of one layer's K.

    Args:
        r: n_l / n_{l-1}, 0 for l = 1.
        C_W, lambda_b, lambda_W: of layer l + 1.
        chi_par, chi_perp: C_W g'(K) and C_W <s'^2> at K^(l).
        V, next_V: four-point vertex at l and at l + 1, units of z to the fourth.
        G1, next_G1: kernel correction at l and at l + 1, units of z squared.
        m: moments at K^(l).
        b: moments with second and third derivatives, or None where they are not asked for.
    """

    r: float
    C_W: float
    lambda_b: float
    lambda_W: float
    chi_par: Tensor
    chi_perp: Tensor
    V: Tensor
    next_V: Tensor
    G1: Tensor
    next_G1: Tensor
    m: Moments
    b: Bends | None = None

    @property
    def k(self) -> float:
        """lambda_W / C_W of layer l + 1."""
        return self.lambda_W / self.C_W

    @property
    def h(self) -> Tensor:
        """Half the derivative of chi_perp in K, units of 1 / z squared."""
        return self.C_W / 2 * self.m.d1


def links(flow: SingleInputFlow, *, second: bool = False) -> list[Link]:
    """All steps of a network.

    Args:
        flow: kernels of every layer.
        second: whether moments with second and third derivatives are wanted.

    Returns:
        The L - 1 steps.

    Raises:
        ValueError: a layer after the first has C_W = 0; a kernel left the range of floats; the activation jumps; or it
            has a corner and ``second`` is asked for.
    """
    layers = flow.layers
    if any(c <= 0 for c in layers.C_W[1:]):
        raise ValueError(f"got C_W = {layers.C_W[:6]}: after the first layer each must be positive, or nothing passes.")
    if flow.out_of_range:
        raise ValueError(f"{flow.out_of_range[:-1]}: choose C_W and C_b nearer to criticality, or fewer layers.")
    m = moments(layers.activation, flow.K[:-1])
    b = bends(layers.activation, flow.K[:-1]) if second else None
    V, G1 = flow.V, flow.G1
    return [
        Link(
            layers.ratios[i], layers.C_W[i + 1], layers.lambda_b[i + 1], layers.lambda_W[i + 1],
            flow.chi_parallel[i], flow.chi_perp[i], V[i], V[i + 1], G1[i], G1[i + 1],
            m.at(i), None if b is None else b.at(i),
        )
        for i in range(layers.depth - 1)
    ]  # fmt: skip
