"""Contenders that are other packages, each in an environment of its own; none is there unless its package is installed.

python -m venv /tmp/dks && /tmp/dks/bin/pip install dks absl-py scikit-learn leadline
/tmp/dks/bin/python benchmarks/hardcases.py -o results.jsonl --method dks

muP has no entry: at its base width its weights and rates are torch's own, and a hard case has one width.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from _hardcases_cases import HardCase
from torch import Tensor, nn

__all__ = ["OTHERS", "applies"]

# DKS for smooth nonlinearities; for ReLU its authors' own advice, TAT with a leaky ReLU in its place
_NAMES: dict[type[nn.Module], str] = {
    nn.Tanh: "tanh",
    nn.GELU: "gelu_exact",
    nn.SiLU: "swish",
    nn.ReLU: "leaky_relu",
}


class _Wrapped(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _nonlinearity(model: nn.Module) -> type[nn.Module] | None:
    """The one nonlinearity of a plain chain that the package knows."""
    found = {type(m) for m in model if type(m) in _NAMES} if isinstance(model, nn.Sequential) else set()
    norms = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    return found.pop() if len(found) == 1 and not norms and _plain(model) else None


def _plain(model: nn.Module) -> bool:
    return all(not list(child.children()) for child in model.children())


def applies(case: HardCase, method: str) -> bool:
    """Whether a contender has anything to say of a case: DKS has of plain chains of nonlinearities that it knows."""
    return method != "dks" or _nonlinearity(case.build()) is not None


def dks(model: nn.Module, case: HardCase, x: Tensor) -> nn.Module:
    """Deep Kernel Shaping (Martens et al. 2021), for ReLU tailored activations (Zhang et al. 2022), at their defaults."""
    transform: Any = importlib.import_module("dks.base.activation_transform")
    kind = _nonlinearity(model)
    if kind is None or not isinstance(model, nn.Sequential):
        raise ValueError(f"{case.id} is no plain chain of a nonlinearity that dks knows: leave it out.")
    name = _NAMES[kind]
    depth = sum(isinstance(m, kind) for m in model)

    def chain(x: float, map_once: Callable[[float], float]) -> float:
        for _ in range(depth):
            x = map_once(x)
        return x

    function = transform.get_transformed_activations(
        [name],
        method="TAT" if kind is nn.ReLU else "DKS",
        max_slope_func=lambda slope: slope**depth,
        subnet_max_func=chain,
        activation_getter=lambda _: nn.functional.leaky_relu if kind is nn.ReLU else kind(),
    )[name]
    for number, module in enumerate(model):
        if isinstance(module, kind):
            model[number] = _Wrapped(function)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            _scaled_orthogonal(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


@torch.no_grad()
def _scaled_orthogonal(weight: Tensor) -> None:
    """Orthogonal times max(sqrt(out/in), 1), for convolutions in the middle of the kernel.

    The package's own has in and out exchanged for torch's layout.
    """
    out, into = weight.shape[:2]
    matrix = nn.init.orthogonal_(weight.new_empty(out, into), max((out / into) ** 0.5, 1.0))
    if weight.dim() == 2:
        weight.copy_(matrix)
    else:
        weight.zero_()[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = matrix


OTHERS: dict[str, Callable[[nn.Module, HardCase, Tensor], nn.Module]] = (
    {"dks": dks} if importlib.util.find_spec("dks") else {}
)
