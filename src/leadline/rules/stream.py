"""The cross term between a residual stream and its branches: means over the same channels at different depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leadline.rules.expr import Expr
from leadline.rules.fourth import flat
from leadline.rules.influence import ORDER, Sample, sample

__all__ = ["bent", "gram"]


@dataclass
class _Stream:
    """Means over one layer's channels so far, and what they have in common.

    ``keys``: place of each source. ``x``: each mean's Gaussian as a unit vector over them, (J, S, P); zero for a
    product. ``c``: Hermite coefficients (J, ORDER, P). ``G``: covariances of one channel's values (J, J, P).
    """

    place: dict[Sample, int] = field(default_factory=dict)
    keys: dict[object, int] = field(default_factory=dict)
    x: Tensor = field(default_factory=lambda: torch.empty(0))
    c: Tensor = field(default_factory=lambda: torch.empty(0))
    G: Tensor = field(default_factory=lambda: torch.empty(0))

    def add(self, new: Sample) -> None:
        """Take in one more mean."""
        own, sources, series = new.own, flat(new.argument), new.coefficients
        if not self.place:
            P = own.numel()
            self.x, self.c, self.G = own.new_zeros(0, 0, P), own.new_zeros(0, ORDER, P), own.new_zeros(0, 0, P)
        for name in sources or ():
            self.keys.setdefault(name, len(self.keys))
        wider = self.x.new_zeros(self.x.shape[0], len(self.keys) - self.x.shape[1], own.numel())
        self.x = torch.cat([self.x, wider], 1)
        x, c = torch.zeros_like(self.x[:0]).sum(0), own.new_zeros(ORDER, own.numel())
        if sources is not None and series is not None:
            for name, (share, K) in sources.items():
                x[self.keys[name]] = share * K.clamp_min(0).sqrt()
            x = x / x.square().sum(0).sqrt().clamp_min(1e-150)
            c = series.T
        row = self._hermite(x, c)
        for old, number in self.place.items():
            unknown = series is None or sources is None or old.coefficients is None or flat(old.argument) is None
            if unknown and not old.expr.sources.isdisjoint(new.expr.sources):
                u, v = new.values(), old.values()
                row[number] = (u * v).mean(0) - u.mean(0) * v.mean(0)
        self.G = torch.cat([torch.cat([self.G, row[:, None]], 1), torch.cat([row, own[None]])[None]])
        self.x, self.c = torch.cat([self.x, x[None]]), torch.cat([self.c, c[None]])
        self.place[new] = len(self.place)

    def _hermite(self, x: Tensor, c: Tensor) -> Tensor:
        """Covariance with every mean so far (J, P)."""
        rho = torch.einsum("jsp,sp->jp", self.x, x)
        total = torch.zeros_like(rho)
        for k in range(ORDER - 1, -1, -1):  # the lowest degree is one
            total = (total + self.c[:, k] * c[k]) * rho
        return total


def gram(group: Sequence[Sample]) -> Tensor:
    """Covariance of one channel's values of several means over the same channels.

    Args:
        group: the means.

    Returns:
        Shape (J, J, P).
    """
    stream = _stream(group)
    at = torch.tensor([stream.place[s] for s in group], device=stream.G.device)
    return stream.G.index_select(0, at).index_select(1, at)


def _stream(group: Sequence[Sample]) -> _Stream:
    """What is known of the means, with those that are new."""
    known = [s.expr.memo["stream"] for s in group if "stream" in s.expr.memo]
    found = [k for k in known if isinstance(k, _Stream)]
    stream = max(found, key=lambda k: len(k.place)) if found else _Stream()
    for s in group:
        if s not in stream.place:
            stream.add(s)
        s.expr.memo["stream"] = stream
    return stream


def bent(expr: Expr, parts: Mapping[Sample, Tensor]) -> Tensor | None:
    r"""What <f(x)^2> gains since a channel's own earlier values take part in the scale of its later ones.

    .. math:: \frac{1}{2n} \sum_j r_j\, \mathrm{Cov}\big((f^2)''(x),\, e_j^2\big)

    Args:
        expr: f(x) with a Gaussian x.
        parts: responses r_j of the variance of x, to the means of e_j^2 over n channels.

    Returns:
        Shape (P,), or None for zero.
    """
    joint = [s for s, r in parts.items() if r.dim() == 1 and not s.expr.sources.isdisjoint(expr.sources)]
    joint = [s for s in joint if s.coefficients is not None and flat(s.argument) is not None]
    if not joint or flat(expr.inner) is None:  # type: ignore[attr-defined]
        return None
    own = sample(expr, 2, joint[0].width, joint[0].moments)
    stream = _stream([*joint, own])
    at = torch.tensor([stream.place[s] for s in joint], device=stream.G.device)
    rho = torch.einsum("jsp,sp->jp", stream.x[at], stream.x[stream.place[own]])
    K = own.moments.diagonal(own.argument).clamp_min(1e-300)
    c, d = stream.c[stream.place[own]], stream.c[at]
    total = torch.zeros_like(rho)
    for k in range(ORDER - 2, 0, -1):  # degree k of the second derivative is degree k + 2 of the function
        total = (total + ((k + 1) * (k + 2)) ** 0.5 * c[k + 1] * d[:, k - 1]) * rho
    responses = torch.stack([parts[s] for s in joint])
    return (responses * total).sum(0) / (2 * own.width * K)
