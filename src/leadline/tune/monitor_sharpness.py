"""The largest curvature of a loss along training, each search begun where the last one ended."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from leadline.measure.curvature import Eigenvalue, Objective, hessian_product, largest_eigenvalue

__all__ = ["foreseen_seconds", "sharpness"]

_FRESH = 0.1  # share of gradient and of noise in a start, without which a direction that has overtaken is not found


def sharpness(
    objective: Objective, scale: Tensor | None, before: Tensor | None, *, tolerance: float, products: int
) -> tuple[Eigenvalue, float]:
    r"""Largest eigenvalue of :math:`S H S`, H the Hessian of the loss.

    Args:
        objective: the loss.
        scale: diagonal of S, shape (P,); None: one.
        before: vector of the search before, shape (P,); None at the first.
        tolerance: on the residual, as a share of the value.
        products: the most matrix-vector products.

    Returns:
        The eigenvalue with its vector (where the search's basis fits into memory), and the loss.
    """
    product = hessian_product(objective)
    S = torch.ones(()).to(product.gradient) if scale is None else scale
    generator = torch.Generator().manual_seed(objective.seed)
    noise = torch.randn(product.gradient.numel(), generator=generator).to(product.gradient)
    start = _unit(noise) + _unit(S * product.gradient)
    if before is not None and before.shape == noise.shape:
        start = _unit(before.to(noise)) + _FRESH * start
    found = largest_eigenvalue(
        lambda v: S * product(S * v), start, tolerance=tolerance, products=products, keep_vector=True
    )
    return found, product.value


def foreseen_seconds(objective: Objective, products: int, clock: Callable[[], float]) -> float:
    """The most that a search would take, from its graph and one product.

    Args:
        objective: the loss.
        products: the most matrix-vector products.
        clock: gives seconds.

    Returns:
        Seconds.
    """
    start = clock()
    product = hessian_product(objective)
    built = clock()
    float(product(_unit(product.gradient)).norm())  # a number, so that the device has finished
    return built - start + products * (clock() - built)


def _unit(vector: Tensor) -> Tensor:
    length = vector.norm()
    return vector / length if 0 < float(length) < float("inf") else torch.zeros_like(vector)
