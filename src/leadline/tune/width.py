"""Width against depth: how far apart two seeds of one network are, and what would bring them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leadline.activations import Activation, activation
from leadline.check.spine import spine_of
from leadline.plot import number
from leadline.program import Program, Step
from leadline.program.errors import plain
from leadline.theory import Prediction, predict
from leadline.theory.aspect_ratio import residual_flow
from leadline.theory.criticality import critical_point, third_moment
from leadline.theory.rows import Row
from leadline.tune.init_design import Plan
from leadline.tune.init_places import NORMS, find_places
from leadline.tune.recipe import Decision, ParameterLaw

__all__ = ["LIMIT", "WidthForDepth", "width_decision", "width_for_depth"]

LIMIT = 0.5
_SOURCE = (
    "Hanin & Rolnick (2018), How to start training; Roberts, Yaida & Hanin (2022), The principles of deep learning theory, "
    "section 3.3 and appendix B.3"
)
_SMALLEST, _CLOSE = 0.02, 0.02  # least factor of a branch, and how well its logarithm is found
_LEAST = 1e-3  # of 1 - gamma


@dataclass(frozen=True)
class WidthForDepth:
    r"""The number that depth over width comes to, and three ways to bring it below a limit.

    .. math:: \sum_l \ln(1 + \nu_l/n_l) \approx \nu \sum_l 1/n_l

    Attributes:
        number: that sum, the logarithm of 1 + the relative variance of the signal's scale.
        ratio: sum of 1/n_l over the layers (or blocks) that add to it.
        depth: how many those are.
        layer: where the number is reached.
        limit: that it should stay below.
        blocks: whether they are blocks of a residual stream.
        wider: factor on every width that brings it to the limit; 1 where it is below.
        shallower: largest number of those layers that stays below the limit, at these widths.
        branch: factor on the last weights of every residual branch that does; None where there is none or none does.
        skip: gamma of a skip :math:`z' = \gamma z + W s(z) + b` around each layer that does, with W at the critical
            point for it; None where the network is no chain of one nonlinearity.
    """

    number: float
    ratio: float
    depth: int
    layer: str
    limit: float
    blocks: bool
    wider: float
    shallower: int
    branch: float | None = None
    skip: float | None = None

    @property
    def nu(self) -> float:
        """The number per unit of depth over width."""
        return self.number / self.ratio if self.ratio > 0 else 0.0

    @property
    def width(self) -> float:
        """Harmonic mean of the widths."""
        return self.depth / self.ratio if self.ratio > 0 else math.inf

    @property
    def factor(self) -> float:
        """Typical factor between the scale of one seed and that of the next."""
        return math.exp(math.sqrt(self.number))

    def __str__(self) -> str:
        """The numbers in plain words."""
        what = "block" if self.blocks else "layer"
        said = (
            f"nu * sum 1/n = {number(self.nu)} * {number(self.ratio)} = {number(self.number)} "
            f"({_count(self.depth, what)} of width {number(self.width)}): from one seed to the next the scale of the signal "
            f"differs by a factor of about {self.factor:.2g}"
        )
        if self.number < self.limit:
            return f"{said}, which is below {self.limit:g} and no reason to worry."
        ways = [f"make them {number(self.wider)} times wider ({math.ceil(self.wider * self.width)})"]
        if self.shallower > 0:
            ways.append(f"keep {_count(self.shallower, what)} of this width")
        if self.branch is not None:
            ways.append(f"multiply the last weights of each residual branch by {number(self.branch)}")
        if self.skip is not None:
            ways.append(f"put a skip around each, z' = g z + W s(z) with g = {number(self.skip)} and W critical for it")
        return f"{said}, so that what works for one need not for another: to come below {self.limit:g}, {', or '.join(ways)}."


def _count(many: int, what: str) -> str:
    return f"{many} {what}{'' if many == 1 else 's'}"


def width_for_depth(
    program: Program, prediction: Prediction | None = None, *, limit: float = LIMIT
) -> WidthForDepth | None:
    r"""How a network's depth compares with its width, from what theory predicts of every layer.

    .. math:: \prod_l (1 + \nu_l/n_l) = 1 + \frac{\mathrm{Var}\,\hat K}{(\mathrm E \hat K)^2}

    The largest value on the way from input to output counts. Other widths change each factor's n; fewer layers leave
    factors out; another scale of the residual branches is predicted anew.

    Args:
        program: from :func:`leadline.trace`.
        prediction: of it; None: made here.
        limit: that the number should stay below.

    Returns:
        The numbers; None where theory gives no spread.

    Example:
        >>> import torch, leadline
        >>> layers = [torch.nn.Linear(32, 32, bias=False) for _ in range(9)]
        >>> for layer in layers: _ = torch.nn.init.normal_(layer.weight, std=(2 / 32) ** 0.5)
        >>> net = torch.nn.Sequential(*(m for layer in layers for m in (layer, torch.nn.ReLU())), torch.nn.Linear(32, 4))
        >>> found = width_for_depth(leadline.trace(net, torch.randn(4, 32)))
        >>> round(found.number, 2), found.depth, found.shallower  # 9 ln(1 + 5/32)
        (1.31, 9, 3)
    """
    prediction = predict(program) if prediction is None else prediction
    path = _path(program, prediction.rows)
    if path is None or not path or max(value for _, value in path) <= 0:
        return None
    rises, worst = _rises(path)
    blocks = any(step.op == "add" for step, _ in rises)
    counted = [s for s, _ in rises if s.op == "add" or not blocks]
    rates = [c for _, c in rises]

    def reached(wider: float, depth: int = len(rates)) -> float:
        return sum(math.log1p(c / wider) for c in rates[:depth])

    below = [step for i, (step, _) in enumerate(rises) if reached(1.0, i + 1) < limit]
    total = reached(1.0)
    found = WidthForDepth(
        total, sum(1 / s.width for s in counted), len(counted), worst.layer or worst.op, limit, blocks, wider=1.0,
        shallower=len([s for s in below if s in counted]),
    )  # fmt: skip
    if total < limit:
        return found
    return replace(
        found,
        wider=_solve(reached, limit, 1.0, 2 * sum(rates) / limit),
        branch=_branch(program, limit) if blocks else None,
        skip=None if blocks else _skip(program, prediction.rows, found),
    )


def width_decision(program: Program | None, prediction: Prediction | None, said: str = "") -> tuple[Decision, ...]:
    """What a recipe says of width and depth.

    Args:
        program: of the network with the recipe applied.
        prediction: of it.
        said: words before the numbers.

    Returns:
        One piece of advice, or none where theory gives no spread.
    """
    found = None if program is None or prediction is None else width_for_depth(program, prediction)
    return (
        () if found is None else (Decision("width and depth", plain(found.layer), "", "", said + str(found), _SOURCE),)
    )


def _path(program: Program, rows: Sequence[Row]) -> list[tuple[Step, float]] | None:
    """Steps that every way passes through, with the logarithm of 1 + the spread; None where theory does not know all."""
    steps = {s.name: s for s in program.steps}
    spine = spine_of(list(steps), {n: s.inputs for n, s in steps.items()}, program.output)
    found = []
    for row in rows:
        value = row.get("spread")
        if row.step in spine and row.op not in NORMS:  # a norm takes the spread away
            if value is None or not math.isfinite(value):
                return None
            found.append((steps[row.step], math.log1p(max(value, 0.0))))
    return found


def _rises(path: Sequence[tuple[Step, float]]) -> tuple[list[tuple[Step, float]], Step]:
    """The steps that raise the spread up to its largest value since it was last nothing, each with its own part."""
    top = max(range(len(path)), key=lambda i: path[i][1])
    start = max((i for i in range(top) if path[i][1] <= 0), default=0)
    rises, high = [], 0.0
    for step, value in path[start : top + 1]:
        if value > high * (1 + 1e-9):
            rises.append((step, math.expm1(value - high)))
            high = value
    return rises, path[top][0]


def _branch(program: Program, limit: float) -> float | None:
    """Factor on the last weights of the residual branches that brings the number below the limit."""
    names = {b.parameter for b in find_places(program).branches if b.parameter in program.laws}

    def excess(log_factor: float) -> float:
        laws = {n: _scaled(program, n, math.exp(log_factor)) for n in names}
        path = _path(program, predict(Plan("width", laws).stated(program)).rows)
        return math.log(max((value for _, value in path or []), default=math.inf) / limit)

    low = math.log(_SMALLEST)
    if not names or excess(low) >= 0:
        return None
    from scipy.optimize import brentq

    return math.exp(brentq(excess, low, 0.0, xtol=_CLOSE) - _CLOSE)


def _scaled(program: Program, name: str, factor: float) -> ParameterLaw:
    old = program.laws[name]
    kind = old.kind if old.kind in ("orthogonal", "delta_orthogonal") else "gaussian"
    return ParameterLaw(kind, factor * old.std, factor * old.mean, old.fan_in)


def _skip(program: Program, rows: Sequence[Row], found: WidthForDepth) -> float | None:
    """Strength of a skip around each layer of a chain that brings the number below the limit, to first order in 1/n."""
    steps = [s for s in program.steps if s.op == "pointwise" and s.fn is not None]
    K = next((k for r in rows if r.op in ("linear", "conv") and (k := r.get("kernel"))), None)
    if not steps or K is None or len({_values(s) for s in steps}) > 1:
        return None
    point = critical_point(steps[0].fn)
    if point.C_W is None or point.C_b is None:
        return None
    act, C_W, C_b = activation(steps[0].fn), point.C_W, point.C_b

    def reached(shift: float) -> float:
        gamma = 1 - shift
        left = 1 - gamma**2  # what the skip leaves of the critical weights and biases
        flow = residual_flow(act, found.depth, K=K, C_W=left * C_W, C_b=left * C_b, residual=gamma)
        return _after_activation(act, flow.K[-1], flow.kappa[-1], flow.V[-1]) / found.width

    if reached(_LEAST) >= found.limit:
        return None
    return 1 - _solve(reached, found.limit, 1.0, _LEAST)


def _after_activation(act: Activation, K: Tensor, kappa: Tensor, V: Tensor) -> float:
    """Relative variance of the mean of s(z)^2 over the last layer, whose z has these vertices, times its width."""
    g, slope = act.second_moment(K), act.second_moment_slope(K)
    own = act.fourth_moment(K) - g**2
    return float((slope**2 * V + own + 2 * third_moment(act, K) / K * slope * kappa) / g**2)


def _values(step: Step) -> tuple[float, ...]:
    return () if step.fn is None else tuple(step.fn(torch.linspace(-3.0, 3.0, 7, dtype=torch.float64)).tolist())


def _solve(function: Callable[[float], float], limit: float, above: float, below: float) -> float:
    """An argument at which a monotonic function is just below a limit, between one where it is not and one where it is."""
    while abs(above - below) > 1e-3 * abs(below):
        middle = (above + below) / 2
        above, below = (above, middle) if function(middle) < limit else (middle, below)
    return below
