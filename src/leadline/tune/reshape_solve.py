r"""The constants of an affine wrap, for any callable: Deep Kernel Shaping, its form that folds, and leaky rectifiers."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.tune.reshape_wrap import LocalMap, Wrap, local_map, wrapped

__all__ = ["leaky_at_zero", "solve_folding", "solve_leaky", "solve_smooth"]

_SHIFTS, _SCALES, _NODES, _REACH = 129, 96, 257, 8.0
_LARGEST_SHIFT = 4.0
_TOLERANCE = 1e-4
_WIDEST = 4.0
_ROUNDING = 1e-9
_STARTS = 6  # an oscillating function has solutions without end


def solve_smooth(act: Activation, slope: float) -> Wrap | None:
    r"""Wrap under which correlations change as slowly as wanted, and no variance and no mean does.

    .. math:: \langle\phi\rangle = 0,\quad Q(1) = 1,\quad Q'(1) = 1,\quad C'(1) = \psi

    Where no shift has Q'(1) = 1, the one that comes nearest is taken, if Q'(1) is at most psi^4.

    Args:
        act: the nonlinearity.
        slope: psi, above one.

    Returns:
        The wrap, of several the one that loses least to rounding; None where there is none.

    Source: Martens et al., Rapid training of deep neural networks without skip connections or normalization layers using
        Deep Kernel Shaping (2021), section 8.
    """
    curve = _curve(act, slope)
    if curve is None:
        return None
    shifts, scales, size_slopes, _ = curve
    found = [
        wrap
        for start in _crossings(shifts, scales, size_slopes - 1)
        if (wrap := _polished(act, slope, start)) is not None
    ]
    if found:
        return min(found, key=lambda w: _order(act, w))
    distance = size_slopes.clamp_min(1e-300).log().abs()
    i = int(torch.where(torch.isfinite(distance), distance, torch.inf).argmin())
    if not 0 < float(size_slopes[i]) <= slope**_WIDEST:
        return None
    a = _scale_at(act, slope, float(shifts[i]), float(scales[i]))
    return None if a is None else _normalised(act, a, float(shifts[i]))


def solve_folding(act: Activation, slope: float) -> Wrap | None:
    r"""Wrap without a shift of the output, which folds into weights and rates to the last digit.

    .. math:: \langle\sigma(a x + b)\rangle = 0,\quad Q(1) = 1,\quad C'(1) = \psi

    Q'(1) is what it is: below one, as for odd functions, where departures of the variance die out, or at most psi^4.

    Args:
        act: the nonlinearity.
        slope: psi, above one.

    Returns:
        The wrap; None where the nonlinearity has no zero to be put about.

    Source: the conditions of Deep Kernel Shaping (Martens et al., 2021, section 8) with d = 0 in place of Q'(1) = 1.
    """
    curve = _curve(act, slope)
    if curve is None:
        return None
    shifts, scales, _, means = curve
    found = []
    for a, b in _crossings(shifts, scales, means):
        wrap = _polished(act, slope, (a, b), mean=True)
        if wrap is not None and _maps(act, wrap).size_slope <= slope**_WIDEST:
            found.append(wrap)
    return min(found, key=lambda w: _order(act, w)) if found else None


def leaky_at_zero(ratio: float | Tensor, c: float | Tensor) -> Tensor:
    r"""Correlation map of a normalised function of two slopes.

    .. math:: C(c) = c + \frac{(1 - r)^2}{\pi (1 + r^2)}\left(\sqrt{1 - c^2} - c \arccos c\right)

    Args:
        ratio: r, left slope over right slope.
        c: correlation of the inputs.

    Returns:
        Correlation of the outputs, float64.

    Source: Zhang, Botev & Martens, Deep learning without shortcuts: shaping the kernel with tailored rectifiers (2022).
    """
    r, c = (torch.as_tensor(v, dtype=torch.float64) for v in (ratio, c))
    c = c.clamp(-1, 1)
    return c + (1 - r) ** 2 / (math.pi * (1 + r * r)) * ((1 - c * c).clamp_min(0).sqrt() - c * torch.arccos(c))


def solve_leaky(act: Activation, ratio: float) -> Wrap | None:
    r"""Wrap that turns a function of two slopes into one whose slopes have a given ratio, at Q(1) = 1.

    .. math:: \phi(x) = \gamma(\sigma(x) + e x),\quad e = \frac{r p - m}{1 - r},\quad \gamma^2 = \frac{2}{(p+e)^2 + (m+e)^2}

    Args:
        act: the nonlinearity, of slopes p to the right and m to the left.
        ratio: r, from 0 up to below 1.

    Returns:
        The wrap; None where the function has other than two slopes.

    Source: Zhang, Botev & Martens, Deep learning without shortcuts: shaping the kernel with tailored rectifiers (2022).
    """
    if act.slopes is None or act.slopes[0] == act.slopes[1]:
        return None
    p, m = act.slopes
    skip = (ratio * p - m) / (1 - ratio)
    return Wrap(gamma=math.sqrt(2 / ((p + skip) ** 2 + (m + skip) ** 2)), skip=skip)


def _nodes() -> tuple[Tensor, Tensor]:
    """Points and Gaussian weights on a grid: exact enough to find where solutions lie."""
    x = torch.linspace(-_REACH, _REACH, _NODES, dtype=torch.float64)
    w = torch.exp(-x * x / 2)
    return x, w / w.sum()


@torch.no_grad()
def _curve(act: Activation, slope: float) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Over shifts b: the smallest scale a with C'(1) = psi, and there Q'(1) and the mean over the spread."""
    if act.jumps or not slope > 1:
        return None
    x, w = _nodes()
    shifts = torch.linspace(-_LARGEST_SHIFT, _LARGEST_SHIFT, _SHIFTS, dtype=torch.float64)
    scales = torch.logspace(-3, 1.2, _SCALES, dtype=torch.float64)
    rows = []
    for b in shifts:
        z = scales[:, None] * x + b
        s, ds = act.fn(z), act.derivative(z) * scales[:, None]
        mean = (s * w).sum(1)
        centred = s - mean[:, None]
        spread = (centred.square() * w).sum(1)
        rows.append(
            torch.stack(
                [(ds.square() * w).sum(1) / spread, (centred * ds * x * w).sum(1) / spread, mean / spread.sqrt()]
            )
        )
    table = torch.nan_to_num(torch.stack(rows), nan=torch.inf)  # (shift, quantity, scale)
    over = table[:, 0] > slope
    first = over.to(torch.int8).argmax(1)
    known = over.any(1) & (first > 0)
    if not bool(known.any()):
        return None
    pick = first[known]
    rows_ = torch.arange(len(shifts))[known]
    low, high = table[rows_, :, pick - 1], table[rows_, :, pick]
    # C'(1) - 1 grows as a power of the scale, so the logarithms are joined by a line
    left, right = (low[:, 0] - 1).clamp_min(1e-15).log(), (high[:, 0] - 1).clamp_min(1e-15).log()
    share = ((math.log(slope - 1) - left) / (right - left)).clamp(0, 1)
    a = torch.exp(torch.lerp(scales[pick - 1].log(), scales[pick].log(), share))
    between = torch.lerp(low, high, share[:, None])
    return shifts[known], a, between[:, 1], between[:, 2]


