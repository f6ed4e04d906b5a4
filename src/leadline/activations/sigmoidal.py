"""Smooth activations without a closed dual: tanh, sigmoid, SiLU, softplus, Mish, arctan and relatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from leadline.activations.base import Activation
from leadline.activations.registry import register

__all__: list[str] = []


def _tanh_slope(z: Tensor) -> Tensor:
    return torch.cosh(z.clamp(-300, 300)) ** -2


def _sigmoid_slope(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * torch.sigmoid(-z)


def _tanh() -> Activation:
    return Activation(torch.tanh, name="tanh", derivative=_tanh_slope)


def _sigmoid() -> Activation:
    return Activation(torch.sigmoid, name="sigmoid", derivative=_sigmoid_slope)


def _log_sigmoid() -> Activation:
    return Activation(functional.logsigmoid, name="logsigmoid", derivative=lambda z: torch.sigmoid(-z))


def _swish(beta: float = 1.0) -> Activation:
    def slope(z: Tensor) -> Tensor:
        return torch.sigmoid(beta * z) + beta * z * _sigmoid_slope(beta * z)

    name = "silu" if beta == 1 else f"swish({beta:g})"
    return Activation(lambda z: z * torch.sigmoid(beta * z), name=name, derivative=slope)


def _silu(inplace: bool = False) -> Activation:
    return _swish()


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Activation:
    name = "softplus" if beta == 1 else f"softplus({beta:g})"

    def native(z: Tensor) -> Tensor:
        return functional.softplus(z, beta, threshold)

    if math.exp(-threshold) < 1e-8:
        # Torch returns z itself beyond the threshold, a step below 1e-8/beta that theory does without.
        return Activation(
            lambda z: torch.logaddexp(beta * z, torch.zeros_like(z)) / beta,
            name=name,
            derivative=lambda z: torch.sigmoid(beta * z),
            spelling=native,
        )
    return Activation(
        native,
        name=name,
        jumps=(threshold / beta,),
        derivative=lambda z: torch.where(beta * z > threshold, 1.0, torch.sigmoid(beta * z)),
    )


def _mish(inplace: bool = False) -> Activation:
    def slope(z: Tensor) -> Tensor:
        t = torch.tanh(functional.softplus(z))
        return t + z * (1 - t * t) * torch.sigmoid(z)

    return Activation(functional.mish, name="mish", derivative=slope)


def _tanhshrink() -> Activation:
    return Activation(functional.tanhshrink, name="tanhshrink", derivative=lambda z: torch.tanh(z) ** 2)


def _arctan() -> Activation:
    return Activation(torch.atan, name="arctan", derivative=lambda z: 1 / (1 + z * z))


def _softsign() -> Activation:
    return Activation(functional.softsign, name="softsign", kinks=(0.0,), derivative=lambda z: (1 + z.abs()) ** -2)


register(
    ("tanh",),
    _tanh,
    modules={nn.Tanh: lambda _: _tanh()},
    functions=(torch.tanh, functional.tanh, Tensor.tanh),
)
register(("sigmoid",), _sigmoid, modules={nn.Sigmoid: lambda _: _sigmoid()},
         functions=(torch.sigmoid, functional.sigmoid, torch.special.expit, Tensor.sigmoid))  # fmt: skip
register(("logsigmoid", "log_sigmoid"), _log_sigmoid, modules={nn.LogSigmoid: lambda _: _log_sigmoid()},
         functions=(functional.logsigmoid,))  # fmt: skip
register(("silu", "swish"), _silu, modules={nn.SiLU: lambda _: _silu()}, functions=(functional.silu,))
register(("quick_gelu",), lambda: _swish(1.702))
register(("softplus",), _softplus, modules={nn.Softplus: lambda m: _softplus(m.beta, m.threshold)},
         functions=(functional.softplus,))  # fmt: skip
register(("mish",), _mish, modules={nn.Mish: lambda _: _mish()}, functions=(functional.mish,))
register(("tanhshrink",), _tanhshrink, modules={nn.Tanhshrink: lambda _: _tanhshrink()},
         functions=(functional.tanhshrink,))  # fmt: skip
register(("arctan", "atan"), _arctan, functions=(torch.atan, torch.arctan))
register(("softsign",), _softsign, modules={nn.Softsign: lambda _: _softsign()}, functions=(functional.softsign,))
