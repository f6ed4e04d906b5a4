"""The density and the edge of a free product, from the implicit equation for its moment generating function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.theory.spectra.slopes import SlopeLaw

__all__ = ["density", "moment_transform", "upper_edge"]

Laws = Sequence[tuple[SlopeLaw, int]]

_SHRINK = 0.65
_NEWTON = 60
_CONVERGED = 1e-12
_POINTS = 512


def moment_transform(z: Tensor, laws: Laws, log_scale: float, orthogonal: bool) -> Tensor:
    r"""M(z) = z G(z) - 1 in the upper half plane, G the resolvent of J J^T.

    .. math:: \frac1z = \chi(M) = \frac{M}{1+M}\prod_l S_l(M),\qquad S_l(M) = \frac{w_l}{C_W}\frac{1+M}{M}\times[(1+M)^{-1}],
              \qquad \psi_l(w_l) = M

    Newton steps on M and on all w_l together, carried from far above the real axis down to z.

    Args:
        z: points with a positive imaginary part (may be tiny), complex128, shape (x,).
        laws: law of the squared slopes of each kind of layer, with its number.
        log_scale: sum of ln C_W over layers.
        orthogonal: leave the factor in brackets out.
    Returns:
        M, shape of z.
    """
    depth = sum(count for _, count in laws)
    mean = math.exp(log_scale + sum(count * math.log(law.moment(1)) for law, count in laws))
    start = 20.0 * max(mean, float(z.abs().max())) * (1.0 + depth)
    size = torch.full(z.shape, start, dtype=torch.float64, device=z.device)
    floor = torch.maximum(z.imag, 1e-5 * z.abs())
    M = mean / torch.complex(z.real, size)
    w = torch.stack([M / law.moment(1) for law, _ in laws])
    problem = _Problem(laws, log_scale, orthogonal, depth)
    while bool((size > floor).any()):
        M, w = problem.newton(torch.complex(z.real, size), M, w)
        size = torch.maximum(size * _SHRINK, floor)
    M, w = problem.newton(torch.complex(z.real, size), M, w)
    return problem.newton(z, M, w)[0]


@dataclass(frozen=True)
class _Problem:
    """The equations ln z = ln(1/chi(M)) and psi_l(w_l) = M, and Newton's method for them."""

    laws: Laws
    log_scale: float
    orthogonal: bool
    depth: int

    def newton(self, z: Tensor, M: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Iterate until every point has converged; points that have are left alone."""
        M, w = M.clone(), w.clone()
        active = torch.arange(z.numel(), device=z.device)
        for _ in range(_NEWTON):
            m, v = M[active], w[:, active]
            step, change = self._step(z[active], m, v)
            M[active], w[:, active] = m + step, v + change
            active = active[step.abs() > _CONVERGED * m.abs()]
            if active.numel() == 0:
                break
        return M, w

    def _step(self, z: Tensor, M: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        log1p, log = (1 + M).log(), M.log()
        F = z.log() - self.log_scale + (self.depth - 1) * (log1p - log)
        dF = (self.depth - 1) * (1 / (1 + M) - 1 / M)
        if not self.orthogonal:
            F, dF = F - self.depth * log1p, dF - self.depth / (1 + M)
        slopes, misses = torch.empty_like(w), torch.empty_like(w)
        for i, (law, count) in enumerate(self.laws):
            psi, slopes[i] = law.transform(w[i])
            misses[i] = M - psi
            F, dF = F + count * w[i].log(), dF + count / (w[i] * slopes[i])
        # the sum of principal logarithms may be off by turns
        F = torch.complex(F.real, torch.remainder(F.imag + math.pi, 2 * math.pi) - math.pi)
        for i, (_, count) in enumerate(self.laws):
            F = F + count * misses[i] / (w[i] * slopes[i])
        step = -F / dF
        change = (misses + step) / slopes
        # a step larger than half of what it changes would leave the branch
        size = torch.maximum(step.abs() / M.abs(), (change.abs() / w.abs()).amax(0)).clamp_min(1e-300)
        damp = (0.5 / size).clamp_max(1.0)
        return step * damp, change * damp


def density(x: Tensor, laws: Laws, log_scale: float, orthogonal: bool) -> Tensor:
    """-Im G/pi just above the real axis; arguments as for ``moment_transform``, x real, shape (x,)."""
    z = torch.complex(x, 1e-9 * x)
    few = [(law.compressed(), count) for law, count in laws]
    M = torch.cat([moment_transform(part, few, log_scale, orthogonal) for part in z.split(_POINTS)])
    value = -((1 + M) / z).imag / math.pi
    return torch.where(value > 0, value, 0.0)


def upper_edge(laws: Laws, log_scale: float, orthogonal: bool) -> float:
    """Largest squared singular value: the smallest x on the branch of positive M; arguments as above."""
    depth = sum(count for _, count in laws)
    low, high = -16.0, 14.0
    for _ in range(6):  # a grid of ln M that closes in on the minimum of ln x
        t = torch.linspace(low, high, 121, dtype=torch.float64)
        M = t.exp()
        log_x = log_scale - (depth - 1) * (torch.log1p(M) - t) + (0 if orthogonal else depth * torch.log1p(M))
        for law, count in laws:
            log_x = log_x - count * _inverse(law, M).log()
        best = int(log_x.argmin())
        step = float(t[1] - t[0])
        low, high = float(t[best]) - 2 * step, float(t[best]) + 2 * step
    return math.exp(float(log_x.min()))


def _inverse(law: SlopeLaw, M: Tensor) -> Tensor:
    """W in (0, 1/max) with psi(w) = M > 0, by bisection in the logit of w max."""
    top = float(law.values.max())
    low, high = torch.full_like(M, -60.0), torch.full_like(M, 60.0)
    for _ in range(70):
        middle = (low + high) / 2
        psi = _psi(law, middle, top)
        low, high = torch.where(psi < M, middle, low), torch.where(psi < M, high, middle)
    return torch.sigmoid((low + high) / 2) / top


def _psi(law: SlopeLaw, logit: Tensor, top: float) -> Tensor:
    share = law.values / top
    w, rest = torch.sigmoid(logit)[:, None], torch.sigmoid(-logit)[:, None]
    # 1 - w s = (1 - w) + w (1 - s), which keeps its digits where both are close to 0
    return (law.weights * share * w / (rest + w * (1 - share))).sum(-1)
