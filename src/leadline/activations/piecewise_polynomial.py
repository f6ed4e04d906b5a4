"""Hardtanh, ReLU6, hard sigmoid, hard swish, soft and hard shrinkage, thresholds and steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from leadline.activations.base import Activation
from leadline.activations.registry import register

__all__: list[str] = []


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False, name: str | None = None) -> Activation:
    low, high = float(min_val), float(max_val)
    label = name or ("hardtanh" if (low, high) == (-1.0, 1.0) else f"hardtanh({low:g},{high:g})")
    return Activation(
        lambda z: z.clamp(low, high), name=label, kinks=(low, high),
        derivative=lambda z: ((z > low) & (z < high)).to(z.dtype),
    )  # fmt: skip


def _relu6(inplace: bool = False) -> Activation:
    return _hardtanh(0.0, 6.0, name="relu6")


def _hardsigmoid(inplace: bool = False) -> Activation:
    return Activation(
        lambda z: (z / 6 + 0.5).clamp(0.0, 1.0), name="hardsigmoid", kinks=(-3.0, 3.0),
        derivative=lambda z: (z.abs() < 3).to(z.dtype) / 6,
    )  # fmt: skip


def _hardswish(inplace: bool = False) -> Activation:
    return Activation(
        lambda z: z * (z + 3).clamp(0.0, 6.0) / 6, name="hardswish", kinks=(-3.0, 3.0),
        derivative=lambda z: torch.where(z.abs() < 3, z / 3 + 0.5, (z >= 3).to(z.dtype)),
    )  # fmt: skip


def _softshrink(lambd: float = 0.5) -> Activation:
    return Activation(
        lambda z: z - z.clamp(-lambd, lambd), name=f"softshrink({lambd:g})", kinks=(-lambd, lambd),
        derivative=lambda z: (z.abs() > lambd).to(z.dtype),
    )  # fmt: skip


def _hardshrink(lambd: float = 0.5) -> Activation:
    return Activation(
        lambda z: torch.where(z.abs() > lambd, z, 0.0), name=f"hardshrink({lambd:g})", jumps=(-lambd, lambd),
        derivative=lambda z: (z.abs() > lambd).to(z.dtype),
    )  # fmt: skip


def _threshold(threshold: float, value: float, inplace: bool = False) -> Activation:
    at, low = float(threshold), float(value)
    kink = {"kinks": (at,)} if at == low else {"jumps": (at,)}
    return Activation(
        lambda z: torch.where(z > at, z, low), name=f"threshold({at:g},{low:g})",
        derivative=lambda z: (z > at).to(z.dtype), **kink,
    )  # type: ignore[arg-type]  # fmt: skip


def _step() -> Activation:
    return Activation(lambda z: (z > 0).to(z.dtype), name="step", jumps=(0.0,), derivative=torch.zeros_like)


def _sign() -> Activation:
    return Activation(torch.sign, name="sign", jumps=(0.0,), derivative=torch.zeros_like)


def _from_module(build: Callable[..., Activation], *names: str) -> Callable[[nn.Module], Activation]:
    return lambda module: build(*(getattr(module, n) for n in names))


register(("hardtanh",), _hardtanh, functions=(functional.hardtanh,),
         modules={nn.ReLU6: lambda _: _relu6(), nn.Hardtanh: _from_module(_hardtanh, "min_val", "max_val")})  # fmt: skip
register(("relu6",), _relu6, functions=(functional.relu6,))
register(("hardsigmoid",), _hardsigmoid, functions=(functional.hardsigmoid,),
         modules={nn.Hardsigmoid: lambda _: _hardsigmoid()})  # fmt: skip
register(("hardswish",), _hardswish, functions=(functional.hardswish,),
         modules={nn.Hardswish: lambda _: _hardswish()})  # fmt: skip
register(("softshrink",), _softshrink, functions=(functional.softshrink,),
         modules={nn.Softshrink: _from_module(_softshrink, "lambd")})  # fmt: skip
register(("hardshrink",), _hardshrink, functions=(functional.hardshrink,),
         modules={nn.Hardshrink: _from_module(_hardshrink, "lambd")})  # fmt: skip
register((), _threshold, functions=(functional.threshold,), template=False,
         modules={nn.Threshold: _from_module(_threshold, "threshold", "value")})  # fmt: skip
register(("step", "heaviside"), _step)
register(("sign",), _sign, functions=(torch.sign, torch.sgn))
