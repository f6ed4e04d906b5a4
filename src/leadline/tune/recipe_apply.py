"""Apply a recipe to a network, put it back, and group its parameters."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from leadline.program.errors import UserError, near, plain
from leadline.program.law_draw import draw_law
from leadline.program.law_structure import zero_rows
from leadline.program.laws import read_law, tied_parameters
from leadline.tune.graph_hooks import installed
from leadline.tune.param_rates import rated_groups
from leadline.tune.reshape_rates import folded_groups

if TYPE_CHECKING:
    from leadline.tune.recipe import ParameterLaw, Recipe

__all__ = ["apply", "check_fit", "draw", "fingerprint", "param_groups", "revert", "unwrap"]

_SHOWN = 4
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and data-parallel wrappers, whose parameters are the same tensors.

    Args:
        model: any module.

    Returns:
        The module that its author wrote.

    Raises:
        UserError: no module, or its parameters are split over processes.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"the model is of type {plain(type(model).__name__)}, expected a torch.nn.Module: pass the module."
        )
    while True:
        if "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        elif isinstance(model, _WRAPPERS):
            model = model.module
        else:
            break
    sharded = any("FullyShardedDataParallel" in type(m).__name__ for m in model.modules())
    if sharded or any(type(p).__name__ == "DTensor" or hasattr(p, "_local_tensor") for p in model.parameters()):
        raise UserError(
            f"the parameters of {plain(type(model).__name__)} are split over processes, expected whole ones: apply the "
            "recipe before the model is wrapped."
        )
    return model


def fingerprint(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by qualified name, tied ones under their first name.

    Args:
        model: an unwrapped module.

    Returns:
        Name to shape.
    """
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def apply(recipe: Recipe, model: nn.Module, redraw: Iterable[str] = ()) -> None:
    """See :meth:`Recipe.apply`."""
    inner = unwrap(model)
    check_fit(recipe, inner)
    if recipe.scales and installed(inner):
        raise UserError(
            f"the activations of this {plain(type(inner).__name__)} are reshaped already, and the recipe would fold the same "
            "into its weights: apply it to the network as it was, or with graph=True."
        )
    parameters = dict(inner.named_parameters())
    allowed = _allowed(inner, redraw)
    drawn = {name: draw(recipe.seed, name, law, parameters[name]) for name, law in recipe.laws.items()}
    changed = {name: new for name, new in drawn.items() if not torch.equal(new, parameters[name].detach())}
    refused = _refused(inner, {name: parameters[name] for name in changed if name not in allowed})
    if refused:
        reasons = dict.fromkeys(refused.values())
        said = "; ".join(f"{why}: {_names(n for n, w in refused.items() if w == why)}" for why in reasons)
        listed = ", ".join(repr(plain(n)) for n in list(refused)[:_SHOWN]) + (", …" if len(refused) > _SHOWN else "")
        raise UserError(
            f"the recipe would draw {len(refused)} parameters anew whose values would be lost ({said}), so nothing was "
            f"changed: pass redraw=[{listed}] if they may be."
        )
    if not changed:
        return
    before = {name: parameters[name].detach().clone() for name in changed}
    _copy(parameters, changed)
    recipe._snapshots.kept[inner] = before


def revert(recipe: Recipe, model: nn.Module) -> None:
    """See :meth:`Recipe.revert`."""
    inner = unwrap(model)
    before = recipe._snapshots.kept.get(inner)
    if before is None:
        raise UserError(
            f"this recipe has not changed this {plain(type(inner).__name__)}, expected the very module that it was applied "
            "to: keep a copy of the state dict before a recipe is applied to a copy of the model."
        )
    parameters = dict(inner.named_parameters())
    lost = [n for n, value in before.items() if n not in parameters or parameters[n].shape != value.shape]
    if lost:
        raise UserError(f"the module has no parameter '{plain(lost[0])}' of its old shape any more: build it anew.")
    _copy(parameters, before)
    del recipe._snapshots.kept[inner]


