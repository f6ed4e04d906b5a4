"""The neural covariance SDE: the law of the last layer's covariance when depth and width grow together.

:func:`covariance_sde` takes an activation shaped with the width (:func:`leadline.activations.shape`),
:func:`covariance_sde_relu` the two bends of a shaped ReLU; both give a :class:`CovarianceSDE` whose ``sample`` draws
covariances in milliseconds where a network would draw weights.
"""

from __future__ import annotations

from leadline.theory.covariance_sde.drift import relu_drift, smooth_drift
from leadline.theory.covariance_sde.picture import correlation_picture
from leadline.theory.covariance_sde.sde import (
    CovariancePaths,
    CovarianceSDE,
    covariance_sde,
    covariance_sde_relu,
    log_variance_law,
)

__all__ = [
    "CovariancePaths",
    "CovarianceSDE",
    "correlation_picture",
    "covariance_sde",
    "covariance_sde_relu",
    "log_variance_law",
    "relu_drift",
    "smooth_drift",
]
