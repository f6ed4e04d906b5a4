"""Bayesian learning with wide networks.

:func:`gp_posterior` at infinite width, :func:`finite_width_posterior` to order 1/n, and
:func:`importance_posterior` from sampled kernels at any width.
"""

from __future__ import annotations

from leadline.theory.bayes.finite_width import FiniteWidthPosterior, finite_width_posterior
from leadline.theory.bayes.importance import SampledPosterior, importance_posterior
from leadline.theory.bayes.posterior import Posterior, gp_posterior

__all__ = [
    "FiniteWidthPosterior",
    "Posterior",
    "SampledPosterior",
    "finite_width_posterior",
    "gp_posterior",
    "importance_posterior",
]
