"""Networks whose pre-activations stay Gaussian, and how far those of others are from it.

- ``gaussian_pair``: an activation and a weight law whose product of normal inputs is normal again, at any width.
- ``normal_distance``: of samples; ``kurtosis_distance`` and ``log_normal_distance`` are what theory expects of it.
"""

from __future__ import annotations

from leadline.theory.gaussian_preactivations.amplitude import (
    amplitude_cdf,
    amplitude_moment,
    amplitude_quantile,
    amplitude_survival,
)
from leadline.theory.gaussian_preactivations.distance import (
    kurtosis_distance,
    log_normal_distance,
    noise_distance,
    normal_distance,
)
from leadline.theory.gaussian_preactivations.pair import GaussianPair, gaussian_pair

__all__ = [
    "GaussianPair",
    "amplitude_cdf",
    "amplitude_moment",
    "amplitude_quantile",
    "amplitude_survival",
    "gaussian_pair",
    "kurtosis_distance",
    "log_normal_distance",
    "noise_distance",
    "normal_distance",
]
