"""Singular values of the input-output Jacobian at infinite width, by free probability.

- ``jacobian_spectrum``: moments, variance, edge, atoms and full density for Gaussian or orthogonal weights.
- ``isometry``: where on its critical line an activation keeps all singular values near 1, or why it cannot.
- ``spectrum_picture``: the density beside measured singular values.
"""

from __future__ import annotations

from leadline.theory.spectra.isometry import Isometry, isometry
from leadline.theory.spectra.picture import spectrum_picture
from leadline.theory.spectra.series import free_product_moments
from leadline.theory.spectra.slopes import SlopeLaw, slope_law
from leadline.theory.spectra.spectrum import JacobianSpectrum, jacobian_spectrum

__all__ = [
    "Isometry",
    "JacobianSpectrum",
    "SlopeLaw",
    "free_product_moments",
    "isometry",
    "jacobian_spectrum",
    "slope_law",
    "spectrum_picture",
]
