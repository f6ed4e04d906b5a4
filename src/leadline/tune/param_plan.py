"""A parametrization worked out for one network: what each weight is drawn with, and which rate it trains at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from leadline.program import Program, tied_parameters
from leadline.tune.groups import DECOUPLED, ROLES, vector_decay
from leadline.tune.init_design import branch_factors
from leadline.tune.init_places import Places
from leadline.tune.param_abc import Parametrization, Shift, kind_of
from leadline.tune.param_fold import attention_heads, branch_multiplier, in_branches, step_parameters, tied_gain
from leadline.tune.param_match import Grown, against, grown
from leadline.tune.recipe import Decision, Group

__all__ = ["Factors", "Plan", "plan_factors", "scaled_groups"]

_DEPTH = "Yang et al. (2023), Tensor programs VI; Marion et al. (2022), Scaling ResNets in the large-depth regime"
_ATTENTION = "Yang et al. (2022), Tensor programs V, section 4"


@dataclass
class Factors:
    """What one parameter takes, against its counterpart.

    Attributes:
        grown: how it differs from it.
        std: factor on the size of its entries.
        rate: factor on its learning rate.
        decay: factor on its weight decay.
        folded: of ``std``, what is a multiplier of the network and not a size that the weight should have.
        part: what sets it apart from others of its role, in words.
        why: reasons of the factor on its size.
    """

    grown: Grown
    std: float = 1.0
    rate: float = 1.0
    decay: float = 1.0
    folded: float = 1.0
    part: str = ""
    why: list[str] = field(default_factory=list)

    def fold(self, factor: float, optimizer: str, part: str, why: str) -> None:
        """Take a multiplier into the weight; its rate and decay follow by the abc symmetry."""
        shift = Shift.of(1.0, optimizer)
        self.std *= factor
        self.folded *= factor
        self.rate *= factor**shift.rate
        self.decay *= factor**shift.decay
        self.part = part
        self.why.append(why)


@dataclass
class Plan:
    """Factors of every parameter, by qualified name, and what is to be said about them."""

    factors: dict[str, Factors]
    decisions: list[Decision] = field(default_factory=list)


def plan_factors(chosen: Parametrization, program: Program, places: Places, base: tuple[Program, Places] | int) -> Plan:
    r"""Work out the factors of every parameter from how its fans have grown.

    With the multipliers folded away (a = 0) and r the ratio of a fan to that of the counterpart,

    .. math::
        \frac{\sigma}{\sigma_0} = r_\text{in}^{-b}, \qquad \frac{\eta}{\eta_0} = r_\text{out}^{p}\, r_\text{in}^{-(c+p)}
        \quad\text{(hidden)}, \qquad r_\text{in}^{-c}\ \text{(output)}, \qquad
        r_\text{out}^{-c}\ \text{(input, embedding, vector)}

    where p is minus the input's c: what a layer's rate owes to its fan-out does not depend on what feeds it.

    Args:
        chosen: the parametrization.
        program: of the network.
        places: of its steps.
        base: Program and places of the small network, or a width against which fans are counted.

    Returns:
        The factors; of a size, against the base's, or against 1/sqrt(fan-in) where the base is a width.
    """
    low = chosen.folded()
    ratios = against(program, places, base) if isinstance(base, int) else grown(program, places, *base)
    p = -low.input.c
    plan = Plan({})
    inside, inside_rate = _depth(chosen, program, places, base)
    for name, g in ratios.items():
        found = Factors(g)
        if g.role == "hidden":
            found.std, found.rate = g.fan_in**-low.hidden.b, g.fan_out**p * g.fan_in ** -(low.hidden.c + p)
        elif g.role == "output":
            found.std, found.rate = g.fan_in**-low.output.b, g.fan_in**-low.output.c
        else:
            found.std, found.rate = g.fan_out**-low.input.b, g.fan_out**-low.input.c
        if isinstance(base, int) and g.role in ("hidden", "output"):
            found.std *= math.sqrt(g.fan_in)
        if found.std != 1:
            found.why.append(f"{g.role} weights under {chosen.name}: a fan-in of {g.fan_in:.4g} times the base's")
        if name in inside:
            found.rate *= inside_rate
            found.part = "in a branch"
        if chosen.optimizer in DECOUPLED or kind_of(chosen.optimizer) == "linear":
            found.decay = 1 / found.rate  # a step forgets the same share of every weight
        plan.factors[name] = found
    if not isinstance(base, int):
        _branches(plan, chosen, program, places, base)
        _attention(plan, chosen, program, places, base)
    _tied(plan, chosen, program, places)
    return plan


def _depth_ratio(places: Places, base_places: Places) -> float:
    ends, base_ends = branch_factors(places), branch_factors(base_places)
    if not ends or not base_ends:
        return 1.0
    return min(f for f, _ in ends.values()) / min(f for f, _ in base_ends.values())


def _depth(
    chosen: Parametrization, program: Program, places: Places, base: tuple[Program, Places] | int
) -> tuple[frozenset[str], float]:
    """Parameters inside branches, and the factor on their rates; none where depth is not accounted for or the same."""
    if isinstance(base, int) or not chosen.branch_rate:
        return frozenset(), 1.0
    rate = _depth_ratio(places, base[1]) ** (chosen.branch_rate / chosen.branch)
    return (in_branches(program, places), rate) if rate != 1 else (frozenset(), 1.0)


def _branches(
    plan: Plan, chosen: Parametrization, program: Program, places: Places, base: tuple[Program, Places]
) -> None:
    """Fold the multiplier of each residual branch into its last weights."""
    if _depth_ratio(places, base[1]) == 1:
        return
    if not chosen.branch:
        said = f"{len(places.branches)} residual branches against the base's {len(base[1].branches)}: '{chosen.name}' says "
        plan.decisions.append(Decision("advice", "", "", "", f"{said}nothing of depth; 'depth_mup' does.", _DEPTH))
        return
    factors, base_factors = branch_factors(places), branch_factors(base[1])
    first, base_first = tied_parameters(program.model), tied_parameters(base[0].model)
    base_branches = {base_first[b.parameter]: b for b in base[1].branches if b.parameter}
    for branch in places.branches:
        if not branch.parameter or branch.end is None:
            said = f"the branch that ends at '{branch.sum}' takes no factor, since it ends in {branch.obstacle}."
            plan.decisions.append(Decision("advice", branch.sum, "", "", said, _DEPTH))
            continue
        end = plan.factors[first[branch.parameter]]
        other = base_branches.get(end.grown.base)
        if other is None or end.part == "ends a branch":
            continue
        wanted = factors[branch.parameter][0] / base_factors[other.parameter][0]
        coded = branch_multiplier(branch, program, places) / branch_multiplier(other, *base)
        factor = wanted / coded
        if math.isclose(factor, 1):
            continue
        why = f"it ends one of {len(places.branches)} branches against {len(base[1].branches)}, 1/sqrt(depth) each"
        why += "" if coded == 1 else f", of which the network's code has {coded:.4g}"
        for name in step_parameters(places.steps[branch.end], program):
            plan.factors[name].fold(factor, chosen.optimizer, "ends a branch", why)


def _attention(
    plan: Plan, chosen: Parametrization, program: Program, places: Places, base: tuple[Program, Places]
) -> None:
    """Fold 1/(head dimension) into the queries' weights, where the head dimension grows."""
    here, there = attention_heads(program, places), attention_heads(*base)
    if not chosen.attention or not there:
        return
    by_weight = {h.weights: h for h in there if h.weights}
    said: set[str] = set()
    for head in here:
        other = by_weight.get(tuple(plan.factors[n].grown.base for n in head.weights), there[0])
        wanted = (head.size / other.size) ** -(0.5 + chosen.attention)
        factor = wanted / (head.scale / other.scale)
        if math.isclose(factor, 1):
            continue
        if not head.weights:
            why = (
                f"heads of {head.size} against {other.size} ask for a factor {factor:.4g} on the logits, which does not fold: "
                f"{head.obstacle}. Keep the head dimension and add heads, or scale the logits in the code."
            )
            if head.obstacle not in said:
                plan.decisions.append(Decision("advice", head.layer, "", "", why, _ATTENTION))
            said.add(head.obstacle)
            continue
        why = (
            f"heads of {head.size} against {other.size}: logits go as 1/dimension, of which 1/sqrt(dimension) is there"
        )
        for name in head.weights:
            plan.factors[name].fold(factor, chosen.optimizer, "queries", why)


