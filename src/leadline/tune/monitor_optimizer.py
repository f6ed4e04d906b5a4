"""What a torch optimizer does to each weight: its rule, its rates, its preconditioner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leadline.measure.curvature import Objective
from leadline.program.errors import UserError, plain
from leadline.tune.rate_predict import second_moment_root
from leadline.tune.rate_rules import UpdateRule

__all__ = ["Setting", "bare_optimizer", "read_setting"]

_KINDS = ("SGD", "Adam", "AdamW")


@dataclass(frozen=True)
class Setting:
    r"""An optimizer at one step.

    Attributes:
        rule: its closed form; None where none is known, and ``note`` says why.
        rate: the largest rate of its groups.
        scale: diagonal of S in the matrix :math:`S H S` whose largest eigenvalue decides,
            :math:`S_i^2 = (\eta_i/\eta)/P_i`; None where it is one everywhere.
        ready: False where the preconditioner does not exist yet.
        note: what is not known.
    """

    rule: UpdateRule | None
    rate: float
    scale: Tensor | None = None
    ready: bool = True
    note: str = ""


def bare_optimizer(optimizer: Any, model: nn.Module) -> torch.optim.Optimizer:
    """The torch optimizer inside wrappers that training libraries put around it.

    Args:
        optimizer: the optimizer, or an object that holds one as ``optimizer``.
        model: the module whose weights it trains.

    Returns:
        The optimizer.

    Raises:
        UserError: there is none, or it trains no weight of the module.
    """
    found = optimizer
    # a wrapper may be an optimizer itself, by inheritance
    while isinstance(getattr(found, "optimizer", None), torch.optim.Optimizer):
        found = found.optimizer
    if not isinstance(found, torch.optim.Optimizer):
        raise UserError(
            f"the optimizer is of type {plain(type(optimizer).__name__)}, expected a torch.optim.Optimizer: pass the one "
            "that trains the model."
        )
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in found.param_groups for p in group["params"]):
        raise UserError(
            f"the optimizer ({plain(type(found).__name__)}) trains none of the parameters of this "
            f"{plain(type(model).__name__)}: pass the optimizer of this very model."
        )
    return found


def read_setting(optimizer: torch.optim.Optimizer, objective: Objective) -> Setting:
    """An optimizer's rule, rates and preconditioner as they are now; it is only read.

    Args:
        optimizer: from :func:`bare_optimizer`.
        objective: the loss, whose weights give the order.

    Returns:
        The setting.
    """
    named = dict(objective.model.named_parameters())
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    groups = [group_of.get(id(named[name])) for name in objective.names]
    rates = [0.0 if group is None else float(group["lr"]) for group in groups]
    rate = max(rates)
    if not rate > 0:
        return Setting(None, rate, note="the learning rate is 0, so every curvature is stable.")
    rule, note = _rule(optimizer, [g for g, r in zip(groups, rates, strict=True) if g is not None and r > 0])
    shares = [r / rate for r in rates]
    if rule is None or not rule.adaptive:
        if min(shares) == 1:
            return Setting(rule, rate, note=note)
        pieces: list[Tensor | None] = [
            torch.full_like(w, math.sqrt(s)) for w, s in zip(objective.weights.values(), shares, strict=True)
        ]
        return Setting(rule, rate, objective.flatten(pieces), note=note)
    states = [optimizer.state.get(named[name]) for name in objective.names]
    if not any(states):
        return Setting(rule, rate, ready=False, note="Adam has no preconditioner before its first step.")
    roots = [
        second_moment_root(w, state, rule) / max(share, 1e-300)
        for w, state, share in zip(objective.weights.values(), states, shares, strict=True)
    ]
    return Setting(rule, rate, objective.flatten(roots).rsqrt().detach(), note=note)


def _rule(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> tuple[UpdateRule | None, str]:
    """The closed form of an optimizer whose groups differ in nothing but their rates and decays."""
    kind = next((c.__name__ for c in type(optimizer).__mro__ if c.__name__ in _KINDS), None)
    name = plain(type(optimizer).__name__)
    if kind is None:
        return None, f"no edge follows from curvature for {name}."
    decay = max(float(g.get("weight_decay", 0.0)) for g in groups)
    if any(g.get("maximize") or g.get("dampening") for g in groups):
        return None, f"{name} maximizes or dampens its momentum, for which no edge is known."
    if kind == "SGD":
        settings = {(float(g["momentum"]), bool(g["nesterov"])) for g in groups}
        if len(settings) == 1:
            beta, nesterov = settings.pop()
            which = "nesterov" if nesterov else "momentum" if beta else "sgd"
            return UpdateRule(which, beta, decay=decay), ""
    else:
        betas = {(float(g["betas"][0]), float(g["betas"][1]), float(g["eps"])) for g in groups}
        if len(betas) == 1:
            beta, beta2, eps = betas.pop()
            # decoupled decay is what tells the two apart, also where Adam is told to decouple it
            decoupled = kind == "AdamW" or any(g.get("decoupled_weight_decay") for g in groups)
            return UpdateRule("adamw" if decoupled else "adam", beta, beta2, eps, decay), ""
    return None, f"the groups of {name} differ in more than their rates, for which no edge is known."
