"""Hardtanh, ReLU6, hard sigmoid and swish, shrinkages, thresholds, steps, squared ReLU, monomials."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from leadline.activations.base import Activation
from leadline.activations.piecewise import PiecewisePolynomial
from leadline.activations.registry import register

__all__: list[str] = []

_ZERO, _ONE, _Z = (0.0,), (1.0,), (0.0, 1.0)


def _hardtanh(
    min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False, name: str | None = None
) -> Activation:
    low, high = float(min_val), float(max_val)
    label = name or ("hardtanh" if (low, high) == (-1.0, 1.0) else f"hardtanh({low:g},{high:g})")
    return PiecewisePolynomial(lambda z: z.clamp(low, high), (low, high), ((low,), _Z, (high,)), label)


def _relu6(inplace: bool = False) -> Activation:
    return _hardtanh(0.0, 6.0, name="relu6")


def _hardsigmoid(inplace: bool = False) -> Activation:
    middle = (0.5, 1 / 6)
    return PiecewisePolynomial(
        lambda z: (z / 6 + 0.5).clamp(0.0, 1.0), (-3.0, 3.0), (_ZERO, middle, _ONE), "hardsigmoid"
    )


def _hardswish(inplace: bool = False) -> Activation:
    middle = (0.0, 0.5, 1 / 6)
    return PiecewisePolynomial(lambda z: z * (z + 3).clamp(0.0, 6.0) / 6, (-3.0, 3.0), (_ZERO, middle, _Z), "hardswish")


def _softshrink(lambd: float = 0.5) -> Activation:
    return PiecewisePolynomial(
        lambda z: z - z.clamp(-lambd, lambd),
        (-lambd, lambd),
        ((lambd, 1.0), _ZERO, (-lambd, 1.0)),
        f"softshrink({lambd:g})",
    )


def _hardshrink(lambd: float = 0.5) -> Activation:
    return PiecewisePolynomial(
        lambda z: torch.where(z.abs() > lambd, z, 0.0),
        (-lambd, lambd),
        (_Z, _ZERO, _Z),
        f"hardshrink({lambd:g})",
    )


def _threshold(threshold: float, value: float, inplace: bool = False) -> Activation:
    at, low = float(threshold), float(value)
    return PiecewisePolynomial(lambda z: torch.where(z > at, z, low), (at,), ((low,), _Z), f"threshold({at:g},{low:g})")


def _step() -> Activation:
    return PiecewisePolynomial(lambda z: (z > 0).to(z.dtype), (0.0,), (_ZERO, _ONE), "step")


def _sign() -> Activation:
    return PiecewisePolynomial(torch.sign, (0.0,), ((-1.0,), _ONE), "sign")


def _relu_squared() -> Activation:
    return PiecewisePolynomial(lambda z: z.clamp_min(0) ** 2, (0.0,), (_ZERO, (0.0, 0.0, 1.0)), "relu_squared")


def _square(power: int = 2) -> Activation:
    name = {2: "square", 3: "cube"}[power]
    return PiecewisePolynomial(lambda z: z**power, (), ((0.0,) * power + (1.0,),), name)


def _from_module(build: Callable[..., Activation], *names: str) -> Callable[[nn.Module], Activation]:
    return lambda module: build(*(getattr(module, n) for n in names))


# ReLU6 is a subclass of Hardtanh: it comes first.
register(("relu6",), _relu6, functions=(functional.relu6,), modules={nn.ReLU6: lambda _: _relu6()})
register(
    ("hardtanh",),
    _hardtanh,
    functions=(functional.hardtanh,),
    modules={nn.Hardtanh: _from_module(_hardtanh, "min_val", "max_val")},
)
register(
    ("hardsigmoid",),
    _hardsigmoid,
    functions=(functional.hardsigmoid,),
    modules={nn.Hardsigmoid: lambda _: _hardsigmoid()},
)
register(
    ("hardswish",),
    _hardswish,
    functions=(functional.hardswish,),
    modules={nn.Hardswish: lambda _: _hardswish()},
)
register(
    ("softshrink",),
    _softshrink,
    functions=(functional.softshrink,),
    modules={nn.Softshrink: _from_module(_softshrink, "lambd")},
)
register(
    ("hardshrink",),
    _hardshrink,
    functions=(functional.hardshrink, torch.hardshrink),
    modules={nn.Hardshrink: _from_module(_hardshrink, "lambd")},
)
register(
    (),
    _threshold,
    functions=(functional.threshold,),
    template=False,
    modules={nn.Threshold: _from_module(_threshold, "threshold", "value")},
)
register(("step", "heaviside"), _step)
register(("sign",), _sign, functions=(torch.sign, torch.sgn))
register(("relu_squared", "relu2"), _relu_squared)
register(("square",), _square, functions=(torch.square, Tensor.square))
register(("cube",), lambda: _square(3))
