"""Curvature of a module's loss on one batch, without ever forming a matrix.

:func:`top_curvature` gives the largest eigenvalue of the Hessian or of the generalized Gauss-Newton matrix with the
residual that it was found to. :class:`Objective` is the loss as a function of the weights, :func:`hessian_product`
and :func:`gauss_newton_product` multiply a vector by the matrix, :func:`largest_eigenvalue` works for any symmetric
product.
"""

from __future__ import annotations

from leadline.measure.curvature.lanczos import Eigenvalue, largest_eigenvalue
from leadline.measure.curvature.objective import Objective
from leadline.measure.curvature.products import Product, gauss_newton_product, hessian_product
from leadline.measure.curvature.top import Curvature, top_curvature
from leadline.measure.losses import TrainingLoss, training_loss

__all__ = [
    "Curvature",
    "Eigenvalue",
    "Objective",
    "Product",
    "TrainingLoss",
    "gauss_newton_product",
    "hessian_product",
    "largest_eigenvalue",
    "top_curvature",
    "training_loss",
]
