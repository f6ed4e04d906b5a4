"""One ReLU layer of finite width: moments of the signal and of the gradient that pass through it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Gates", "Tail"]


@dataclass(frozen=True)
class Tail:
    r"""Moments of the gradient g of the output with respect to s, at |s| = 1, given nothing else.

    Args:
        a, b: means of :math:`g_\parallel^2` (along s) and :math:`|g_\perp|^2`.
        aa, ab, bb: their mean products.
    """

    a: float
    b: float
    aa: float
    ab: float
    bb: float

    @classmethod
    def last(cls, c: float, n: int) -> Tail:
        """Of a linear output layer with n inputs and weight variance c."""
        across = n - 1
        return cls(c, c * across, 3 * c**2, c**2 * across, c**2 * across * (across + 2))


@dataclass(frozen=True)
class Gates:
    r"""Averages over the number k of active units of a ReLU layer, each active with probability 1/2.

    The squared length of the signal that passes is a chi-squared of k degrees, X; a fraction beta of the squared gradient
    across the signal passes, E beta = (k-1)/(n-1), E beta^2 = (k-1)(k+1)/((n-1)(n+1)).

    Args:
        k: P(k > 0), E X, E X^2.
        beta: E beta, E X beta.
        beta2: E beta^2.
    """

    k: tuple[float, float, float]
    beta: tuple[float, float]
    beta2: float

    @classmethod
    def of(cls, n: int) -> Gates:
        """Of a layer of n units."""
        k = torch.arange(1, n + 1, dtype=torch.float64)
        total = torch.tensor(float(n), dtype=torch.float64)
        binomial = torch.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma(total - k + 1)
        p = torch.exp(binomial - n * torch.log(torch.tensor(2.0, dtype=torch.float64)))
        one = (k - 1) / max(n - 1, 1)
        two = one * (k + 1) / (n + 1)
        moments = [float((p * v).sum()) for v in (torch.ones_like(k), k, k * (k + 2), one, k * one, two)]
        return cls((moments[0], moments[1], moments[2]), (moments[3], moments[4]), moments[5])

    def gradient(self, after: Tail) -> tuple[float, float]:
        """E B and E B^2 of B = |delta|^2, the squared gradient with respect to the pre-activations.

        Args:
            after: the rest of the network, a function of the layer's signal.

        Returns:
            The two means.
        """
        mean = self.k[0] * after.a + self.beta[0] * after.b
        return mean, self.k[0] * after.aa + 2 * self.beta[0] * after.ab + self.beta2 * after.bb

    def with_gradient(self, after: Tail) -> tuple[float, float]:
        """E[X g_par^2 B] and E[B^2], B = |delta|^2.

        Args:
            after: the rest of the network, a function of the layer's signal.

        Returns:
            The two means.
        """
        return self.k[1] * after.aa + self.beta[1] * after.ab, self.gradient(after)[1]

    def before(self, after: Tail, c: float, n: int) -> Tail:
        """The rest of the network as a function of what enters the layer.

        Args:
            after: the same as a function of what leaves it.
            c: variance of the layer's weights.
            n: its fan-in.

        Returns:
            Moments at a unit vector that enters.
        """
        mean, square = self.gradient(after)
        across = n - 1
        along, _ = self.with_gradient(after)
        return Tail(
            c * self.k[1] * after.a,
            c * across * mean,
            c**2 * self.k[2] * after.aa,
            c**2 * across * along,
            c**2 * across * (across + 2) * square,
        )

    def meet(self, joint: tuple[float, float], late: int) -> float:
        """E[B X^late Y] for a later contribution Y, given E[g_par^2 Y] and E[|g_perp|^2 Y] behind the layer."""
        return self.k[late] * joint[0] + self.beta[late] * joint[1]

    def carry(self, joint: tuple[float, float], c: float, n: int, late: int) -> tuple[float, float]:
        """The joint moments in front of the layer from those behind it.

        Args:
            joint: E[g_par^2 Y] and E[|g_perp|^2 Y] behind it.
            c: variance of the layer's weights.
            n: its fan-in.
            late: 1 where Y grows with the squared signal, 0 where it does not depend on it.

        Returns:
            The two moments at a unit vector that enters.
        """
        scale = c ** (1 + late)
        return scale * self.k[1 + late] * joint[0], scale * (n - 1) * self.meet(joint, late)
