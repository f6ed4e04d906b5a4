"""Averaged partial Jacobian norms: one number a pair of layers that tells order, criticality and chaos apart.

- ``partial_jacobian``: the norm layer by layer at infinite width, with a norm before or after the activation and a skip.
- ``jacobian_law``: its form at large depth: correlation length, exponent or stretched exponential.
"""

from __future__ import annotations

from leadline.theory.jacobian.flow import PartialJacobian, partial_jacobian
from leadline.theory.jacobian.law import JacobianLaw, LawKind, Phase, jacobian_law

__all__ = ["JacobianLaw", "LawKind", "PartialJacobian", "Phase", "jacobian_law", "partial_jacobian"]
