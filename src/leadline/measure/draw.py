"""Moments and gradients of one network: plain functions of its state, fit for :func:`torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp

from leadline.measure.plan import Plan, Stats, first_of, with_first
from leadline.measure.points import to_channels
from leadline.measure.taps import Tapped, parameter_uses
from leadline.program import Program, Step
from leadline.program.squares import square_sum

__all__ = ["flat_fraction", "gradients_and_moments"]

State = Mapping[str, Tensor]
_GRID = 401  # points at which the largest slope of a nonlinearity is looked for
_FLAT = 0.01
_GRAM = 512  # points up to which all products cost less than picking some
_BLOCK = 256  # pairs of points multiplied at once


def gradients_and_moments(plan: Plan, leaves: list[Any], state: State, probes: Tensor) -> Stats:
    r"""Second moments of every row's value, and squared gradients of random combinations of the outputs.

    With signs :math:`v` on all outputs, :math:`\mathbb{E}_v |\nabla (v^T z)|^2` is the sum over outputs of
    the squared derivative; divided by their number it is the partial Jacobian, and for a weight its share
    of the tangent kernel.

    Args:
        plan: of the Program.
        leaves: the call's arguments, flat.
        state: parameters and buffers by qualified name.
        probes: signs on the output, shape (probes, *output).

    Returns:
        "step/statistic" -> tensor.
    """
    program = plan.program
    uses = parameter_uses(program, list(plan.rows.values()))
    bends = [_zeros(s.node.meta["val"], probes.device) for s in plan.rows.values()]
    weights = [_leaf(program, node, name, state) for _, node, name in uses]

    def run(bends: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Stats]:
        bend = dict(zip(plan.rows, bends, strict=True))
        swap: dict[str, dict[str, Any]] = {}
        for (step, node, name), weight in zip(uses, weights, strict=True):
            swap.setdefault(step.name, {})[node] = _replace(weight, name is not None)
        stats: Stats = {}

        def tap(name: str, value: Any) -> Any:
            for step in plan.slopes.get(name, ()):
                z = first_of(value).detach()
                stats[f"{step.name}/flat"] = flat_fraction(step, z)
                stats[f"{step.name}/unit"] = torch.ones((), device=z.device) / z.numel()
            if name not in bend:
                return value
            bent = first_of(value) + bend[name]
            stats.update(_moments(plan, name, bent.detach()))
            return with_first(value, bent)

        graph = Tapped(program, tap, swap)
        graph.run(*program.exported.lifted(leaves, over=state))
        return graph.result, stats  # type: ignore[return-value]

    found: Any = vjp(run, bends, weights, has_aux=True)
    out, pull, stats = found
    outputs = out.numel()
    for probe in probes:
        g_bends, g_weights = pull(probe.to(out.dtype))
        for name, g in zip(plan.rows, g_bends, strict=True):
            _accumulate(stats, f"{name}/jacobian", square_sum(g) / (outputs * len(probes)))
        for (step, _, _), g in zip(uses, g_weights, strict=True):
            _accumulate(stats, f"{step.name}/tangent", square_sum(g) / (outputs * len(probes)))
    return stats


def _zeros(value: Any, device: torch.device) -> Tensor:
    """A zero to be added to a step's value; it takes no memory."""
    first = first_of(value)
    return torch.zeros((), dtype=first.dtype, device=device).expand(first.shape)


def _leaf(program: Program, node: str, name: str | None, state: State) -> Tensor:
    if name is not None:
        return state.get(name, program.exported.state[name]).detach()
    value = next(n for n in program.exported.module.graph.nodes if n.name == node).meta["val"]
    return _zeros(value, next(iter(state.values())).device)


def _replace(weight: Tensor, whole: bool) -> Any:
    return (lambda value: weight) if whole else (lambda value: value + weight)


def _accumulate(stats: Stats, key: str, value: Tensor) -> None:
    stats[key] = stats[key] + value if key in stats else value


def _moments(plan: Plan, name: str, value: Tensor) -> Stats:
    step, pairs = plan.rows[name], plan.pairs[name]
    h = to_channels(value, step.layout)
    n = h.shape[0]
    square = h.square()
    diagonal = square.mean(0)
    stats = {f"{name}/diagonal": diagonal}
    if pairs.points <= _GRAM:
        M = h.T @ h / n
        stats[f"{name}/pairs"] = M[pairs.first, pairs.second]
    else:
        blocks = zip(pairs.first.split(_BLOCK), pairs.second.split(_BLOCK), strict=True)
        rows = h.T
        stats[f"{name}/pairs"] = torch.cat([(rows[i] * rows[j]).mean(1) for i, j in blocks])
    if step.weighted and n > 1:
        stats[f"{name}/square"] = (square.sum(0).square() - square.square().sum(0)) / (n * (n - 1))
    elif not step.weighted:
        stats[f"{name}/square"] = diagonal.square()
    return stats


def flat_fraction(step: Step, z: Tensor) -> Tensor:
    """Share of entries whose slope is below 1 % of the largest within five standard deviations.

    Args:
        step: a pointwise step.
        z: its input.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: the step has no callable.
    """
    fn = step.fn
    if fn is None:
        raise ValueError(f"step {step.name} has no callable; ask for pointwise steps only.")
    scale = 5 * z.to(torch.float32).square().mean().sqrt()
    grid = torch.linspace(-1, 1, _GRID, dtype=z.dtype, device=z.device) * scale.to(z.dtype)
    largest = jvp(fn, (grid,), (torch.ones_like(grid),))[1].abs().max()
    slope = jvp(fn, (z,), (torch.ones_like(z),))[1].abs()
    return (slope < _FLAT * largest).to(torch.float32).mean()
