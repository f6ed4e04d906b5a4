"""What a batch norm with certain statistics does to the derivative: it loses its mean and its part along the channel itself."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.rules.banded import Banded
from leadline.rules.banded_moments import drawn_means
from leadline.rules.context import Context
from leadline.rules.expr import Apply, Expr, Lin, Product, gaussian, grid, product
from leadline.rules.kernel import Kernel, scale_points
from leadline.rules.state import Cotangent, Wave

__all__ = ["along_channel"]


def along_channel(cotangent: Cotangent, value: Expr, own: Kernel, ctx: Context) -> Kernel | None:
    r"""What the projection off the channel takes from the derivative's covariance, before the division by the variance.

    A derivative :math:`d_p = \beta_p e(\hat h_p)` that comes from far behind (a global pool) has the same sign over an
    image, so that :math:`a = \frac1P \sum_p d_p \hat h_p = \frac1P \sum_p \beta_p m_p` with
    :math:`m_p = \langle e \hat h \rangle` does not average out:

    .. math:: \langle (d - \hat h a)_p (d - \hat h a)_q \rangle = D_{pq} - \hat C_{pq} (\tilde m_p b_p + b_q \tilde m_q)
              + \hat C_{pq} A, \quad b_p = \tfrac1P \sum_r B_{pr} m_r, \quad A = \tfrac1P \sum_p m_p b_p

    Args:
        cotangent: derivative with respect to the normalised value.
        value: the normalised value, a Gaussian expression.
        own: its second moment.
        ctx: the prediction that runs.

    Returns:
        The covariance that is lost, None where no wave depends on the channel.
    """
    waves = [w for w in cotangent.waves if w.factor is not None and not w.factor.sources.isdisjoint(value.sources)]
    if not waves:
        return None
    variance = own.diagonal().clamp_min(1e-30)
    slope, mean = torch.zeros_like(variance), torch.zeros_like(variance[0])
    for wave, m in zip(waves, _overlaps([w.factor for w in waves if w.factor is not None], value, ctx), strict=True):
        b = _row_means(wave, m)
        slope = slope + m / variance * b
        mean = mean + (m * b).mean()
    pairs = grid(value)
    if pairs is None:
        return own * (slope[:, None] + slope[None, :] - mean)
    p, q, _ = pairs.index
    return own * Banded(slope.index_select(0, p) + slope.index_select(0, q) - mean, pairs)


def _overlaps(factors: list[Expr], value: Expr, ctx: Context) -> Tensor:
    """<e h> of each factor at each point, shape (factors, P); by draws where there is no closed form."""
    found = [_overlap(e, value, ctx) for e in factors]
    rest = [e for e, known in zip(factors, found, strict=True) if known is None]
    pairs = grid(value)
    if not rest:
        drawn: list[Tensor] = []
    elif pairs is not None:
        seed = ctx.moments.turned(value)
        drawn = list(drawn_means([product(e, value) for e in rest], pairs, ctx.moments.second, seed).unbind())
    else:
        h = ctx.moments.draws(value)
        drawn = [(ctx.moments.draws(e) * h).mean(0) for e in rest]
    return torch.stack([drawn.pop(0) if known is None else known for known in found])


def _overlap(e: Expr, value: Expr, ctx: Context) -> Tensor | None:
    """<e h> for a centred Gaussian h by Stein's lemma: <f'(z) h> = <z h> <z f'(z)> / <z^2>, where z f' = f."""
    if e.sources.isdisjoint(value.sources):
        return ctx.full(value.size, 0.0)
    if gaussian(e):
        return ctx.moments.covariance(e, value).diagonal()
    if isinstance(e, Lin):
        total = ctx.full(value.size, 0.0)
        for c, part in e.terms:
            known = _overlap(part, value, ctx)
            if known is None:
                return None
            total = total + c * known
        return total
    if isinstance(e, Product) and e.left.sources.isdisjoint(e.right.sources | value.sources):
        known = _overlap(e.right, value, ctx)
        return None if known is None else ctx.moments.mean(e.left) * known
    if isinstance(e, Apply) and e.order == 1 and e.activation.scale_invariant and gaussian(e.inner):
        K = ctx.moments.diagonal(e.inner)
        shared = ctx.moments.covariance(e.inner, value).diagonal()
        return shared * e.activation.mean(K) / K.clamp_min(1e-30)
    return None


def _row_means(wave: Wave, m: Tensor) -> Tensor:
    """Mean over q of B_pq m_q."""
    B = wave.squared
    if not isinstance(B, Banded):
        return B @ m / m.numel()
    return scale_points(1.0, m, B).row_means()
