"""Bayesian learning with wide networks.

- ``model_evidence``: which depth, C_W, C_b and width do my data prefer? A table that prints and plots itself.
- ``gp_posterior``: posterior and log evidence at infinite width, from any kernel.
- ``finite_width_posterior``: the same with corrections of order 1/n, from K, V and G1; ``network_posterior``: from
  a network's layers.
- ``importance_posterior``: at any width, from sampled kernels.
"""

from __future__ import annotations

from leadline.theory.bayes.evidence import EvidenceRow, EvidenceTable, model_evidence
from leadline.theory.bayes.finite_width import FiniteWidthPosterior, finite_width_posterior
from leadline.theory.bayes.importance import SampledPosterior, importance_posterior
from leadline.theory.bayes.network import network_posterior
from leadline.theory.bayes.posterior import Posterior, gp_posterior

__all__ = [
    "EvidenceRow",
    "EvidenceTable",
    "FiniteWidthPosterior",
    "Posterior",
    "SampledPosterior",
    "finite_width_posterior",
    "gp_posterior",
    "importance_posterior",
    "model_evidence",
    "network_posterior",
]
