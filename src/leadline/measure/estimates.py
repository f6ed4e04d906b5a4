"""From statistics of many draws to a row's numbers with their standard errors (jackknife over draws)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from leadline.measure.points import Pairs
from leadline.theory.rows import Estimate

__all__ = ["jackknife", "kernel_of", "row_values"]

Stats = dict[str, Tensor]
_TINY = 1e-300


def jackknife(function: Callable[..., Tensor], *arrays: Tensor) -> Estimate:
    r"""A function of means over draws, with its standard error.

    .. math:: s^2 = \frac{G-1}{G} \sum_g (\theta_{(g)} - \bar\theta)^2

    with :math:`\theta_{(g)}` the function of the means that leave out draw g. For a plain mean this is the
    usual standard error.

    Args:
        function: takes the means, each with a leading axis that it keeps; returns one number along that axis.
        arrays: statistics with the draws on the leading axis, shape (G, ...).

    Returns:
        The function of the means of all draws; the error is NaN where there is one draw.
    """
    count = arrays[0].shape[0]
    value = float(function(*[a.mean(0, keepdim=True) for a in arrays])[0])
    if count < 2:
        return Estimate(value, math.nan)
    left = function(*[(a.sum(0, keepdim=True) - a) / (count - 1) for a in arrays])
    return Estimate(value, _scatter(left))


def _scatter(left: Tensor) -> float:
    """Standard error from the leave-one-out values (G,)."""
    count = left.shape[0]
    return float(((left - left.mean()).square().sum() * ((count - 1) / count)).sqrt())


def row_values(stats: Stats, pairs: Pairs, *, redrawn: bool) -> dict[str, Estimate]:
    """The quantities of one row.

    Args:
        stats: statistic -> tensor with independent draws on the leading axis.
        pairs: the pairs of points that were kept.
        redrawn: whether the weights differ from draw to draw.

    Returns:
        Quantity -> estimate; a quantity that does not exist here is absent.
    """
    diagonal = stats["diagonal"]
    out = {"kernel": jackknife(lambda d: d.mean(1), diagonal), "peak": _peak(diagonal)}
    out |= _correlations(diagonal, stats["pairs"], pairs)
    if redrawn and "square" in stats and diagonal.shape[0] > 2:
        spread = _spread(stats["square"], diagonal)
        if spread is not None:
            out["spread"] = spread
    for name, key in (
        ("partial_jacobian", "jacobian"),
        ("tangent_kernel", "tangent"),
    ):
        if key in stats:
            out[name] = jackknife(lambda v: v, stats[key])
    if "flat" in stats:
        found = jackknife(lambda v: v, stats["flat"])
        # none of N units does not mean none at all: of N more there might have been one
        one = float(stats["unit"].mean()) / diagonal.shape[0] if redrawn else 0.0
        out["flat_fraction"] = Estimate(found.value, math.hypot(found.error, one))
    if "parallel" in stats and bool((stats["origin"] > 0).all()):
        out["chi_parallel"] = jackknife(lambda a, b: a / b, stats["parallel"], stats["origin"])
    if "perp" in stats:
        out["chi_perp"] = jackknife(lambda v: v, stats["perp"])
    return out


def _peak(diagonal: Tensor) -> Estimate:
    """Largest root mean square over points."""
    # The largest of many noisy means is too large: half of the draws say where it is, the others how large.
    count = diagonal.shape[0]
    if count < 4 or diagonal.shape[1] == 1:
        return jackknife(lambda d: d.amax(1).clamp_min(0).sqrt(), diagonal)
    halves = diagonal[0::2], diagonal[1::2]
    found = []
    for choose, judge in (halves, halves[::-1]):
        where = int(choose.mean(0).argmax())
        found.append(jackknife(lambda d: d.clamp_min(0).sqrt(), judge[:, where]))
    # each half took part in both numbers, so their errors are added as they are
    return Estimate(sum(f.value for f in found) / 2, sum(f.error for f in found) / 2)


def _correlations(diagonal: Tensor, second: Tensor, pairs: Pairs) -> dict[str, Estimate]:
    """Mean correlation of the kept pairs from second moments averaged over draws."""
    out: dict[str, Estimate] = {}
    kinds = (
        ("correlation", pairs.between, pairs.share_between),
        ("site_correlation", pairs.within, pairs.share_within),
    )
    mean = diagonal.mean(0)
    for name, mask, share in kinds:
        alive = mask.cpu() & (mean[pairs.first.cpu()] > 0) & (mean[pairs.second.cpu()] > 0)
        if not bool(alive.any()):
            continue
        i, j = pairs.first.cpu()[alive], pairs.second.cpu()[alive]

        def each(d: Tensor, q: Tensor, i: Tensor = i, j: Tensor = j) -> Tensor:
            return q / (d[:, i] * d[:, j]).clamp_min(_TINY).sqrt()

        found = jackknife(lambda d, q: each(d, q).mean(1), diagonal, second[:, alive])
        if share < 1 and len(i) > 1:  # a sample of the pairs stands for all of them
            scatter = float(each(mean[None], second[:, alive].mean(0)[None]).std()) * math.sqrt((1 - share) / len(i))
            found = Estimate(found.value, math.hypot(found.error, scatter))
        out[name] = found
    if "correlation" not in out and "site_correlation" in out:
        out["correlation"] = out["site_correlation"]
    return out


def _spread(square: Tensor, diagonal: Tensor) -> Estimate | None:
    """Relative variance of the scale from draw to draw, E[q] / E[m m'] - 1, averaged over points."""
    # m is the mean square of one draw and m' that of another: pairs of draws leave no bias. q is the square
    # of the scale in question: m^2 for the sample's own, and for a fresh layer, whose scale is that of the
    # law given the layers before, the mean of z_i^2 z_j^2 over pairs of channels.
    count = diagonal.shape[0]
    total, own = diagonal.sum(0), diagonal.square().sum(0)
    alive = total > 0
    if not bool(alive.any()):
        return None
    m, q = diagonal[:, alive], square[:, alive]
    total, own = total[alive], own[alive]

    def relative(n: int, q_mean: Tensor, total: Tensor, own: Tensor) -> Tensor:
        product = (total.square() - own) / (n * (n - 1))
        return (q_mean / product.clamp_min(_TINY) - 1).mean(-1)

    value = float(relative(count, q.mean(0), total, own))
    left = relative(count - 1, (q.sum(0) - q) / (count - 1), total - m, own - m.square())
    return Estimate(value, _scatter(left))


def kernel_of(diagonal: Tensor, second: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Second moment between all points, and its standard error, from those of every draw.

    Args:
        diagonal: shape (G, P).
        second: of the pairs, shape (G, Q).
        pairs: all pairs of the P points.

    Returns:
        Two tensors (P, P).
    """
    count = diagonal.shape[0]
    out = []
    for d, q in (
        (diagonal.mean(0), second.mean(0)),
        (diagonal.std(0) / count**0.5, second.std(0) / count**0.5),
    ):
        K = torch.diag(d)
        K[pairs.first.cpu(), pairs.second.cpu()] = q
        K[pairs.second.cpu(), pairs.first.cpu()] = q
        out.append(K)
    return out[0], out[1]
