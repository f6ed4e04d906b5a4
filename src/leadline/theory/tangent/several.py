"""Several inputs: the tangent kernel's mean, fluctuations and differentials between them, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.flow import Layers
from leadline.theory.flow.joint import SKEW, checked_gram
from leadline.theory.flow.replicas import Replicas
from leadline.theory.tangent.kinked import KinkedProducts
from leadline.theory.tangent.moments import slope_activation
from leadline.theory.tangent.products import MOST_INPUTS, MeanProducts, Products
from leadline.theory.tangent.several_differentials import differentials, second_differentials
from leadline.theory.tangent.several_fluctuations import corrections, fluctuations, vertex
from leadline.theory.tangent.several_state import SecondDifferentials, State, Step

__all__ = ["TangentTensors", "tangent_tensors"]


_FIRST = tuple(f.name for f in fields(State) if f.name != "second")


@dataclass(frozen=True)
class TangentTensors(State):
    r"""Tensors of every layer between m inputs: those of a ``State`` with an axis of layers in front.

    Args:
        layers: what they were computed for.
        error: smooth activations: largest relative error of <s'''^2> on the nodes, over layers and inputs, against
            adaptive quadrature; that of the tensors is no larger, but for H1, which reads fifth derivatives (up to some
            ten times that). With kinks: largest estimated error of the mean products, relative to the largest of a kind.
    """

    layers: Layers
    error: float

    @property
    def fan_in(self) -> int:
        """N of the last layer: what its coefficients are divided by."""
        return self.layers.fan_in[-1]

    @property
    def last(self) -> State:
        """The tensors of the last layer."""
        kept = {name: getattr(self, name)[-1] for name in _FIRST}
        second = None if self.second is None else SecondDifferentials(*(t[-1] for t in self.second))
        return State(**kept, second=second)


@checked()
@torch.no_grad()
def tangent_tensors(layers: Layers, gram: Tensor) -> TangentTensors:
    r"""Mean, fluctuations and differentials of the tangent kernel between several inputs, at every layer.

    .. math:: \Theta'_{ab} = \lambda_b' + \lambda_W'\langle s_as_b\rangle_K + C_W'\langle s'_as'_b\rangle_K\,
        \Theta_{ab}

    Mean products of up to four points of a smooth activation are taken on one set of Gauss-Hermite product nodes a
    layer, at most 300 000 of them, most along the directions of largest variance; those of an activation with kinks by
    closed forms, series and quadrature (:class:`KinkedProducts`), point masses of s'' included, without R, S, T, U.
    ``error`` says what that costs.

    Args:
        layers: widths, continuous activation, variances and learning rates.
        gram: x_a · x_b / n_0 of 1 to 5 inputs, shape (m, m); equal inputs are allowed.

    Returns:
        The tensors of every layer, float64.

    Raises:
        ValueError: the Gram matrix is not square, symmetric and positive semi-definite, or too large; the activation
            jumps; it has a kink and two different inputs are parallel, or one is 0; a layer after the first has C_W = 0.

    Source: the recursions of Roberts, Yaida and Hanin (2022), chapters 4, 8, 9, 11, with sample indices.

    >>> gram = torch.tensor([[1.0, 0.4], [0.4, 0.6]])
    >>> tangent_tensors(Layers.of("tanh", depth=3, C_W=1.5), gram).A.shape
    torch.Size([3, 2, 2, 2, 2])
    """
    gram = _checked(layers, gram)
    if not layers.activation.kinks:
        states, error = _states(layers, gram)
        return TangentTensors(**_stacked(states), layers=layers, error=error)
    replicas = Replicas.of(layers.first_kernel(gram), scalable=False)
    states, error = _states(layers, replicas.reduce(gram))
    found = {name: _copied(t, replicas.source) for name, t in _stacked(states).items() if t is not None}
    return TangentTensors(**found, second=None, layers=layers, error=error)


def _states(layers: Layers, gram: Tensor) -> tuple[list[State], float]:
    """The tensors layer by layer, and the error of the mean products that they are made of."""
    act = layers.activation
    smooth = not act.kinks
    theta = layers.lambda_b[0] + layers.lambda_W[0] * gram
    now = State.first(layers.first_kernel(gram), theta, second=smooth)
    states, error = [now], 0.0
    for i in range(layers.depth - 1):
        mean: MeanProducts = Products(act, now.K) if smooth else KinkedProducts(act, now.K)
        step = Step(layers.ratios[i], layers.C_W[i + 1], layers.lambda_W[i + 1] / layers.C_W[i + 1], mean)
        ss, dd = act.gram(now.K), act.gram_derivative(now.K)
        V = vertex(step, now)
        around = fluctuations(step, now, V)
        first = differentials(step, now, around.F)
        second = second_differentials(step, now, around, first) if smooth else None
        error = max(error, mean.error)
        G1, H1 = corrections(step, now)
        K = layers.C_b[i + 1] + step.c * ss
        theta = layers.lambda_b[i + 1] + layers.lambda_W[i + 1] * ss + step.c * dd * now.Theta
        now = State(K, theta, G1, H1, V, *around, *first, second)
        states.append(now)
    return states, error


def _stacked(states: list[State]) -> dict[str, Any]:
    """The fields of all layers."""
    out: dict[str, Any] = {name: torch.stack([getattr(s, name) for s in states]) for name in _FIRST}
    if states[0].second is None:
        return out | {"second": None}
    return out | {"second": SecondDifferentials(*(torch.stack(t) for t in zip(*(s.bent for s in states))))}


def _copied(tensor: Tensor, source: Tensor) -> Tensor:
    """A tensor of all inputs from that of the different ones."""
    for axis in range(1, tensor.ndim):
        tensor = tensor.index_select(axis, source)
    return tensor


def _checked(layers: Layers, gram: Tensor) -> Tensor:
    shape = tuple(gram.shape)
    if gram.ndim != 2 or shape[0] != shape[1] or not 1 <= shape[0] <= MOST_INPUTS:
        raise ValueError(f"got a Gram matrix of shape {shape}: give (m, m) with m from 1 to {MOST_INPUTS}.")
    given = gram.detach().to(torch.float64)
    checked_gram(given)
    if float(torch.linalg.eigvalsh(given)[0]) < -SKEW * float(given.abs().max()):
        raise ValueError("got a Gram matrix with a negative eigenvalue: give x @ x.T / n_0.")
    slope_activation(layers.activation)
    if any(c <= 0 for c in layers.C_W[1:]):
        raise ValueError(f"got C_W = {layers.C_W[:6]}: after the first layer each must be positive, or nothing passes.")
    return (given + given.T) / 2
