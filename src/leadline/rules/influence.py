"""Means over a layer's finite sample of channels, and responses to them.

To first order in 1/n every second moment of a network moves from one draw of the weights to the next as a linear
combination of such means: of each step's own channels, and of those of the steps before it. Channels of different
sources are independent; those of one residual stream are the same channels at every depth, and their covariance is
the cross term between a stream and its branches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from leadline.gaussian import hermite_coefficients
from leadline.gaussian.one import distinct
from leadline.rules.expr import Apply, Expr, NoRule, gaussian
from leadline.rules.fourth import fourth_moment, second_moment
from leadline.rules.moments import Moments

__all__ = ["ORDER", "Parts", "Sample", "accumulate", "sample"]

ORDER = 24  # of the Hermite series of a covariance between two means; what is beyond counts in a mean's own variance
_DISTINCT = 4096  # variances at which Hermite coefficients are taken


@dataclass(frozen=True, eq=False)
class Sample:
    """The mean over n channels of e^power, less its expectation, at each point.

    ``expr``: e, a function of the channel's sources. ``width``: n.
    """

    expr: Expr
    power: int
    width: int
    moments: Moments = field(repr=False)

    @property
    def argument(self) -> Expr:
        """The Gaussian variable that it is a function of; a product has none."""
        return self.expr.inner if isinstance(self.expr, Apply) else self.expr

    @cached_property
    def own(self) -> Tensor:
        """Variance of one channel's e^power at each point (P,)."""
        K = self.moments.diagonal(self.expr)
        if self.power == 1:
            return K - self.moments.mean(self.expr).square()
        return fourth_moment(self.expr, self.moments) - second_moment(self.expr, self.moments).square()

    @cached_property
    def coefficients(self) -> Tensor | None:
        """Hermite coefficients of degrees 1 to ORDER at each point (P, ORDER); None for a product."""
        x = self.argument
        if not gaussian(x):
            return None
        K = self.moments.diagonal(x)
        if x is self.expr:
            out = K.new_zeros(K.numel(), ORDER)
            out[:, self.power - 1] = K.clamp_min(0).sqrt() if self.power == 1 else 2**0.5 * K
            return out
        act, power = self.expr.activation, self.power  # type: ignore[attr-defined]
        few, back = distinct(K)
        if few.numel() > _DISTINCT:
            raise NoRule("too many different variances")
        return hermite_coefficients(lambda z: act(z) ** power, few, ORDER, act.kinks)[back.reshape(-1), 1:]

    def values(self) -> Tensor:
        """Draws of one channel's e^power, shape (draws, P)."""
        return self.moments.draws(self.expr) ** self.power


Parts = dict[Sample, Tensor]
"""Mean over channels -> response of a second moment to it: (P,) where only the same point responds, else (P, P')."""


def sample(expr: Expr, power: int, width: int, moments: Moments) -> Sample:
    """The mean over channels of e^power; the same one each time it is asked for."""
    key = f"sample:{power}:{width}"
    if key not in expr.memo:
        expr.memo[key] = Sample(expr, power, width, moments)
    return expr.memo[key]  # type: ignore[return-value]


def accumulate(total: Parts, parts: Mapping[Sample, Tensor], factor: float | Tensor = 1.0) -> None:
    """Add a multiple (a number, or a vector over points) of responses to others, in place."""
    for key, response in parts.items():
        if isinstance(factor, Tensor) and response.dim() == 2:
            added = response * factor[:, None]
        else:
            added = response * factor
        known = total.get(key)
        if known is not None and known.dim() != added.dim():
            known, added = (torch.diag(v) if v.dim() == 1 else v for v in (known, added))
        total[key] = added if known is None else known + added
