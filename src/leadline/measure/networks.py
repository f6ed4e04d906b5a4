"""Measure a network, or fresh draws of its weights, row by row as :func:`leadline.predict` predicts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from leadline.measure.batches import Progress, run_draws
from leadline.measure.measurement import Measurement, fill
from leadline.measure.modules import measure_modules
from leadline.measure.plan import Plan
from leadline.measure.redraw import Redrawer
from leadline.program import ExportFailure, Program, UserError, batch_from, trace
from leadline.theory.rows import Row
from leadline.theory.steps import rowed_steps

__all__ = ["measure"]

_FEWEST_PROBES = 4  # of one network, so that its gradients have a standard error


def measure(
    model: nn.Module,
    x: Any = None,
    *,
    draws: int = 32,
    seed: int = 0,
    program: Program | None = None,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    probes: int = 1,
    progress: Progress | None = None,
    antithetic: bool = False,
    batched: bool = True,
    susceptibilities: bool = True,
) -> Measurement:
    """Measure on re-drawn networks, or on this very one, what theory predicts of it.

    The model is only read: its weights, buffers, mode, gradients, hooks and all random states stay as they
    are. Second moments are averaged over draws before they become correlations; gradients are those of
    random sums of the outputs (Hutchinson), susceptibilities are forward-mode derivatives.

    Args:
        model: any module; its mode (train or eval) is the mode that is measured.
        x: a batch, as for :func:`leadline.trace`.
        draws: networks with freshly drawn weights; 0: the given network itself, whose standard errors then
            speak of
            the probes alone.
        seed: of the draws and the probes.
        program: the module's Program, where it has been traced already; its batch is measured, its stated
            laws are drawn from.
        args: positional call arguments, instead of ``x``.
        kwargs: keyword call arguments, instead of or beside ``x``.
        probes: random sums of the outputs a draw; at least 4 are taken of a single network.
        progress: called with (draws done, draws in all).
        antithetic: draw networks in pairs whose random weights are each other's mirror image about their
            mean; standard
            errors are over pairs.
        batched: run several draws at once where the graph allows it.
        susceptibilities: measure those too; they take two forward-mode passes a draw, half of the time.

    Returns:
        The measurement.

    Raises:
        UserError: the batch does not fit the model or is not the Program's, or a number is out of range.
    """
    _check(draws, probes, antithetic)
    if program is not None:
        _same_batch(program, x, args, kwargs)
    else:
        try:
            program = trace(model, x, args=args, kwargs=kwargs)
        except ExportFailure as failure:
            given, more = _arguments(x, args, kwargs)
            return measure_modules(model, given, more, draws=draws, seed=seed, reason=str(failure), progress=progress)
    plan = Plan.of(program)
    rows = [Row(s.name, s.layer, s.op) for s in rowed_steps(program)]
    found = Measurement(rows, draws, seed, program)
    if draws == 0:
        own = {n: t.detach() for n, t in program.exported.state.items()}
        result = run_draws(
            plan,
            lambda _: own,
            max(probes, _FEWEST_PROBES),
            seed=seed,
            probes=1,
            same_network=True,
            susceptibilities=susceptibilities,
            progress=progress,
        )
    else:
        redrawer = Redrawer(model, laws=program.laws)
        found.routes = redrawer.report
        states = _mirrored(redrawer, program, seed) if antithetic else lambda i: redrawer.draw(seed + i)
        kept = frozenset(n for n, r in redrawer.report.routes.items() if r.way == "kept")
        result = run_draws(
            plan, states, draws, seed=seed, probes=probes, batched=batched, constant=kept,
            susceptibilities=susceptibilities, progress=progress,
        )  # fmt: skip
    found.batched, found.single = result.batched, result.reason
    stats: dict[str, dict[str, Tensor]] = {}
    for key, value in result.stats.items():
        step, _, name = key.rpartition("/")
        stats.setdefault(step, {})[name] = value
    fill(found, stats, plan.pairs, together=2 if antithetic and draws else 1)
    return found


def _check(draws: int, probes: int, antithetic: bool) -> None:
    if draws < 0 or draws == 1:
        raise UserError(f"got draws={draws}, expected 0 (this very network) or at least 2: one has no standard error.")
    if probes < 1:
        raise UserError(f"got probes={probes}, expected at least 1: gradients are read along random sums.")
    if antithetic and draws % 2:
        raise UserError(f"got draws={draws} with antithetic=True, expected an even number: they pair up.")


def _same_batch(program: Program, x: Any, args: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None) -> None:
    if x is None and args is None and kwargs is None:
        return
    given, known = _arguments(x, args, kwargs), (program.args, dict(program.kwargs))
    one, two = pytree.tree_leaves(given), pytree.tree_leaves(known)
    if len(one) != len(two) or not all(_equal(a, b) for a, b in zip(one, two, strict=True)):
        raise UserError(
            "the batch is not the one that the Program was traced with: trace the model on this batch, or "
            "leave the batch out."
        )


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one is two or (one.shape == two.shape and bool(torch.equal(one, two)))
    return not isinstance(one, Tensor) and not isinstance(two, Tensor) and bool(one == two)


def _arguments(
    x: Any, args: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args is not None:
        return args, dict(kwargs or {})
    given, more = batch_from(x)[:2] if x is not None else ((), {})
    return given, {**more, **(kwargs or {})}


def _mirrored(redrawer: Redrawer, program: Program, seed: int) -> Callable[[int], dict[str, Tensor]]:
    """Draw 2k + 1 is draw 2k with every random parameter reflected about the mean of its law."""
    names = {n for n, r in redrawer.report.routes.items() if r.way in ("initializer", "law")}
    tied = {n: r.reason.removeprefix("it is ") for n, r in redrawer.report.routes.items() if r.way == "tied"}

    def draw(number: int) -> dict[str, Tensor]:
        state = redrawer.draw(seed + number // 2)
        if number % 2 == 0:
            return state
        out = dict(state)
        for name, value in state.items():
            first = tied.get(name, name)
            if first in names:
                law = program.laws[first] if first in program.laws else program.laws[name]
                out[name] = 2 * law.mean - value
        return out

    return draw