def _tied(plan: Plan, chosen: Parametrization, program: Program, places: Places) -> None:
    """Give the output's factor to the norm before it, where the matrix is the embedding too."""
    name, takers, obstacle = tied_gain(program, places)
    if name is None or name not in plan.factors:
        return
    low = chosen.folded()
    width = plan.factors[name].grown.fan_out
    factor = width ** -(low.output.b - low.input.b)
    if math.isclose(factor, 1):
        return
    gain = program.laws.get(takers[0]) if takers else None
    if gain is not None and gain.kind != "constant":
        takers, obstacle = (), "the norm before it has a gain that is not constant"
    if not takers:
        why = f"it is the output layer too and should be {factor:.4g} times smaller there, which does not fold: {obstacle}. "
        why += "Untie it, or scale the logits in the code."
        plan.decisions.append(Decision("advice", name, "", "", why, chosen.source))
        return
    why = f"the output matrix is the embedding too, so that its factor {factor:.4g} goes into the norm before it"
    for taker in takers:
        plan.factors[taker].fold(factor, chosen.optimizer, "takes the output's factor", why)


def scaled_groups(plan: Plan, optimizer: str, rates: Mapping[str, float | None]) -> tuple[Group, ...]:
    """Parameters of one role and one factor on rate and decay, together.

    Args:
        plan: the factors.
        optimizer: name.
        rates: learning rate of each parameter's counterpart, None where it is not known.

    Returns:
        The groups.
    """
    found: dict[tuple[str, str, float, float, float | None], list[str]] = {}
    for name, f in plan.factors.items():
        key = (f.grown.role, f.part, _rounded(f.rate), _rounded(f.decay), rates.get(name))
        found.setdefault(key, []).append(name)
    groups: list[Group] = []
    for role, part, rate, decay, lr in sorted(found, key=lambda k: ROLES.index(k[0])):
        names = found[role, part, rate, decay, lr]
        taken = [g.name for g in groups]
        label = role if not part else f"{role}, {part}"
        number = sum(n == label or n.startswith(f"{label} (") for n in taken)
        fixed = vector_decay(optimizer) if role == "vector" else None
        groups.append(
            Group(
                f"{label} ({number + 1})" if number else label,
                tuple(names),
                None if lr is None else lr * rate,
                fixed,
                rate,
                1.0 if fixed is not None else decay,
            )
        )
    return tuple(groups)


def _rounded(value: float) -> float:
    return float(f"{value:.12g}")
