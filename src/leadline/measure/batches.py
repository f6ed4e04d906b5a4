"""The same measurement on many draws of the weights: batched where the graph allows it, else one by one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from leadline.measure.draw import gradients_and_moments
from leadline.measure.growth import growth
from leadline.measure.plan import Plan, Stats
from leadline.measure.reinitialize import isolated_randomness

__all__ = ["Draws", "run_draws"]

_BUDGET = 1_000_000_000  # bytes that one batch of draws may take
_LARGE = 50_000_000  # parameters from which draws are taken one by one
_COPIES = 6  # a value, its sum with zero, its gradient and what the reductions take in double precision

Progress = Callable[[int, int], None]


@dataclass
class Draws:
    """Statistics of every draw.

    ``stats``: "step/statistic" -> tensor with the draws on its leading axis, on the CPU. ``batched``: draws
    in one batch; 1 where they were taken one by one. ``reason``: why not batched, where that was tried.
    """

    stats: Stats = field(default_factory=dict)
    batched: int = 1
    reason: str | None = None


def run_draws(
    plan: Plan,
    states: Callable[[int], dict[str, Tensor]],
    count: int,
    *,
    seed: int,
    probes: int,
    batched: bool = True,
    same_network: bool = False,
    constant: frozenset[str] = frozenset(),
    susceptibilities: bool = True,
    progress: Progress | None = None,
) -> Draws:
    """Measure draws 0 to count - 1.

    Args:
        plan: of the Program.
        states: number of a draw -> its parameters and buffers by qualified name.
        count: number of draws.
        seed: of the probes and of dropout.
        probes: combinations of the outputs whose gradient is taken, a draw.
        batched: whether to try several draws at once.
        same_network: the state is the same in every draw; the random changes then differ from draw to draw.
        constant: names of tensors that are the same in all draws.
        susceptibilities: whether to follow changes forward too, which takes two more passes a draw.
        progress: called with (draws done, draws in all).

    Returns:
        The statistics.
    """
    program = plan.program
    leaves = pytree.tree_leaves((program.args, dict(program.kwargs)))
    devices = {t.device for t in (*program.exported.state.values(), *leaves) if isinstance(t, Tensor)}
    signs = plan.signs(seed)
    output = program.exported.output.meta["val"]
    shape = (probes, *[int(s) for s in output.shape])
    device = next(iter(devices), torch.device("cpu"))

    def one(state: Mapping[str, Tensor], probe: Tensor, shared: Mapping[str, Tensor]) -> Stats:
        # over fresh weights, one set of signs is as good as many: their average is the same
        full = {**shared, **state}
        back = gradients_and_moments(plan, leaves, full, probe)
        return back | growth(plan, leaves, full, signs) if susceptibilities else back

    size = _batch(plan, count) if batched and not same_network else 1
    found = Draws(batched=size)
    parts: list[Stats] = []
    done = 0
    with isolated_randomness(seed, devices), _batchable():
        while done < count:
            numbers = range(done, min(done + found.batched, count))
            drawn = [states(i) for i in numbers]
            probe = torch.stack([_probe(seed, i, shape) for i in numbers]).to(device)
            if same_network and done:
                signs = plan.signs(seed + done)
            shared = {n: t for n, t in drawn[0].items() if n in constant}
            own = [{n: t for n, t in state.items() if n not in constant} for state in drawn]
            if len(own) > 1:
                try:
                    stacked = {n: torch.stack([s[n] for s in own]) for n in own[0]}
                    batch = vmap(one, in_dims=(0, 0, None), randomness="different")(stacked, probe, shared)
                except Exception as error:  # any operator may lack a batching rule and says so in its own way
                    found.batched, found.reason = (
                        1,
                        f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}",
                    )
                    continue
                parts.append({k: v.cpu() for k, v in batch.items()})
            else:
                parts.append({k: v[None].cpu() for k, v in one(own[0], probe[0], shared).items()})
            done = numbers.stop
            if progress is not None:
                progress(done, count)
    found.stats = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    return found


@contextmanager
def _batchable() -> Iterator[None]:
    """An attention kernel that can be batched, and no advice about batching rules."""
    announce = getattr(torch._C._functorch, "_set_vmap_fallback_warning_enabled", None)
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")
        if announce is not None:
            announce(False)
        try:
            yield
        finally:
            if announce is not None:
                announce(True)  # the state at the start of a process; there is no way to ask for it


def _probe(seed: int, number: int, shape: Sequence[int]) -> Tensor:
    """Signs on the output, the same whatever else is drawn."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    return (2 * torch.randint(0, 2, tuple(shape), generator=generator) - 1).to(torch.float32)


def _batch(plan: Plan, count: int) -> int:
    """Number of draws at once that fit the budget."""
    program = plan.program
    weights = sum(t.numel() for t in program.exported.state.values())
    if weights > _LARGE:
        return 1
    values = 0
    for node in program.exported.module.graph.nodes:
        if node.op == "call_function":
            for value in pytree.tree_leaves(node.meta.get("val")):
                values += value.numel() * 4 if isinstance(value, Tensor) else 0
    each = _COPIES * values + 4 * 4 * weights
    return max(1, min(count, math.floor(_BUDGET / max(each, 1))))
