"""Initial weights of the contenders, each from the definition in its paper; biases zero, norms and positions as torch's."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from _hardcases_cases import HardCase
from torch import Tensor, nn

__all__ = ["CONTENDERS"]

_LAYERS = (nn.Linear, nn.Conv2d)
_TOLERANCE, _TRIES = 0.1, 10  # of LSUV, from its paper


def _each(model: nn.Module, draw: Callable[[Tensor], object]) -> nn.Module:
    for module in model.modules():
        if isinstance(module, _LAYERS):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def default(model: nn.Module, case: HardCase, x: Tensor) -> nn.Module:
    """What torch draws."""
    return model


def kaiming(model: nn.Module, case: HardCase, x: Tensor) -> nn.Module:
    """Gaussian of variance 2 over the fan-in (He et al. 2015)."""
    return _each(model, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"))


def xavier(model: nn.Module, case: HardCase, x: Tensor) -> nn.Module:
    """Uniform of variance 2 over fan-in plus fan-out (Glorot & Bengio 2010)."""
    return _each(model, nn.init.xavier_uniform_)


def orthogonal(model: nn.Module, case: HardCase, x: Tensor) -> nn.Module:
    """Orthogonal (Saxe et al. 2014), with a gain of sqrt(2) where the nonlinearity rectifies."""
    gain = math.sqrt(2) if case.rectifies else 1.0
    return _each(model, lambda w: nn.init.orthogonal_(w, gain))


def lsuv(model: nn.Module, case: HardCase, x: Tensor) -> nn.Module:
    """Orthogonal, then each layer in turn scaled until its outputs have variance one (Mishkin & Matas 2016)."""
    _each(model, nn.init.orthogonal_)

    def scale(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        weight = module.get_parameter("weight")
        for _ in range(_TRIES):
            variance = float(output.var())
            if abs(variance - 1) < _TOLERANCE or not 0 < variance < math.inf:
                break
            weight.div_(math.sqrt(variance))
            output = module.forward(*inputs)
        return output

    handles = [m.register_forward_hook(scale) for m in model.modules() if isinstance(m, _LAYERS)]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return model


CONTENDERS: dict[str, Callable[[nn.Module, HardCase, Tensor], nn.Module]] = {
    "default": default,
    "kaiming": kaiming,
    "xavier": xavier,
    "orthogonal": orthogonal,
    "lsuv": lsuv,
}
