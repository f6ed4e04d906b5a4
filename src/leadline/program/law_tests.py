"""Statistical tests behind the init laws: which law fits some entries, and how surely none does.

Every test gives a p-value under "the entries are independent draws of one symmetric law". They are combined
by Bonferroni, which holds however the tests depend on one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special

__all__ = [
    "Fit",
    "edge_p_value",
    "fit_entries",
    "goodness_of_fit",
    "gram_eigenvalues",
    "matrix_p_values",
    "truncated_variance",
]

_SMALLEST_FIT = 20  # below this many entries no shape test has power


@dataclass(frozen=True)
class Fit:
    """The likeliest of the three laws with independent entries.

    Args:
        kind: "gaussian", "uniform" or "truncated".
        cutoff: largest distance from the mean that the law allows (infinite for a Gaussian).
        parent_std: standard deviation before truncation (that of the entries for the other two).
    """

    kind: str
    cutoff: float
    parent_std: float


def truncated_variance(r: float) -> float:
    """Variance of a normal law truncated at r parent deviations, in units of the squared cutoff."""
    if r < 1e-2:
        return 1 / 3 - 2 * r * r / 45
    inside = special.erf(r / math.sqrt(2))
    density = math.exp(-r * r / 2) / math.sqrt(2 * math.pi)
    return (1 - 2 * r * density / inside) / (r * r)


def fit_entries(centred: np.ndarray) -> Fit:
    """Choose the likeliest of Gaussian, uniform and truncated Gaussian for entries with mean zero.

    Log likelihoods at the best scale; the truncated law, with one parameter more, must win by log(N) + 2.

    Args:
        centred: entries less their mean, shape (N,), not all zero.

    Returns:
        The chosen law. With a handful of entries the choice is close to a coin toss.
    """
    n = centred.size
    variance = float(np.mean(centred**2))
    std = math.sqrt(variance)
    cutoff = float(np.abs(centred).max())
    gaussian = -0.5 * n * math.log(2 * math.pi * math.e * variance)
    uniform = -n * math.log(2 * cutoff)
    share = variance / cutoff**2
    if share < truncated_variance(0.3) and n >= _SMALLEST_FIT and share > truncated_variance(7.0):
        from scipy import optimize  # slow to import, and rarely wanted

        r = float(optimize.brentq(lambda s: truncated_variance(s) - share, 0.3, 7.0, xtol=1e-9))
        parent = cutoff / r
        inside = special.erf(r / math.sqrt(2))
        truncated = -0.5 * n * variance / parent**2 - n * math.log(parent * math.sqrt(2 * math.pi) * inside)
        if truncated > max(gaussian, uniform) + math.log(n) + 2:
            return Fit("truncated", cutoff * (n + 1) / n, parent)
    if uniform > gaussian:
        return Fit("uniform", cutoff * (n + 1) / n, std)
    return Fit("gaussian", math.inf, std)


def _cdf(fit: Fit, x: np.ndarray) -> np.ndarray:
    if fit.kind == "uniform":
        return np.clip((x / fit.cutoff + 1) / 2, 0, 1)
    below = special.ndtr(x / fit.parent_std)
    if fit.kind == "gaussian":
        return below
    low = special.ndtr(-fit.cutoff / fit.parent_std)
    return np.clip((below - low) / (1 - 2 * low), 0, 1)


def goodness_of_fit(centred: np.ndarray, fit: Fit) -> list[float]:
    """P-values of the fitted law: Kolmogorov-Smirnov always; skewness and heavy tails for a Gaussian.

    The scale was fitted to the same entries, so the Kolmogorov-Smirnov distance is smaller than under its
    null law: the p-value is too large, never too small.

    Args:
        centred: entries less their mean, shape (N,).
        fit: the law to test.

    Returns:
        One p-value a test; empty below 20 entries.
    """
    n = centred.size
    if n < _SMALLEST_FIT:
        return []
    u = _cdf(fit, np.sort(centred))
    rank = np.arange(n)
    distance = max(float(np.max((rank + 1) / n - u)), float(np.max(u - rank / n)))
    p_values = [float(special.kolmogorov(math.sqrt(n) * distance))]
    if fit.kind == "gaussian" and n >= 1024:
        from scipy import stats  # takes longer to import than all else here

        p_values.append(float(stats.skewtest(centred).pvalue))
        # Heavy tails only: a truncated law that passes for a Gaussian at this size has light ones.
        p_values.append(float(stats.kurtosistest(centred, alternative="greater").pvalue))
    return p_values


def edge_p_value(largest: float, m: int, n: int) -> float:
    r"""Chance that an m x n matrix of independent unit entries has so large a squared singular value.

    .. math:: s = \frac{\lambda - (\sqrt m + \sqrt n)^2}
                       {(\sqrt m + \sqrt n)(1/\sqrt m + 1/\sqrt n)^{1/3}},\quad
              p \approx \frac{e^{-2 s^{3/2}/3}}{4\sqrt\pi s^{3/4}}

    with m and n less one half. The right tail of the Tracy-Widom law (beta = 1).

    Args:
        largest: largest eigenvalue of Z Z^T, entries of unit variance.
        m: rows.
        n: columns.

    Returns:
        A p-value; 1 where s < 1, since the tail formula holds only beyond the edge.

    Source: Johnstone (2001), Annals of Statistics 29; Ma (2012), Bernoulli 18, for the halves.
    """
    a, b = math.sqrt(m - 0.5), math.sqrt(n - 0.5)
    s = (largest - (a + b) ** 2) / ((a + b) * (1 / a + 1 / b) ** (1 / 3))
    if s < 1:
        return 1.0
    return math.exp(-2 / 3 * s**1.5) / (4 * math.sqrt(math.pi) * s**0.75)


def _energy_p_value(squares: np.ndarray, axis: int, excess: float) -> float:
    """P-value that the sums of squares along an axis scatter more than those of independent entries do."""
    count, length = squares.shape[1 - axis], squares.shape[axis]
    scatter = float(np.sum((squares.mean(axis) - 1) ** 2)) * length / excess
    # Sums of few squares have a heavy right tail: a scaled chi squared matches the scatter's two moments.
    mean, variance = count - 1, count * (2 + 12 / length)
    return float(special.chdtrc(2 * mean**2 / variance, scatter * 2 * mean / variance))


def gram_eigenvalues(z: np.ndarray) -> np.ndarray:
    """Squared singular values of a matrix, ascending, in single precision (enough for a test at the edge).

    Args:
        z: shape (m, n).

    Returns:
        Shape (min(m, n),).
    """
    # through torch: a second linear-algebra library with threads of its own would fight the network for the cores
    wide = torch.from_numpy(np.ascontiguousarray(z, dtype=np.float32))
    return torch.linalg.eigvalsh(wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide).numpy()


def matrix_p_values(block: np.ndarray, spectrum: np.ndarray | None = None) -> dict[str, float]:
    """Test a matrix against independent entries: norms and means of rows and columns, largest singular value.

    Args:
        block: entries less their mean, shape (m, n).
        spectrum: its :func:`gram_eigenvalues` where they are known.

    Returns:
        P-value by name of the test; empty where a side is below 4 or there are fewer than 64 entries.
    """
    m, n = block.shape
    if min(m, n) < 4 or m * n < 64:
        return {}
    variance = float(np.mean(block**2))
    z = block / math.sqrt(variance)
    squares = z * z
    excess = max(float(np.mean(squares**2)) - 1, 0.1)
    largest = float(gram_eigenvalues(z)[-1] if spectrum is None else spectrum[-1] / variance)
    return {
        "row norms": _energy_p_value(squares, 1, excess),
        "column norms": _energy_p_value(squares, 0, excess),
        "row means": float(special.chdtrc(m, n * np.sum(z.mean(1) ** 2))),
        "column means": float(special.chdtrc(n, m * np.sum(z.mean(0) ** 2))),
        "largest singular value": edge_p_value(largest, m, n),
    }
