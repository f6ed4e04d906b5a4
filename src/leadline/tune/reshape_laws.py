"""Laws of a reshaped network's weights, and what becomes of them where wraps fold into neighbours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from leadline.activations import Activation
from leadline.program import Program, Step, tied_parameters
from leadline.theory import Prediction
from leadline.tune.init_critical import Tuning, Tunings
from leadline.tune.init_design import Plan, full_plan, words
from leadline.tune.init_places import Places, data_input, parameter_of, passing
from leadline.tune.recipe import Decision, ParameterLaw
from leadline.tune.reshape_design import Design, design_folding, reshaped_program
from leadline.tune.reshape_survey import Survey
from leadline.tune.reshape_wrap import Wrap

__all__ = ["Folded", "folding_plan", "shaped_plan"]

_SOURCE = "Martens et al. (2021), Deep Kernel Shaping"
_FOLD = "abc symmetry: Yang & Littwin (2023), Tensor Programs IVb, section 2"
_HOMOGENEOUS = (
    "dropout", "constant_pad_nd", "pad", "mean", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "amax",
)  # fmt: skip
_NO_SHIFT = ("dropout", "rotary")
_KINDS = ("gaussian", "orthogonal", "delta_orthogonal")


class _Unit(Tunings):
    """Tunings in which a reshaped nonlinearity asks for a kernel of one and nothing else."""

    def of(self, act: Activation, bias: bool) -> Tuning | None:
        if act.name.startswith("reshaped "):
            why = f"{act.name} hands on a kernel of one: C_W = 1, C_b = 0"
            return Tuning(1.0, 0.0, 1.0, "reshaped", why)
        return super().of(act, bias)


def shaped_plan(program: Program, base: Prediction, found: Survey, wraps: Mapping[str, Wrap]) -> Plan:
    """Laws of the weights of a network with reshaped nonlinearities.

    Args:
        program: of the network as it is.
        base: prediction of the network as it is.
        found: survey of its nonlinearities.
        wraps: constants by step.

    Returns:
        The plan; a reshaped nonlinearity asks its layers for C_W = 1, C_b = 0.
    """
    shaped = reshaped_program(program, wraps, found.activations)
    frozen = frozenset(n for n, p in program.model.named_parameters(remove_duplicate=False) if not p.requires_grad)
    steps = {s.name: s for s in shaped.steps}
    moved = replace(found.places, steps=steps, weighted=tuple(s for s in shaped.steps if s.weighted))
    return full_plan(shaped, moved, base, frozen, _Unit())


@dataclass(frozen=True)
class Folded:
    """A plan with wraps folded into it.

    Attributes:
        plan: laws of the weights, wraps and all; it has none where nothing folds.
        design: constants of those that fold, and why the others do not.
        scales: factor that each parameter has taken up, for its learning rate.
    """

    plan: Plan
    design: Design
    scales: Mapping[str, float] = field(default_factory=dict)


def folding_plan(program: Program, base: Prediction, found: Survey) -> Folded:
    r"""Fold the wraps that can into the layers around them.

    .. math:: W \to a W,\quad b_W \to a b_W + b,\quad V \to \gamma V

    for the layer W before and every layer V behind a nonlinearity. The network is the same function of its inputs, and trains
    the same with the rates of its parameters times the factor (Adam) or its square (SGD).

    Args:
        program: of the network as it is.
        base: prediction of the network as it is.
        found: survey of its nonlinearities.

    Returns:
        The plan, and what does not fold.
    """
    places = found.places
    names = Counter(tied_parameters(program.model).values())
    uses = Counter(p for s in program.steps for slot in ("weight", "bias") if (p := parameter_of(s, program, slot)))
    free = {n for n, p in program.model.named_parameters() if p.requires_grad and names[n] == 1 and uses[n] == 1}
    made = design_folding(found, lambda name, wrap: _obstacle(places.steps[name], wrap, places, program, free))
    wraps = made.wraps
    if not wraps:
        return Folded(Plan("reshaped"), made)
    plan = shaped_plan(program, base, found, wraps)
    scales: dict[str, float] = {}
    shifts: dict[str, float] = {}
    for name, wrap in wraps.items():
        before = places.feeding(places.steps[name])
        if before is None:
            continue
        for slot in ("weight", "bias"):
            parameter = parameter_of(before, program, slot)
            if parameter is not None:
                scales[parameter] = scales.get(parameter, 1.0) * wrap.a
        bias = parameter_of(before, program, "bias")
        if bias is not None and wrap.b:
            shifts[bias] = wrap.b
        for layer in _readers(places.steps[name], places) or []:
            weight = parameter_of(layer, program) or ""
            scales[weight] = scales.get(weight, 1.0) * wrap.gamma
    return Folded(_scaled(plan, program, scales, shifts), made, scales)


def _scaled(plan: Plan, program: Program, scales: Mapping[str, float], shifts: Mapping[str, float]) -> Plan:
    laws, decisions = dict(plan.laws), {d.layer: d for d in plan.decisions}
    for name, factor in scales.items():
        law = laws.get(name) or _stated(program, name)
        shift = shifts.get(name, 0.0)
        new = replace(law, std=law.std * factor, mean=law.mean * factor + shift)
        if new == law and name not in laws:
            continue
        laws[name] = new
        moved = f"times {factor:.5g}" + (f" plus {shift:.5g}" if shift else "")
        old = decisions.get(name)
        why = f"{old.why}; {moved} of the affine wraps beside it" if old else f"{moved} of the affine wraps beside it"
        before = old.before if old else words(program.laws[name])
        what = "bias" if law.fan_in == 1 else "weights"
        source = f"{old.source}; {_FOLD}" if old and old.source else _FOLD
        decisions[name] = Decision(what, name, before, words(new), why, source)
    return Plan("reshaped", laws, list(decisions.values()))


def _stated(program: Program, name: str) -> ParameterLaw:
    """The law that a parameter has, as one that can be drawn."""
    law = program.laws[name]
    if not law.random:
        return ParameterLaw("constant", 0.0, law.mean, law.fan_in)
    kind = law.kind if law.kind in _KINDS else "gaussian"
    return ParameterLaw(kind, math.sqrt(max(law.second_moment - law.mean**2, 0.0)), law.mean, law.fan_in)


def _obstacle(step: Step, wrap: Wrap, places: Places, program: Program, free: set[str]) -> str:
    """Why a wrap does not fold; "" where it does."""
    before = places.feeding(step)
    if before is None or before.op not in ("linear", "conv", "conv_transpose"):
        return "no layer with weights comes right before it"
    if len(places.following(before)) != 1:
        return "the layer before it is read elsewhere too"
    weight, bias = parameter_of(before, program), parameter_of(before, program, "bias")
    if weight not in free or (bias is not None and bias not in free):
        return "the layer before it has parameters that are frozen, tied or used twice"
    if wrap.b and bias is None:
        return "the layer before it has no bias"
    if wrap.b and any(between.op in _NO_SHIFT for between in _between(step, places)):
        return "what comes between it and the layer before it passes on no shift"
    readers = _readers(step, places)
    if readers is None:
        return "something other than layers with weights reads it"
    if any(parameter_of(r, program) not in free for r in readers):
        return "a layer behind it has weights that are frozen, tied, computed or used twice"
    return ""


def _between(step: Step, places: Places) -> list[Step]:
    """The steps that a nonlinearity's input passes through after the layer that makes it."""
    found: list[Step] = []
    source = places.steps.get(data_input(step) or "")
    while source is not None and passing(source):
        found.append(source)
        source = places.steps.get(data_input(source) or "")
    return found


def _readers(step: Step, places: Places) -> list[Step] | None:
    """The layers that read a nonlinearity, seen through what hands a positive factor on; None where others do."""
    found: list[Step] = []
    for name in places.users.get(step.name, ()):
        user = places.steps[name]
        if user.op in ("linear", "conv", "conv_transpose"):
            found.append(user)
            continue
        more = _readers(user, places) if passing(user) or user.op in _HOMOGENEOUS else None
        if more is None:
            return None
        found += more
    return found or None
