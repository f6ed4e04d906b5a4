"""From places to laws: what each layer with weights is drawn from, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from leadline.program import Law, Program, Step
from leadline.theory import Prediction
from leadline.tune.init_critical import Tuning, Tunings
from leadline.tune.init_moments import Moments
from leadline.tune.init_places import NORMS, Branch, Places, parameter_of
from leadline.tune.recipe import Decision, ParameterLaw

__all__ = ["Plan", "branch_factors", "full_plan", "residual_plan"]

_DEEP = 8  # layers of a plain chain from which orthogonal weights are worth having
_SIGMAS = 4.0
_FEWEST = 16  # channels below which a delta-orthogonal kernel may miss every useful direction
_CRITICALITY = "Roberts, Yaida & Hanin (2022), The principles of deep learning theory, chapter 5"
_DEPTH = "Hayou et al. (2021), Stable ResNet; Radford et al. (2019), section 2.3"
_ISOMETRY = "Pennington, Schoenholz & Ganguli (2017), Resurrecting the sigmoid; Xiao et al. (2018), Dynamical isometry"


@dataclass
class Plan:
    """Laws by parameter, with the reasons.

    Attributes:
        name: "residual" (branches alone) or "full".
        laws: of the parameters that change, by the names that the Program uses.
        decisions: one a parameter.
    """

    name: str
    laws: dict[str, ParameterLaw] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    def put(self, what: str, old: Law, new: ParameterLaw, why: str, source: str) -> None:
        """Set the law of a parameter, unless it has one, or has it already."""
        if old.name in self.laws or same(old, new):
            return
        self.laws[old.name] = new
        self.decisions.append(Decision(what, old.name, words(old), words(new), why, source))

    def stated(self, program: Program) -> Program:
        """The Program under these laws, as predictions and measurements take it."""
        return replace(program, laws={**program.laws, **{n: law.law(n) for n, law in self.laws.items()}})


def words(law: Law | ParameterLaw) -> str:
    """A law in a few words."""
    if law.kind == "constant":
        return f"{law.mean:.4g}"
    symbol = "C_b" if law.fan_in == 1 else "C_W"
    mean = f", mean {law.mean:.3g}" if law.mean else ""
    return f"{law.kind.replace('_', '-')}, {symbol} = {law.C_W:.4g} (std {law.std:.4g}{mean})"


def same(old: Law, new: ParameterLaw) -> bool:
    """Whether a parameter has this law already."""
    if new.kind == "constant":
        return old.kind == "constant" and old.mean == new.mean
    return old.kind == new.kind and math.isclose(old.C_W, new.C_W, rel_tol=0.02) and math.isclose(old.mean, new.mean)


def branch_factors(places: Places) -> dict[str, tuple[float, str]]:
    r"""Factor on the last weights of each residual branch, with the reason.

    .. math:: \sum_g (m_g f_g)^2 = 1 \quad\Rightarrow\quad f_g = \frac{1}{m_g \sqrt{G}}

    G weights end branches, the g-th of them m_g branches: 1/sqrt(L) for L independent branches, whose variances add, and
    1/L where all share one weight, so that their amplitudes add.

    Args:
        places: of the network.

    Returns:
        Parameter name to factor and reason.
    """
    ends = [b.parameter for b in places.branches if b.parameter]
    groups = dict.fromkeys(ends)
    found = {}
    for name in groups:
        shared = ends.count(name)
        factor = 1 / (shared * math.sqrt(len(groups)))
        if shared == 1:
            why = (
                f"one of {len(ends)} independent branches, whose variances add: 1/sqrt({len(ends)}) = {factor:.4g} each"
            )
        else:
            how = f"1/({shared} sqrt({len(groups)}))" if len(groups) > 1 else f"1/{shared}"
            why = f"it ends {shared} of {len(ends)} branches, whose amplitudes add: {how} = {factor:.4g}"
        found[name] = (factor, why)
    return found


def residual_plan(program: Program, places: Places, frozen: frozenset[str]) -> Plan:
    """Scale the last weights of every residual branch, and nothing else.

    Args:
        program: of the network.
        places: of its steps.
        frozen: parameters that stay as they are.

    Returns:
        The plan; it has no laws where there are fewer than two branches.
    """
    plan = Plan("residual")
    if len(places.branches) < 2:
        return plan
    factors = branch_factors(places)
    sizes = _pooled([program.laws[n] for n in factors], [program.exported.state[n].numel() for n in factors])
    for name, (factor, why) in factors.items():
        old = program.laws[name]
        if name in frozen or old.std == 0:
            continue
        kind = old.kind if old.kind in ("orthogonal", "delta_orthogonal") else "gaussian"
        law = ParameterLaw(kind, factor * sizes[name], 0.0, old.fan_in)
        plan.put("residual branch", old, law, why, _DEPTH)
    return plan


def _pooled(laws: list[Law], counts: list[int]) -> dict[str, float]:
    """Root mean square of each law's entries; those of one fan-in that differ by sampling alone share theirs."""
    sizes = {law.name: math.sqrt(law.second_moment) for law in laws}
    found = dict(sizes)
    for fan in {law.fan_in for law in laws}:
        members = [(law.name, n) for law, n in zip(laws, counts, strict=True) if law.fan_in == fan]
        middle = sorted(sizes[name] for name, _ in members)[len(members) // 2]
        alike = [name for name, n in members if abs(sizes[name] - middle) <= _SIGMAS * middle / math.sqrt(2 * n)]
        pooled = math.sqrt(sum(sizes[name] ** 2 for name in alike) / len(alike))
        found |= dict.fromkeys(alike, pooled)
    return found


def full_plan(
    program: Program, places: Places, base: Prediction, frozen: frozenset[str], tunings: Tunings | None = None
) -> Plan:
    """Plan every layer from what feeds it and what follows it.

    Args:
        program: of the network.
        places: of its steps.
        base: prediction of the network as it is.
        frozen: parameters that stay as they are.
        tunings: what nonlinearities ask of the layers around them; by default their critical points.

    Returns:
        The plan.
    """
    return _Planner(program, places, base, frozen, tunings or Tunings()).run()


class _Planner:
    def __init__(
        self, program: Program, places: Places, base: Prediction, frozen: frozenset[str], tunings: Tunings
    ) -> None:
        self.program, self.places, self.frozen = program, places, frozen
        self.moments = Moments(program, places, base)
        self.tunings = tunings
        self.factors = branch_factors(places) if len(places.branches) > 1 else {}
        self.plan = Plan("full")
        self.chain = [s for s in places.weighted if self._in_chain(s)]
        if len(self.chain) >= _DEEP and not places.branches:
            self.tunings.depth = len(self.chain)
        self.entry: float | None = None

    def run(self) -> Plan:
        self.moments.run(self._step)
        return self.plan

    def _in_chain(self, step: Step) -> bool:
        """A hidden layer on every path that reads a nonlinearity, so that its law is repeated with depth."""
        source = self.places.feeding(step)
        return step.name in self.places.spine and source is not None and source.op == "pointwise"

    def _step(self, step: Step, M: float) -> tuple[float, float]:
        name, bias = parameter_of(step, self.program), parameter_of(step, self.program, "bias")
        old = self.program.laws.get(name or "")
        old_bias = self.program.laws.get(bias or "")
        here = self.moments.edge(step)
        kept = (old.C_W * here if old is not None else 1.0), (old_bias.second_moment if old_bias is not None else 0.0)
        if old is None or name in self.frozen or step.op == "embedding":
            return kept
        planned = self.plan.laws.get(old.name)
        if planned is not None:  # one weight in several steps: the first decides
            return planned.C_W * here, (self.plan.laws[bias].C_W if bias in self.plan.laws else kept[1])
        free = old_bias if old_bias is not None and bias not in self.frozen else None
        kind = self._kind(step)
        edge = 1.0 if kind == "delta_orthogonal" else self.moments.edge(step)
        C_W, C_b, why, source, what = self._decide(step, M * edge, edge, free is not None)
        if not (math.isfinite(C_W) and C_W > 0):
            return kept
        law = ParameterLaw(kind, math.sqrt(C_W / old.fan_in), 0.0, old.fan_in)
        if law.kind != "gaussian":
            why, source = f"{why}; {self._why_orthogonal(law)}", f"{source}; {_ISOMETRY}"
        self.plan.put(what, old, law, why, source)
        if free is not None:
            new = ParameterLaw("gaussian", math.sqrt(C_b)) if C_b > 0 else ParameterLaw("constant", 0.0)
            self.plan.put("bias", free, new, why if C_b > 0 else "C_b = 0 at this layer's place", source)
        return C_W * edge, C_b if free is not None else kept[1]

    def _decide(self, step: Step, M: float, edge: float, bias: bool) -> tuple[float, float, str, str, str]:
        """C_W, C_b, reason, source and kind of the decision; M is what C_W multiplies."""
        gain = max(M, 1e-30)
        branch = self.places.ending(step)
        if branch is not None and branch.parameter in self.factors:
            factor, why = self.factors[branch.parameter]
            K = self._stream(branch)
            target = factor**2 * K
            return (
                target / gain,
                0.0,
                f"{why}, so that it adds {target:.4g} to a stream of {K:.4g}",
                _DEPTH,
                "residual branch",
            )
        source, following = self.places.feeding(step), self.places.following(step)
        if not following or step.name == self.places.output:
            return 1.0 / gain, 0.0, "the output layer brings outputs to a variance of one", _CRITICALITY, "weights"
        after = self._follower(following, bias)
        if source is not None and source.op == "pointwise" and not self._normed(source):
            found = self.tunings.of(self.moments.activation(source), bias)
            if found is not None and not any(f.op in NORMS for f in following):
                return self._critical(found, after, gain, edge)
        if any(f.op in NORMS for f in following):
            return 1.0 / gain, 0.0, "a norm follows, which fixes the size: kernel 1", _CRITICALITY, "weights"
        return self._landing(source, after, gain)

    def _critical(
        self, found: Tuning, after: Tuning | None, gain: float, edge: float
    ) -> tuple[float, float, str, str, str]:
        C_W, C_b, why = found.C_W / edge, found.C_b, found.why
        if edge < 0.999:
            why += f", over the share {edge:.4g} that zero padding leaves"
        wanted = after.K if after is not None else None
        if wanted is not None and found.K is None:
            # any kernel of this activation will do, so the bias brings it to where the next one is critical
            lacking = wanted - C_W * gain
            C_W, C_b = (C_W, lacking) if lacking >= 0 else (wanted / gain, 0.0)
            why += f"; C_b = {C_b:.4g} brings the kernel to {wanted:.4g} for what follows"
        return C_W, C_b, why, _CRITICALITY, "weights"

    def _landing(self, source: Step | None, after: Tuning | None, gain: float) -> tuple[float, float, str, str, str]:
        target = after.K if after is not None and after.K is not None else 1.0
        C_b = after.C_b if after is not None and source is None and after.C_b < target else 0.0
        what = (
            "the batch" if source is None else {"mul": "a gate", "add": "the stream"}.get(source.op, f"a {source.op}")
        )
        where = "K* of what follows" if after is not None and after.K is not None else "a kernel of order one"
        why = f"it reads {what} of second moment {gain:.4g} and lands on {target:.4g}, {where}"
        return (
            (target - C_b) / gain,
            C_b,
            why.replace("a scaled_dot_product_attention", "an attention"),
            _CRITICALITY,
            "weights",
        )

    def _follower(self, following: list[Step], bias: bool) -> Tuning | None:
        """Tuning of the nonlinearity that follows, where its kernel is repeated: its own next layer reads it unnormalised."""
        for step in following:
            if step.op == "pointwise" and step.fn is not None:
                then = self.places.following(step)
                repeated = any(s.weighted and self.places.ending(s) is None for s in then)
                return self.tunings.of(self.moments.activation(step), bias) if repeated else None
        return None

    def _normed(self, step: Step) -> bool:
        source = self.places.feeding(step)
        return source is not None and source.op in NORMS

    def _stream(self, branch: Branch) -> float:
        """Kernel that a branch is measured by: of the stream where it enters the first block, or, without norms, here."""
        here = self.moments.values[branch.stream]
        if self.entry is None:
            self.entry = here
        return self.entry if branch.normed else here

    def _kind(self, step: Step) -> str:
        """Orthogonal in deep plain chains, as far as the shape allows; else Gaussian."""
        if len(self.chain) < _DEEP or step not in self.chain or step.name == self.places.output:
            return "gaussian"
        if not self.places.following(step) or self.places.branches:
            return "gaussian"
        if step.op == "linear":
            return "orthogonal"
        return "delta_orthogonal" if step.op == "conv" and self._fits_delta(step) else "gaussian"

    def _fits_delta(self, step: Step) -> bool:
        weight = self.program.exported.state[parameter_of(step, self.program) or ""]
        odd = all(k % 2 for k in weight.shape[2:])
        plain = all(s == 1 for slot in ("stride", "dilation") for s in _numbers(step.arguments.get(slot, 1)))
        padded = [2 * p + 1 for p in _numbers(step.arguments.get("padding", 0))]
        same_size = len(set(weight.shape[2:]) | set(padded)) == 1
        return (
            odd
            and plain
            and same_size
            and int(step.arguments.get("groups", 1)) == 1
            and min(weight.shape[:2]) >= _FEWEST
        )

    def _why_orthogonal(self, law: ParameterLaw) -> str:
        kind = law.kind.replace("_", "-")
        return f"{kind}, since {len(self.chain)} layers in a row multiply their spreads, which this kind has not"


def _numbers(value: object) -> list[int]:
    return (
        [int(v) for v in value]
        if isinstance(value, (list, tuple))
        else [int(value)]
        if isinstance(value, int)
        else [-1]
    )
