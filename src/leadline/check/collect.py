"""From a Program, a prediction and a measurement to the evidence that verdicts are judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from leadline.check.evidence import Evidence, InputFacts, LossFacts, Pair, Point
from leadline.check.intent import residual_scale
from leadline.check.spine import spine_of
from leadline.program import Program, Ref, Step
from leadline.program.laws import Law, explains, read_law, tied_parameters
from leadline.program.step import WEIGHT_OPS
from leadline.program.values import tensors_in
from leadline.theory import Row

__all__ = ["collect", "input_facts", "pair_rows", "untouched_norms"]

_HALF = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
_PROBE = 40.0


def pair_rows(predicted: Sequence[Row] | None, measured: Sequence[Row] | None) -> list[tuple[Row, dict[str, Pair]]]:
    """Rows of both sides by step, in the order of the prediction where there is one.

    Args:
        predicted: rows, or None.
        measured: rows, or None.

    Returns:
        For each step a row that names it, and both sides of each quantity.
    """
    left = {r.step: r for r in predicted or ()}
    right = {r.step: r for r in measured or ()}
    order = list(left) + [s for s in right if s not in left] if left else list(right)
    found = []
    for step in order:
        p, m = left.get(step), right.get(step)
        names = dict.fromkeys([*(p.values if p else ()), *(m.values if m else ())])
        pairs = {}
        for name in names:
            there = m.values.get(name) if m else None
            pairs[name] = Pair(
                p.get(name) if p else None, there.value if there else None, there.error if there else None
            )
        found.append((p or m, pairs))
    return found  # type: ignore[return-value]


def collect(
    model: nn.Module,
    program: Program | None,
    predicted: Sequence[Row] | None,
    measured: Sequence[Row] | None,
    *,
    batch: Any,
    loss: LossFacts | None = None,
    dead: Mapping[str, float] | None = None,
    classifier: bool = False,
) -> Evidence:
    """Gather the evidence.

    Args:
        model: the module.
        program: its Program; None where the export failed.
        predicted: rows of the prediction, or None.
        measured: rows of the measurement, or None.
        batch: call arguments, nested as they like.
        loss: the initial loss, where one was asked for.
        dead: step -> share of units that are flat on every input.
        classifier: the outputs are logits.

    Returns:
        The evidence.
    """
    rows = pair_rows(predicted, measured)
    steps = {s.name: s for s in program.steps} if program is not None else {}
    if program is not None:
        order = [s.name for s in program.steps]
        spine = spine_of(order, {s.name: s.inputs for s in program.steps}, program.output)
    else:
        # Without a graph only the ends are known to lie on every path.
        spine = frozenset({rows[0][0].step, rows[-1][0].step}) if rows else frozenset()
    feeding = _feeding(steps, {row.step for row, _ in rows})
    points = tuple(
        _point(row, pairs, steps.get(row.step), program, row.step in spine, (dead or {}).get(row.step))
        for row, pairs in rows
    )
    points = tuple(replace(p, inputs=feeding.get(p.step, ())) for p in points)
    points = tuple(p if p.layer else replace(p, place=_place(p, steps)) for p in points)
    laws = dict(program.laws) if program is not None else _laws(model)
    dtypes = {p.dtype for p in model.parameters()}
    half = next((_HALF[d] for d in dtypes if d in _HALF), None)
    return Evidence(
        points=points,
        inputs=tuple(input_facts(batch)),
        laws=laws,
        trained=explains(list(laws.values())),
        tied={k: v for k, v in tied_parameters(model).items() if k != v},
        unused=_unused(model, program),
        loss=loss,
        half=half,
        residual_scale=residual_scale(model),
        classifier=classifier,
        untouched=untouched_norms(model),
    )


def untouched_norms(model: nn.Module) -> tuple[str, ...]:
    """Batch norms in eval mode whose statistics are those of construction: they normalize nothing.

    Args:
        model: any module.

    Returns:
        Their names.
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.training:
            mean, var = module.running_mean, module.running_var
            if mean is not None and var is not None and not bool(mean.any()) and bool((var == 1).all()):
                found.append(name)
    return tuple(found)


def _laws(model: nn.Module) -> dict[str, Law]:
    return {n: read_law(p.detach(), fan_in=1, name=n) for n, p in model.named_parameters() if p.is_floating_point()}


