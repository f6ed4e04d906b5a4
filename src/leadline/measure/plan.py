"""What to read where in a Program's graph: worked out once, used for every draw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from leadline.measure.points import Pairs, choose_pairs
from leadline.program import Program, Step
from leadline.theory.steps import chains, rowed_steps

__all__ = ["Plan", "Stats", "first_of", "wide", "with_first"]

Stats = dict[str, Tensor]  # "step/statistic" -> value


@dataclass
class Plan:
    """What to read where, worked out once for a Program.

    ``rows``: steps with a row whose value is floating point. ``pairs``: of each row. ``slopes``: root node
    -> steps whose nonlinearity acts on it. ``starts``: row -> start of its chain of susceptibilities.
    ``resets``: steps at which a chain starts. ``stripped``: nodes that no change passes through.
    """

    program: Program
    rows: dict[str, Step] = field(default_factory=dict)
    pairs: dict[str, Pairs] = field(default_factory=dict)
    slopes: dict[str, list[Step]] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)
    resets: dict[str, Step] = field(default_factory=dict)
    stripped: frozenset[str] = frozenset()

    @classmethod
    def of(cls, program: Program) -> Plan:
        """The plan of a Program."""
        plan = cls(program)
        device = next(iter(program.exported.state.values()), torch.empty(0)).device
        known: dict[tuple[tuple[str, int], ...], Pairs] = {}
        for step in rowed_steps(program):
            value = first_of(step.node.meta["val"])
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            axes = tuple((a.kind, a.size) for a in step.points)
            if axes not in known:
                known[axes] = choose_pairs(list(axes)).to(device)
            plan.rows[step.name], plan.pairs[step.name] = step, known[axes]
            if step.op == "pointwise" and step.fn is not None:
                plan.slopes.setdefault(step.arguments["input"].name, []).append(step)
        plan._chains()
        return plan

    def _chains(self) -> None:
        chain = chains(self.program)
        by_name = {s.name: s for s in self.program.steps}
        self.starts = {n: s for n, s in chain.items() if s is not None and n in self.rows}
        used = set(self.starts.values())
        self.resets = {n: by_name[n] for n in used}
        self.stripped = frozenset(m for n, s in chain.items() if s is None for m in by_name[n].members)

    def signs(self, seed: int) -> dict[str, Tensor]:
        """A random sign for each entry of each start's value: the random change whose growth is chi_perp."""
        generator = torch.Generator().manual_seed(seed)
        out = {}
        for name in sorted(self.resets):
            value = first_of(self.resets[name].node.meta["val"])
            bits = torch.randint(0, 2, value.shape, generator=generator, dtype=torch.int8)
            out[name] = (2 * bits - 1).to(self._device()).to(value.dtype)
        return out

    def _device(self) -> torch.device:
        return next((t.device for t in self.program.exported.state.values()), torch.device("cpu"))


def first_of(value: Any) -> Any:
    """The first of several results of an operator, or its one result."""
    return value[0] if isinstance(value, (tuple, list)) and value else value


def with_first(value: Any, new: Tensor) -> Any:
    """The same results with another first one."""
    return (new, *value[1:]) if isinstance(value, (tuple, list)) else new


def wide(value: Tensor) -> Tensor:
    """In double precision, where the device has it: squares of small gradients vanish in single."""
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)