def _crossings(shifts: Tensor, scales: Tensor, values: Tensor) -> list[tuple[float, float]]:
    """(a, b) where a quantity on the curve changes sign, those of the smallest shifts."""
    sign = torch.sign(values)
    found = []
    for i in range(len(shifts)):
        if sign[i] == 0:
            found.append((float(scales[i]), float(shifts[i])))
        elif i and sign[i] * sign[i - 1] < 0:
            share = float(values[i - 1] / (values[i - 1] - values[i]))
            found.append(
                (float(torch.lerp(scales[i - 1], scales[i], share)), float(torch.lerp(shifts[i - 1], shifts[i], share)))
            )
    return sorted(found, key=lambda start: abs(start[1]))[:_STARTS]


def _maps(act: Activation, wrap: Wrap) -> LocalMap:
    return local_map(wrapped(act, wrap))


def _centred(act: Activation, a: float, b: float) -> tuple[LocalMap, float, float]:
    """Maps of sigma(a x + b) less its value at b, their spread, and that value."""
    origin = float(act.fn(torch.tensor(b, dtype=torch.float64)))
    maps = _maps(act, Wrap(a=a, b=b, d=-origin))
    return maps, maps.second - maps.mean**2, origin


def _polished(act: Activation, slope: float, start: tuple[float, float], mean: bool = False) -> Wrap | None:
    """Solve for scale and shift by Newton's method in the exact expectations; None where they do not meet."""
    from scipy import optimize  # slow to import, and rarely wanted

    unit = slope - 1

    def distance(p: list[float]) -> list[float]:
        a, b = math.exp(p[0]), float(p[1])
        maps, spread, origin = _centred(act, a, b)
        second = (maps.mean + origin) / math.sqrt(spread) if mean else (_size_slope(act, a, b) - 1) / unit
        return [(maps.slope * maps.second / spread - slope) / unit, second]

    try:
        result = optimize.root(distance, [math.log(start[0]), start[1]], tol=1e-9)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    if not max(abs(float(v)) for v in result.fun) < _TOLERANCE:
        return None
    shift = float(result.x[1])
    wrap = _normalised(act, math.exp(float(result.x[0])), shift if abs(shift) > _ROUNDING else 0.0)
    return replace(wrap, d=0.0) if mean else wrap


def _size_slope(act: Activation, a: float, b: float) -> float:
    """Q'(1) of the normalised and centred function: <phi phi' x>."""
    from leadline.gaussian import expectation

    m, spread, origin = _centred(act, a, b)

    def product(x: Tensor) -> Tensor:
        return (act.fn(a * x + b) - origin - m.mean) * act.derivative(a * x + b) * a * x

    kinks = [(k - b) / a for k in act.kinks]
    one = torch.tensor(1.0, dtype=torch.float64)
    return float(expectation(product, one, kinks=kinks, rtol=act.rtol).value) / spread


def _normalised(act: Activation, a: float, b: float) -> Wrap:
    maps, spread, origin = _centred(act, a, b)
    return Wrap(a, b, 1 / math.sqrt(spread), -(maps.mean + origin))


def _scale_at(act: Activation, slope: float, b: float, near: float) -> float | None:
    from scipy import optimize

    def distance(log_a: float) -> float:
        maps, spread, _ = _centred(act, math.exp(log_a), b)
        return maps.slope * maps.second / spread - slope

    try:
        return math.exp(float(optimize.brentq(distance, math.log(near) - 0.3, math.log(near) + 0.3)))
    except ValueError:
        return None


def _order(act: Activation, wrap: Wrap) -> tuple[float, float, float]:
    """Of several solutions the one whose offset cancels least, then whose layers fluctuate least, then the nearest."""
    fourth = float(wrapped(act, wrap).fourth_moment(torch.tensor(1.0, dtype=torch.float64)))
    return round(abs(wrap.gamma * wrap.d), 3), round(fourth, 3), round(abs(wrap.b), 6)