def _point(
    row: Row, pairs: Mapping[str, Pair], step: Step | None, program: Program | None, spine: bool, dead: float | None
) -> Point:
    point = Point(row.step, row.layer, row.op, pairs, spine=spine, dead=dead, ruled=row.ruled)
    if step is None or program is None:
        return point
    eps = step.arguments.get("eps")
    return Point(
        row.step, row.layer, row.op, pairs,
        spine=spine, width=step.width, weight=_law_of(step, program),
        shape=_shape(step.fn) if step.op == "pointwise" and step.fn is not None else "",
        eps=float(eps) if isinstance(eps, (int, float)) else None, dead=dead, ruled=row.ruled,
    )  # fmt: skip


def _place(point: Point, steps: Mapping[str, Step]) -> str:
    """The last submodule on the way to a step that belongs to none: for a sum, that of its branch."""
    name = point.step
    for _ in range(len(steps)):
        step = steps.get(name)
        if step is None:
            return ""
        if step.layer:
            return step.layer
        known = [i for i in step.inputs if i in steps]
        if not known:
            return ""
        # the branch is computed after the stream that it is added to
        order = list(steps)
        name = max(known, key=order.index)
    return ""


def _feeding(steps: Mapping[str, Step], rowed: set[str]) -> dict[str, tuple[str, ...]]:
    """For each step the steps with a row that feed it, seen through those that only rearrange values."""
    found: dict[str, tuple[str, ...]] = {}
    for name, step in steps.items():
        sources: list[str] = []
        for source in step.inputs:
            sources += [source] if source in rowed else found.get(source, ())
        found[name] = tuple(dict.fromkeys(sources))
    return found


def _law_of(step: Step, program: Program) -> Law | None:
    weight = step.arguments.get("weight")
    if step.op not in WEIGHT_OPS or not isinstance(weight, Ref):
        return None
    name = program.exported.parameters.get(weight.name)
    return program.laws.get(name) if name is not None else None


def _shape(fn: Callable[[Tensor], Tensor]) -> str:
    """At how many ends a function is flat."""
    try:
        with torch.no_grad():
            z = torch.tensor([-_PROBE, -_PROBE / 2, _PROBE / 2, _PROBE], dtype=torch.float64)
            low, lower, upper, high = (float(v) for v in fn(z))
    except (RuntimeError, TypeError, ValueError):  # a chain that needs a shape of its own
        return ""
    flat_left, flat_right = abs(lower - low) < 1e-3, abs(high - upper) < 1e-3
    return "bounded" if flat_left and flat_right else "one-sided" if flat_left or flat_right else ""


def input_facts(batch: Any) -> Iterable[InputFacts]:
    """Facts of each floating-point tensor of a batch.

    Args:
        batch: nested tuples, lists and dicts of tensors.

    Yields:
        One entry a tensor.
    """
    for name, tensor in tensors_in(batch):
        if not tensor.is_floating_point() or tensor.numel() < 2:
            continue
        x = tensor.detach().double()
        correlation = None
        if x.dim() >= 2 and x.shape[0] >= 2:
            flat = x.flatten(1)
            norm = flat.norm(dim=1).clamp_min(1e-300)
            gram = (flat @ flat.T) / (norm[:, None] * norm[None, :])
            n = gram.shape[0]
            correlation = float((gram.sum() - gram.diagonal().sum()) / (n * (n - 1)))
        yield InputFacts(str(name), float(x.mean()), float(x.std()), float(x.square().mean().sqrt()), correlation)


def _unused(model: nn.Module, program: Program | None) -> tuple[str, ...]:
    """Parameters on which the output does not depend."""
    if program is None:
        return ()
    reached, stack = set(), [program.exported.output]
    while stack:
        node = stack.pop()
        if node not in reached:
            reached.add(node)
            stack.extend(node.all_input_nodes)
    names = {n.name for n in reached}
    used = {target for placeholder, target in program.exported.parameters.items() if placeholder in names}
    canonical = tied_parameters(model)
    used_canonical = {canonical.get(n, n) for n in used}
    return tuple(n for n, _ in model.named_parameters() if canonical.get(n, n) not in used_canonical)
