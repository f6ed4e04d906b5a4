"""Tensors that follow others in a fresh draw: weight_norm, spectral_norm and other parametrizations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from leadline.program.law_draw import draw_law
from leadline.program.laws import Law, read_law

__all__ = ["Derived", "find_derived"]

_POWER_ITERATIONS = 50


@dataclass(frozen=True)
class Derived:
    """Tensors computed from a drawn state.

    Args:
        names: qualified names of the tensors that `update` writes.
        reason: one short sentence.
        update: takes the private copy and the new state by name, and writes the tensors into the state.
    """

    names: tuple[str, ...]
    reason: str
    update: Callable[[nn.Module, dict[str, Tensor]], None]


def find_derived(model: nn.Module, laws: Mapping[str, Law]) -> list[Derived]:
    """Find what a fresh draw must compute.

    Args:
        model: the module, parameters as the user has them or not.
        laws: laws of its parameters by name, as the user has them.

    Returns:
        One entry a weight_norm, spectral_norm or other parametrization whose own tensors are all constant.
    """
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found: list[Derived] = []
    for name in state:
        found.extend(_weight_norm(name, state, laws))
        found.extend(_spectral_norm(name, state))
    taken = {name for derived in found for name in derived.names}
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for tensor_name in module.parametrizations:
                found.extend(_assigned(path, module, tensor_name, laws, taken))
    return found


def _weight_norm(name: str, state: Mapping[str, Tensor], laws: Mapping[str, Law]) -> list[Derived]:
    """The norms g of w = g v / |v|, where they are those of v as at construction."""
    for norm_end, direction_end in (("original0", "original1"), ("weight_g", "weight_v")):
        direction_name = name.removesuffix(norm_end) + direction_end
        if not name.endswith(norm_end) or direction_name not in state:
            continue
        g, v = state[name], state[direction_name]
        law = laws.get(direction_name)
        if g.dim() != v.dim() or law is None or not torch.allclose(_norm_like(v, g), g, rtol=1e-4, atol=0.0):
            return []

        def update(_: nn.Module, new: dict[str, Tensor], v_name: str = direction_name) -> None:
            new[name] = _norm_like(new[v_name], new[name])

        return [Derived((name,), f"it is the norm of {direction_name}", update)]
    return []


def _norm_like(v: Tensor, g: Tensor) -> Tensor:
    axes = [axis for axis in range(v.dim()) if g.shape[axis] == 1 and v.shape[axis] != 1]
    return torch.linalg.vector_norm(v, dim=axes, keepdim=True) if axes else v.abs()


def _spectral_norm(name: str, state: Mapping[str, Tensor]) -> list[Derived]:
    """The singular vectors u and v that spectral_norm carries along, converged."""
    if name.endswith("._u"):  # ...parametrizations.weight.0._u beside ...parametrizations.weight.original
        base = name.removesuffix("._u")
        weight_name, v_name = base.rsplit(".", 1)[0] + ".original", base + "._v"
    elif name.endswith("_u"):
        weight_name, v_name = name.removesuffix("_u") + "_orig", name.removesuffix("_u") + "_v"
    else:
        return []
    if weight_name not in state or v_name not in state:
        return []
    weight, u, v = state[weight_name], state[name], state[v_name]
    fits = [
        axis
        for axis in range(weight.dim())
        if weight.shape[axis] == u.numel() and weight.numel() == u.numel() * v.numel()
    ]
    if not fits:
        return []

    def update(_: nn.Module, new: dict[str, Tensor]) -> None:
        matrix = new[weight_name].movedim(fits[0], 0).flatten(1)
        left = torch.randn_like(u)
        for _step in range(_POWER_ITERATIONS):
            right = nn.functional.normalize(matrix.T @ left, dim=0)
            left = nn.functional.normalize(matrix @ right, dim=0)
        new[name], new[v_name] = left, right

    return [Derived((name, v_name), f"it is a singular vector of {weight_name}", update)]


def _assigned(
    path: str, module: nn.Module, tensor_name: str, laws: Mapping[str, Law], taken: set[str]
) -> list[Derived]:
    """Parametrizations with constant tensors of their own that make a random weight (orthogonal)."""
    prefix = f"{path}.parametrizations.{tensor_name}." if path else f"parametrizations.{tensor_name}."
    own = getattr(module.parametrizations, tensor_name)
    names = tuple(prefix + n for n, _ in (*own.named_parameters(), *own.named_buffers()))
    known = [laws[n] for n in names if n in laws]
    if any(law.random or law.trained for law in known) or taken.intersection(names):
        return []
    with torch.no_grad():
        weight = getattr(module, tensor_name).detach()
        law = read_law(weight, fan_in=1)
        if not law.random:
            return []
        try:
            setattr(module, tensor_name, weight)
        except Exception:  # no right inverse, or one that does not take this weight: its tensors are kept
            return []

    def update(model: nn.Module, new: dict[str, Tensor]) -> None:
        target = model.get_submodule(path)
        setattr(target, tensor_name, draw_law(law, weight))
        tensors = getattr(target.parametrizations, tensor_name)
        for n, value in (*tensors.named_parameters(), *tensors.named_buffers()):
            new[prefix + n] = value.detach().clone()

    return [Derived(names, f"the weight {tensor_name} is drawn and assigned", update)]
