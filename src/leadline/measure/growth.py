"""Susceptibilities of one network by forward mode: a plain function of its state, as vmap wants it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp
from torch.utils import _pytree as pytree

from leadline.measure.plan import Plan, Stats, first_of, wide, with_first
from leadline.measure.taps import Tapped

__all__ = ["growth"]


def growth(plan: Plan, leaves: list[Any], state: Mapping[str, Tensor], signs: Mapping[str, Tensor]) -> Stats:
    r"""How a rescaling and a random change of each chain's start have grown at each row, by forward mode.

    Args:
        plan: of the Program.
        leaves: the call's arguments, flat.
        state: parameters and buffers by qualified name.
        signs: from :meth:`Plan.signs`.

    Returns:
        "step/parallel": mean of value times its change, for a change of the start along itself;
        "step/perp": mean square of the change for signs added at the start.
    """
    program = plan.program
    if not plan.starts:
        return {}
    zero = torch.zeros((), dtype=torch.float32, device=_device_of(state))

    def change(parallel: bool) -> Stats:
        def run(a: Tensor) -> tuple[Stats, Stats]:
            moved: Stats = {}
            origin: Stats = {}

            def tap(name: str, value: Any) -> Any:
                if name in plan.starts:
                    moved[name] = first_of(value)
                if name not in plan.resets:
                    return value
                still = first_of(value).detach()
                origin[name] = still
                s = a.to(still.dtype)
                return with_first(value, still * (1 + s) if parallel else still + s * signs[name])

            Tapped(program, tap, guard=_still, guarded=plan.stripped).run(*program.exported.lifted(leaves, over=state))
            return moved, origin

        pair: Any = jvp(run, (zero,), (torch.ones_like(zero),))
        (primal, origin), (tangent, _) = pair
        if parallel:
            stats = {f"{n}/parallel": (wide(primal[n]) * wide(t)).mean() for n, t in tangent.items()}
            return stats | {
                f"{n}/origin": wide(origin[s]).square().mean() for n, s in plan.starts.items() if n in primal
            }
        return {f"{n}/perp": wide(t).square().mean() for n, t in tangent.items()}

    return {**change(parallel=True), **change(parallel=False)}


def _still(value: Any) -> Any:
    return pytree.tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, value)


def _device_of(state: Mapping[str, Tensor]) -> torch.device:
    return next((t.device for t in state.values()), torch.device("cpu"))
