"""The large first step of the integrable parametrization, which starts where gradient descent stands still."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leadline.measure.losses import TrainingLoss, first_output, training_loss
from leadline.program import UserError, batch_from
from leadline.program.errors import plain
from leadline.tune.recipe_apply import unwrap

__all__ = ["first_step"]

_OUTPUT_SIZE = 0.1


def first_step(
    model: nn.Module,
    x: Any,
    *,
    targets: Tensor,
    loss: TrainingLoss = "cross_entropy",
    size: float = 1.0,
    output_size: float = _OUTPUT_SIZE,
) -> dict[str, float]:
    r"""Take one step of gradient descent with a rate of its own in each layer, so that every layer's values become of order one.

    .. math:: W_l \leftarrow W_l - \eta_l \nabla_{W_l}, \qquad \mathrm{rms}(\eta_l \nabla_{W_l} x_l) = \text{size}

    Layer by layer, in the order in which they run: what a layer reads has passed through those before it with their new
    weights, all gradients are those of the start. What the drawn weights give out comes on top, and is small. In the wide
    limit, for ReLU, the rates go as the width to the (L+1)/2, (L+2)/2, …, (L+1)/2 for L hidden layers and weights with
    multipliers; where the nonlinearity is odd near zero (tanh) or straight (GELU), what a layer read at the start has no
    mean in common with what it reads now, and the layers from the third on need half a power more. Biases and gains stay.

    Args:
        model: a network of layers that each run once; it is changed in place.
        x: a batch, as for :func:`leadline.check`.
        targets: of the batch.
        loss: "cross_entropy", "mse" or a function of (output, targets).
        size: root mean square of what the step adds to each layer's values.
        output_size: of the last layer's.

    Returns:
        The rate of each matrix by qualified name, in the order in which they run.

    Raises:
        UserError: a size that is not positive, a layer that runs more than once, or one whose gradient vanishes.

    Source: Hajjar, Chizat & Giraud (2021), Training integrable parameterizations, sections 4 and 6 (the calibration).
    """
    if not (size > 0 and output_size > 0 and math.isfinite(size * output_size)):
        raise UserError(
            f"got size={size} and output_size={output_size}, expected positive numbers: values have that size."
        )
    inner = unwrap(model)
    args, kwargs = batch_from(x)[:2]
    layers = _layers(inner, args, kwargs)
    weights = {n: p for m in layers for n, p in _matrices(inner, m).items()}
    value = training_loss(loss, first_output(inner(*args, **kwargs)), targets)
    gradients = dict(zip(weights, torch.autograd.grad(value, list(weights.values()))))
    rates: dict[str, float] = {}
    for index, layer in enumerate(layers):
        wanted = output_size if index == len(layers) - 1 else size
        for name, weight in _matrices(inner, layer).items():
            rates[name] = _calibrated(inner, layer, name, weight, gradients[name], wanted, args, kwargs)
    return rates


@torch.no_grad()
def _calibrated(
    model: nn.Module, layer: str, name: str, weight: nn.Parameter, gradient: Tensor, wanted: float,
    args: tuple[Any, ...], kwargs: Mapping[str, Any],
) -> float:  # fmt: skip
    """Move one weight so far that its layer's values change by the wanted size; the rate that this takes."""
    start = _run(model, layer, args, kwargs)
    scale = float(weight.square().mean().sqrt()) / max(float(gradient.double().square().mean().sqrt()), 1e-300)
    if not (math.isfinite(scale) and scale > 0):
        raise UserError(
            f"the gradient of '{plain(name)}' vanishes, expected one that does not: its units may be dead at the start."
        )
    before = weight.detach().clone()
    weight.sub_((scale * gradient.double()).to(weight.dtype))
    change = float((_run(model, layer, args, kwargs) - start).square().mean().sqrt())
    weight.copy_(before)
    if not (math.isfinite(change) and change > 0):
        raise UserError(
            f"the step of '{plain(name)}' does not change what its layer gives out, expected a change: its inputs may be zero."
        )
    rate = scale * wanted / change
    weight.sub_((rate * gradient.double()).to(weight.dtype))
    return rate


def _layers(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """Modules with a matrix of their own, in the order in which they run."""
    ran: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if any(p.dim() > 1 for p in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(_noting(ran, name)))
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    twice = next((n for n in ran if ran.count(n) > 1), None)
    if twice is not None or not ran:
        what = f"the layer '{plain(twice)}' runs more than once" if twice else "no layer has a matrix"
        raise UserError(f"{what}, expected layers that each run once: the first step is for plain networks.")
    return ran


def _noting(ran: list[str], name: str) -> Callable[..., None]:
    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        ran.append(name)

    return note


def _matrices(model: nn.Module, layer: str) -> dict[str, nn.Parameter]:
    owned = model.get_submodule(layer).named_parameters(recurse=False)
    return {f"{layer}.{n}" if layer else n: p for n, p in owned if p.dim() > 1}


def _run(model: nn.Module, layer: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a layer gives out."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(first_output(output).double())

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        model(*args, **kwargs)
    finally:
        handle.remove()
    return found[0]
