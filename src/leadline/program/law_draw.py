"""Draw a tensor from an init law."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from leadline.program.law import Law
from leadline.program.law_tests import truncated_variance

__all__ = ["draw_law"]


def draw_law(law: Law, like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw fresh entries from a law.

    Orthogonal matrices are Haar distributed and scaled to the second moment of the law; kinds without a law
    of their own ("low_rank", "structured") are drawn as Gaussians of the same mean and standard deviation.

    Args:
        law: the law, from :func:`leadline.program.laws.read_law` or stated.
        like: gives shape, dtype and device.
        generator: source of randomness on the device of `like`; the device's global one by default.

    Returns:
        A new tensor without gradient.
    """
    with torch.no_grad():
        new = torch.empty_like(like, memory_format=torch.contiguous_format)
        if law.kind == "constant":
            return new.fill_(law.mean)
        if law.kind == "uniform":
            half = math.sqrt(3) * law.std
            return new.uniform_(-half, half, generator=generator).add_(law.mean)
        if law.kind == "truncated" and math.isfinite(law.cutoff):
            parent = _parent_std(law.std, law.cutoff)
            nn.init.trunc_normal_(new, 0.0, parent, -law.cutoff, law.cutoff, generator=generator)
            return new.add_(law.mean)
        if law.kind == "orthogonal" and new.dim() >= 2:
            return _orthogonal(new, law.second_moment, generator)
        if law.kind == "delta_orthogonal" and new.dim() > 2:
            centre = new.zero_()
            for size in new.shape[2:]:
                centre = centre.select(2, size // 2)
            taps = math.prod(new.shape[2:])
            centre.copy_(_orthogonal(torch.empty_like(centre), law.second_moment * taps, generator))
            return new
        return new.normal_(0.0, law.std, generator=generator).add_(law.mean)


def _orthogonal(new: Tensor, second_moment: float, generator: torch.Generator | None) -> Tensor:
    if new.shape[0] == 1 and new.dim() > 2:
        _orthogonal(new[0], second_moment, generator)
        return new
    wide = new if new.dtype in {torch.float32, torch.float64} else new.float()
    longest = max(new.shape[0], new.numel() // new.shape[0])
    nn.init.orthogonal_(wide, math.sqrt(second_moment * longest), generator=generator)
    return new if wide is new else new.copy_(wide)


def _parent_std(std: float, cutoff: float) -> float:
    """Standard deviation before truncation that leaves `std` after truncation at the cutoff."""
    share = (std / cutoff) ** 2
    if share >= truncated_variance(1e-2):
        return cutoff / 1e-2
    from scipy import optimize  # slow to import, and rarely wanted

    r = optimize.brentq(lambda s: truncated_variance(s) - share, 1e-2, 40.0, xtol=1e-9)
    return cutoff / float(r)
