"""Evidence made by hand: chains, streams and transformers with the numbers that a rule should fire on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leadline.check import Evidence, InputFacts, Pair, Point
from leadline.program.laws import Law


def law(C_W: float = 1.0, fan_in: int = 100, name: str = "w") -> Law:
    second = C_W / fan_in
    return Law(name, "gaussian", 0.0, second**0.5, second, fan_in, C_W, True, False)


def sides(**values: float | None) -> dict[str, Pair]:
    return {name: Pair(predicted=v) for name, v in values.items() if v is not None}


def chain(
    kernels: Sequence[float],
    correlations: Sequence[float] | None = None,
    responses: Sequence[float] | None = None,
    spreads: Sequence[float] | None = None,
    chi_perp: Sequence[float] | None = None,
    width: int = 100,
) -> Evidence:
    """Linear layers in a row; ``responses``: J K / K_out."""
    points = []
    for i, K in enumerate(kernels):
        R = 1.0 if responses is None else responses[i]
        values = sides(
            kernel=K,
            correlation=0.2 if correlations is None else correlations[i],
            partial_jacobian=R * kernels[-1] / K if K else 0.0,
            spread=None if spreads is None else spreads[i],
            chi_perp=None if chi_perp is None else chi_perp[i],
        )
        inputs = (f"s{i - 1}",) if i else ()
        points.append(Point(f"s{i}", f"fc{i}", "linear", values, inputs=inputs, width=width, weight=law(1.0, width)))
    return Evidence(points=tuple(points), inputs=(InputFacts("x", 0.0, 1.0, 1.0, 0.0),))


def nonlinear(shape: str, flat: float, dead: float | None = None) -> Evidence:
    """A linear layer, a nonlinearity with this flat share, and a linear layer."""
    base = chain([1.0, 1.0])
    act = Point(
        "act", "act", "pointwise", sides(kernel=0.5, flat_fraction=flat), inputs=("s0",), shape=shape, dead=dead
    )
    return replace(base, points=(base.points[0], act, base.points[1]))


def stream(blocks: int, branch: float, *, post_norm: bool = False, stds: float = 0.02, start: float = 1.0) -> Evidence:
    """A residual stream whose branches each add a kernel of ``branch``; the sums are normed again for post-LN."""
    points = [Point("emb", "emb", "embedding", sides(kernel=start, correlation=0.3, partial_jacobian=1.0))]
    K, last = start, "emb"
    for i in range(blocks):
        inner = Law("w", "gaussian", 0.0, 0.02, 4e-4, 100, 0.04, True, False)
        end = Law("w", "gaussian", 0.0, stds, stds**2, 100, 100 * stds**2, True, False)
        points.append(
            Point(f"in{i}", f"h.{i}.fc", "linear", sides(kernel=1.0), inputs=(last,), spine=False, weight=inner)
        )
        points.append(
            Point(f"b{i}", f"h.{i}.proj", "linear", sides(kernel=branch), inputs=(f"in{i}",), spine=False, weight=end)
        )
        K += branch
        points.append(
            Point(
                f"a{i}",
                f"h.{i}",
                "add",
                sides(kernel=K, correlation=0.3, partial_jacobian=1.0 / K),
                inputs=(last, f"b{i}"),
            )
        )
        last = f"a{i}"
        if post_norm:
            points.append(
                Point(f"n{i}", f"h.{i}.norm", "layer_norm", sides(kernel=1.0, correlation=0.3, partial_jacobian=1.0),
                      inputs=(last,), eps=1e-5)
            )  # fmt: skip
            K, last = 1.0, f"n{i}"
    if not post_norm:
        points.append(
            Point("ln", "ln", "layer_norm", sides(kernel=1.0, partial_jacobian=1.0), inputs=(last,), eps=1e-5)
        )
    points.append(Point("head", "head", "linear", sides(kernel=1.0, partial_jacobian=1.0), inputs=(points[-1].step,)))
    return Evidence(points=tuple(points))
