"""Units of the network itself that are flat on every input of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from leadline.program import Program, Ref, Step

__all__ = ["dead_shares", "flat_entries"]

_FLAT = 0.01
_GRID = 2_001


class _Watch(fx.Interpreter):
    """Runs the graph and looks at what enters each nonlinearity."""

    def __init__(self, program: Program, wanted: dict[str, list[Step]]) -> None:
        super().__init__(program.exported.module)
        self.wanted = wanted
        self.shares: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        for step in self.wanted.get(n.name, ()):
            if isinstance(value, Tensor):
                self.shares[step.name] = _share(step, value)
        return value


def _share(step: Step, z: Tensor) -> float:
    """Share of channels whose slope is below 1 % of the largest at every sample and site."""
    fn = step.fn
    if fn is None:
        return 0.0
    flat = flat_entries(fn, z)
    dims, shape = [], []
    for dim in step.layout:
        for axis in dim:
            shape.append(axis.size)
            dims.append(axis.kind)
    flat = flat.reshape(shape)
    points = [i for i, kind in enumerate(dims) if kind != "channel"]
    return float((flat.all(dim=tuple(points)) if points else flat).double().mean())


def flat_entries(fn: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Where a nonlinearity is flat: its slope is below 1 % of the largest that it has between -6 and 6.

    Args:
        fn: the nonlinearity, entry by entry.
        z: what enters it, any shape.

    Returns:
        A boolean tensor of that shape.
    """
    grid = torch.linspace(-6, 6, _GRID, dtype=z.dtype, device=z.device)
    return _slope(fn, z).abs() < _FLAT * _slope(fn, grid).abs().max()


def _slope(fn: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    with torch.enable_grad():
        x = z.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(fn(x).sum(), x)
    return slope


def dead_shares(program: Program) -> dict[str, float]:
    """Share of dead units of each nonlinearity, on one forward pass of the network itself.

    Args:
        program: from :func:`leadline.trace`.

    Returns:
        Step name -> share of units whose slope is below 1 % of its maximum at every sample and site.
    """
    wanted: dict[str, list[Step]] = {}
    for step in program.steps:
        source = step.arguments.get("input")
        if step.op == "pointwise" and step.fn is not None and isinstance(source, Ref):
            wanted.setdefault(source.name, []).append(step)
    if not wanted:
        return {}
    watch = _Watch(program, wanted)
    leaves = pytree.tree_leaves((program.args, dict(program.kwargs)))
    state = {name: t.detach().clone() for name, t in program.exported.state.items() if name in _written(program)}
    with torch.no_grad(), torch.random.fork_rng():
        watch.run(*program.exported.lifted(leaves, state))
    return watch.shares


def _written(program: Program) -> set[str]:
    """Buffers that a forward pass may write in place."""
    return set(program.exported.buffers.values())