def param_groups(
    recipe: Recipe, model: nn.Module, lr: float | None = None, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    """See :meth:`Recipe.param_groups`."""
    inner = unwrap(model)
    check_fit(recipe, inner)
    recipe = recipe.replace(groups=rated_groups(recipe.groups, lr, weight_decay))
    parameters = dict(inner.named_parameters())
    groups = recipe.groups if not recipe.scales or installed(inner) else folded_groups(recipe, lr)
    found: list[dict[str, Any]] = []
    for group in groups:
        members = [parameters[n] for n in group.parameters if parameters[n].requires_grad]
        if not members:
            continue
        made: dict[str, Any] = {"name": group.name, "params": members}
        rate = lr if group.lr is None else group.lr
        if rate is not None:
            made["lr"] = rate
        if group.weight_decay is not None:
            made["weight_decay"] = group.weight_decay
        found.append(made)
    return found


def draw(seed: int, name: str, law: ParameterLaw, like: Tensor) -> Tensor:
    """Draw one parameter; the values do not depend on the device, nor on which others are drawn.

    Args:
        seed: of the recipe.
        name: qualified name, which makes the parameter's own generator.
        law: what to draw from.
        like: gives shape, dtype, device; rows of zeros (padding of an embedding) stay zero.

    Returns:
        A new tensor without gradient.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    template = torch.empty(like.shape, dtype=wide)
    new = draw_law(law.law(name), template, generator=generator).to(dtype=like.dtype, device=like.device)
    padding = zero_rows(like.detach())
    if law.kind != "constant" and padding.numel():
        new[padding] = 0
    return new


@torch.no_grad()
def _copy(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)


def check_fit(recipe: Recipe, model: nn.Module) -> None:
    """Refuse a network of other parameters or shapes, and name the difference.

    Args:
        recipe: any recipe.
        model: an unwrapped module.

    Raises:
        UserError: it does not fit.
    """
    here, wanted = fingerprint(model), {n: tuple(s) for n, s in recipe.fingerprint.items()}
    if here == wanted:
        return
    missing = [n for n in wanted if n not in here]
    extra = [n for n in here if n not in wanted]
    other = [n for n in wanted if n in here and here[n] != wanted[n]]
    parts = []
    if missing:
        parts.append(f"it lacks {_names(missing)}")
    if extra:
        parts.append(f"it has {_names(extra)} besides")
    if other:
        first = other[0]
        more = f" and {len(other) - 1} more differ" if len(other) > 1 else ""
        parts.append(f"'{plain(first)}' has shape {here[first]} where the recipe's has {wanted[first]}{more}")
    raise UserError(
        f"the recipe was made for another network than this {plain(type(model).__name__)} ({'; '.join(parts)}): tune this "
        "network itself."
    )


def _allowed(model: nn.Module, redraw: Iterable[str]) -> set[str]:
    """Parameters that ``redraw`` names, alone or by their submodule, by their first name."""
    if isinstance(redraw, str):
        redraw = [redraw]
    first = tied_parameters(model)
    modules = dict(model.named_modules())
    found: set[str] = set()
    for name in redraw:
        if name in first:
            found.add(first[name])
        elif name in modules:
            prefix = f"{name}." if name else ""
            found |= {canonical for n, canonical in first.items() if n.startswith(prefix)}
        else:
            raise UserError(f"redraw: the model has no parameter or submodule '{plain(name)}'; {near(name, first)}.")
    return found


def _refused(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Why each of these parameters is not to be drawn anew, for those that are not."""
    names = Counter(tied_parameters(model).values())
    found: dict[str, str] = {}
    for name, parameter in parameters.items():
        if names[name] > 1:
            found[name] = "tied"
        elif not parameter.requires_grad:
            found[name] = "frozen"
        elif parameter.dim() > 1 and read_law(parameter.detach(), fan_in=1, name=name).trained:
            found[name] = "no init law explains them"
    return found


def _names(names: Iterable[str]) -> str:
    listed = [f"'{plain(n)}'" for n in names]
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
