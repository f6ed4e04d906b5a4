"""Expectations of functions of jointly Gaussian variables, each with an error estimate.

- ``expectation``: one variable, thousands of variances at once, adaptive panels.
- ``expectation2``: two functions of two correlated variables, nested panels, up to a correlation of 1.
- ``mean_product``, ``mean_product_gram``: <f(z_a) f(z_b)> over whole tensors of pairs, for many pairs; the Mehler series
  where its rigorous tail bound meets the tolerance, quadrature elsewhere.
- ``hermite_coefficients``, ``hermite_series``, ``mehler_tail_bound``: the series itself.
"""

from __future__ import annotations

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.hermite import (
    HermiteSeries,
    hermite_coefficients,
    hermite_polynomials,
    hermite_series,
    mehler_tail_bound,
)
from leadline.gaussian.one import expectation
from leadline.gaussian.product import mean_product, mean_product_gram
from leadline.gaussian.two import correlation, expectation2

__all__ = [
    "Expectation",
    "HermiteSeries",
    "correlation",
    "expectation",
    "expectation2",
    "hermite_coefficients",
    "hermite_polynomials",
    "hermite_series",
    "mean_product",
    "mean_product_gram",
    "mehler_tail_bound",
]
