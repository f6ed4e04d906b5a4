"""Expectations of functions of jointly Gaussian variables, each with an error estimate.

- ``expectation``: one variable, thousands of variances at once, adaptive panels.
- ``expectation2``: two functions of two correlated variables, nested panels, up to a correlation of 1.
- ``joint_expectation``: functions of three, four or more variables, lattices first and quasi-Monte Carlo after.
- ``half_space_expectation``, ``exponential_expectation``, ``bump_expectation``, ``orthant_probability``: up to four
  variables in closed form (but for one integral over [0, 1]): ReLU, step, erf, GELU, monomials, sine, exp, exp(-z^2).
- ``mean_product``, ``mean_product_gram``: <f(z_a) f(z_b)> over whole tensors of pairs, for many pairs; the Mehler series
  where its rigorous tail bound meets the tolerance, quadrature elsewhere. ``mean_cross_product``: of two functions.
- ``hermite_coefficients``, ``hermite_series``, ``mehler_tail_bound``: the series itself.
"""

from __future__ import annotations

from leadline.gaussian.adaptive import Expectation
from leadline.gaussian.cross import mean_cross_product
from leadline.gaussian.generating import bump_expectation, exponential_expectation
from leadline.gaussian.half_space import HalfSpaceTerm, half_space_expectation
from leadline.gaussian.hermite import (
    HermiteSeries,
    hermite_coefficients,
    hermite_polynomials,
    hermite_series,
    mehler_tail_bound,
)
from leadline.gaussian.joint import joint_expectation
from leadline.gaussian.one import expectation
from leadline.gaussian.orthant_many import orthant_probability
from leadline.gaussian.product import mean_product, mean_product_gram
from leadline.gaussian.two import correlation, expectation2

__all__ = [
    "Expectation",
    "HalfSpaceTerm",
    "HermiteSeries",
    "bump_expectation",
    "correlation",
    "expectation",
    "expectation2",
    "exponential_expectation",
    "half_space_expectation",
    "hermite_coefficients",
    "hermite_polynomials",
    "hermite_series",
    "joint_expectation",
    "mean_cross_product",
    "mean_product",
    "mean_product_gram",
    "mehler_tail_bound",
    "orthant_probability",
]
