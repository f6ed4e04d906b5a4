"""A vector times the Hessian or the Gauss-Newton matrix of a loss, from a graph that is built once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.measure.curvature.objective import Objective
from leadline.measure.losses import training_loss
from leadline.program.errors import UserError

__all__ = ["Product", "gauss_newton_product", "hessian_product"]


class Product:
    """A symmetric matrix that is known by what it does to a vector.

    ``gradient``: of the loss, shape (P,). ``value``: of the loss. ``count``: products taken so far.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor], gradient: Tensor, value: float) -> None:
        self._apply, self.gradient, self.value, self.count = apply, gradient, value, 0

    def __call__(self, vector: Tensor) -> Tensor:
        """The matrix times a vector of shape (P,)."""
        self.count += 1
        return self._apply(vector)


def hessian_product(objective: Objective) -> Product:
    r"""Products with the Hessian of the loss at the module's weights.

    .. math:: H v = \nabla_\theta\,(g(\theta)\cdot v)

    The graph of the gradient is kept, so that a product is one backward pass through it.

    Args:
        objective: the loss.

    Returns:
        The product.

    Raises:
        UserError: a part of the module has no second derivative.
    """
    leaves = list(objective.leaves().values())
    with objective.fixed():
        value = objective.value(dict(zip(objective.names, leaves, strict=True)))
        slopes = _gradient(value, leaves, create_graph=True)
    _refuse_first_order(slopes)
    rising = [(i, s) for i, s in enumerate(slopes) if s is not None and s.requires_grad]

    def apply(vector: Tensor) -> Tensor:
        pieces = objective.split(vector)
        if not rising:  # the loss is linear in its weights
            return torch.zeros_like(vector)
        with objective.fixed():
            found = _gradient([s for _, s in rising], leaves, [pieces[i] for i, _ in rising], retain_graph=True)
        return objective.flatten(found).detach()

    gradient = objective.flatten([None if s is None else s.detach() for s in slopes])
    return Product(apply, gradient, float(value.detach()))


def gauss_newton_product(objective: Objective) -> Product:
    r"""Products with the generalized Gauss-Newton matrix of the loss at the module's weights.

    .. math:: G v = J^T \left[\nabla^2_z \ell\right] J v, \qquad J = \partial z/\partial\theta

    z is the output; what is left out of the Hessian is the curvature of z itself. For a linear model G = H; for the
    squared error its eigenvalues other than 0 are those of the tangent kernel of the batch (times 2 over the number
    of output entries, as torch's mean has it). Cost of a product: three backward passes through stored graphs.

    Args:
        objective: the loss.

    Returns:
        The product.

    Raises:
        UserError: a part of the module has no second derivative.
    """
    leaves = list(objective.leaves().values())
    with objective.fixed():
        output = objective.output(dict(zip(objective.names, leaves, strict=True)))
        point = output.detach().requires_grad_()
        value = training_loss(objective.loss, point, objective.targets)
        (slope,) = torch.autograd.grad(value, point, create_graph=True)
        # J^T u is linear in u, so differentiating it by u gives J v from the same graph
        dual = torch.zeros_like(output, requires_grad=True)
        pulled = _gradient(output, leaves, dual, create_graph=True)
    _refuse_first_order(pulled)
    reached = [(i, p) for i, p in enumerate(pulled) if p is not None and p.requires_grad]
    gradient = objective.flatten(_gradient(output, leaves, slope.detach(), retain_graph=True)).detach()

    def apply(vector: Tensor) -> Tensor:
        pieces = objective.split(vector)
        with objective.fixed():
            (pushed,) = torch.autograd.grad(
                [p for _, p in reached], dual, [pieces[i] for i, _ in reached], retain_graph=True
            )
            bent = torch.zeros_like(pushed)
            if slope.requires_grad:  # else the loss is linear in the output
                (bent,) = torch.autograd.grad(slope, point, pushed, retain_graph=True)
            return objective.flatten(_gradient(output, leaves, bent, retain_graph=True)).detach()

    return Product(apply, gradient, float(value.detach()))


def _refuse_first_order(slopes: Sequence[Tensor | None]) -> None:
    """Functions that can be differentiated once leave a node in the graph that torch passes over without a word."""
    waiting = [s.grad_fn for s in slopes if s is not None and s.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() == "torch::autograd::Error":
            raise UserError(
                "a part of the model has no second derivative (its backward is marked once_differentiable, as fused kernels "
                "are), so the curvature would be wrong without a sign of it: use that part's plain implementation."
            )
        fresh = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= fresh
        waiting.extend(fresh)


def _gradient(
    values: Tensor | Sequence[Tensor],
    leaves: Sequence[Tensor],
    weights: Tensor | Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad`` that gives None for weights that the values do not depend on."""
    return torch.autograd.grad(
        values, leaves, weights, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True
    )
