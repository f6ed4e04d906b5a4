"""The largest curvature of a module's loss on one batch, with its residual and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leadline.measure.curvature.lanczos import Eigenvalue, largest_eigenvalue
from leadline.measure.curvature.objective import Objective
from leadline.measure.curvature.products import Product, gauss_newton_product, hessian_product
from leadline.measure.losses import TrainingLoss
from leadline.program.errors import UserError, plain

__all__ = ["Curvature", "Kind", "curvature_of", "top_curvature"]

Kind = Literal["hessian", "ggn"]


@dataclass(frozen=True)
class Curvature:
    """The largest eigenvalue of a matrix of second derivatives.

    ``value``: per unit of weight squared, in units of the loss. ``residual``: an eigenvalue lies within it of the value.
    ``lowest``: the smallest Ritz value on the way, not converged; negative where the loss curves down. ``products``:
    matrix-vector products taken. ``converged``: whether the residual is within the tolerance. ``loss`` and
    ``gradient_square``: of the batch at these weights.
    """

    kind: str
    value: float
    residual: float
    lowest: float
    products: int
    converged: bool
    loss: float
    gradient_square: float


def top_curvature(
    model: nn.Module,
    batch: Any,
    loss: TrainingLoss = "cross_entropy",
    targets: Tensor | None = None,
    *,
    kind: Kind = "hessian",
    tolerance: float = 0.01,
    products: int = 30,
    seed: int = 0,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Curvature:
    r"""Largest eigenvalue of the Hessian or the Gauss-Newton matrix of a module's loss on one batch.

    .. math:: \lambda = \max_{|v|=1} v^T A v, \qquad A = \nabla^2_\theta \mathcal L \ \text{or}\ J^T(\nabla^2_z\ell)J

    The module is left as it is, in every byte. The loss's own normalisation counts (a mean: over samples, for "mse"
    over entries too). Batch norm in train mode couples the samples, and its derivative is taken as it stands.

    Args:
        model: any module; weights that ask for no gradient are constants.
        batch: what it is called with: tensor, tuple, dict, loader; None with ``args`` and ``kwargs``.
        loss: "cross_entropy", "mse" or a function of (output, targets).
        targets: of the batch.
        kind: "hessian" or "ggn".
        tolerance: on the residual, as a share of the value.
        products: the most matrix-vector products (each two to four forward and backward passes).
        seed: of the start vector and of dropout.
        args: positional call arguments, where ``batch`` is None.
        kwargs: keyword call arguments, where ``batch`` is None.

    Returns:
        Value, residual and cost; ``converged`` is False where the products ran out.

    Raises:
        UserError: the batch, the loss or the weights cannot be used.

    Example:
        >>> model = nn.Linear(2, 1, bias=False).double()
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
        >>> round(top_curvature(model, x, "mse", torch.zeros(2, 1)).value, 6)  # 2/2 times the largest of x^T x
        9.0
    """
    return curvature_of(
        Objective(model, batch, loss, targets, args=args, kwargs=kwargs, seed=seed),
        kind=kind, tolerance=tolerance, products=products,
    )[0]  # fmt: skip


def curvature_of(
    objective: Objective,
    *,
    kind: Kind = "hessian",
    tolerance: float = 0.01,
    products: int = 30,
    scale: Tensor | None = None,
    product: Product | None = None,
) -> tuple[Curvature, Product]:
    r"""The same for an objective, optionally of the matrix :math:`S A S`.

    Args:
        objective: the loss.
        kind: "hessian" or "ggn".
        tolerance: on the residual, as a share of the value.
        products: the most matrix-vector products.
        scale: diagonal of S, shape (P,): the inverse root of a diagonal preconditioner.
        product: one that was made before, to spare its graph.

    Returns:
        The curvature, and the product it was found with.

    Raises:
        UserError: no such kind, or the loss overflows.
    """
    makers = {"hessian": hessian_product, "ggn": gauss_newton_product}
    if kind not in makers:
        raise UserError(f"there is no curvature '{plain(kind)}', expected hessian or ggn: name one of these.")
    product = makers[kind](objective) if product is None else product
    found = _search(product, objective, scale, tolerance, products)
    return (
        Curvature(
            kind, found.value, found.residual, found.lowest, found.products, found.converged, product.value,
            float(product.gradient.square().sum()),
        ),
        product,
    )  # fmt: skip


def _search(
    product: Product, objective: Objective, scale: Tensor | None, tolerance: float, products: int
) -> Eigenvalue:
    gradient = product.gradient if scale is None else scale * product.gradient
    generator = torch.Generator().manual_seed(objective.seed)
    noise = torch.randn(gradient.numel(), generator=generator, dtype=torch.float64).to(gradient)
    length = float(gradient.norm())
    # the gradient has a large share in the top vector; the noise has some share in every other one
    start = gradient / length + noise / noise.norm() if 0 < length < float("inf") else noise

    def scaled(vector: Tensor) -> Tensor:
        return product(vector) if scale is None else scale * product(scale * vector)

    try:
        return largest_eigenvalue(scaled, start, tolerance=tolerance, products=products)
    except ValueError as error:
        raise UserError(f"the curvature of this loss cannot be measured: {error}") from error
