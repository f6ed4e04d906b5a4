"""The table of every activation's critical point, beside what is published.

``python -m leadline.testing.critical_points -o docs/theory/critical_points.md`` makes the page.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from leadline.activations import REGISTRY, activation
from leadline.theory.criticality import CriticalPoint, critical_point

__all__ = ["PUBLISHED", "Published", "main", "page", "points"]


@dataclass(frozen=True)
class Published:
    """What a source gives, and to how many digits it must agree."""

    C_W: float
    C_b: float | None
    source: str
    K: float | None = None
    rtol: float = 1e-8


_PDLT = "Roberts, Yaida and Hanin (2022), ch. 5"
_HE = "He et al. (2015)"
_DOSHI = "Doshi, He and Gromov (2023)"

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "identity": (Published(1.0, 0.0, _PDLT),),
    "relu": (Published(2.0, 0.0, _HE), Published(2.0, 0.0, _DOSHI)),
    "leaky_relu(0.01)": (Published(2 / (1 + 0.01**2), 0.0, _HE),),
    "leaky_relu(0.25)": (Published(2 / (1 + 0.25**2), 0.0, _HE),),
    "tanh": (Published(1.0, 0.0, _PDLT),),
    "sin": (Published(1.0, 0.0, _PDLT),),
    "erf": (Published(math.pi / 4, 0.0, _DOSHI),),
    # the paper rounds the two standard deviations to 1.408 and 0.416
    "gelu": (
        Published(1.98305826, 0.17292239, _PDLT, (3 + math.sqrt(17)) / 2),
        Published(1.408**2, 0.416**2, _DOSHI, rtol=2e-3),
    ),
    # the C_b that circulates with this C_W is a tenth of ours, and not critical: left out
    "silu": (Published(1.98800468, None, _PDLT),),
}
"""Published critical points by the activation's name."""


def _sum(z: Tensor) -> Tensor:
    return z + torch.sin(z)


def _shifted(z: Tensor) -> Tensor:
    return torch.sigmoid(z) - 0.5


MORE: tuple[tuple[str | None, Any], ...] = (
    (None, partial(functional.leaky_relu, negative_slope=0.2)),
    (None, nn.ELU(0.5)),
    (None, nn.CELU(2.0)),
    ("z + sin z", _sum),
    ("sigmoid - 1/2", _shifted),
)
"""Activations beyond those with a name of their own."""


def points() -> list[CriticalPoint]:
    """Critical points of every registered activation, once each, and of some more.

    Returns:
        In the order of their classes, then of the registry.
    """
    found: dict[str, CriticalPoint] = {}
    named: list[tuple[str | None, Any]] = [(None, name) for name in REGISTRY.names]
    classes = [(None, kind()) for kind in REGISTRY.modules if _free(kind)]
    for name, obj in (*named, *classes, *MORE):
        act = activation(obj) if name is None else activation(obj, name=name)
        if act.name not in found:
            found[act.name] = critical_point(act)
    order = [str(kind) for kind in type(next(iter(found.values())).universality_class)]
    return sorted(found.values(), key=lambda p: order.index(str(p.universality_class)))


def _free(kind: Callable[[], Any]) -> bool:
    try:
        kind()
    except TypeError:
        return False
    return True


_HEAD = """# Critical points

Every activation's critical initialization. The page is the output of `python -m leadline.testing.critical_points`.

$C_W$ is fan-in times the weight variance, $C_b$ the bias variance, $K^*$ the fixed point of the mean square of the
preactivations. At depth $l$ and width $n$, $K - K^* \\sim l^{-p_0}$, gradients and differences between inputs go as
$l^{-p_\\perp}$, and one network's scale spreads as $V/(nK^2) = \\nu\\, l/n$. *Error* is the estimate of the largest relative
error of $C_W$, $C_b$ and $K^*$. *Published*: $C_W$, $C_b$ and $K^*$ where the source gives them; those of Roberts, Yaida and
Hanin from secondary sources, not checked against the book itself. What the classes mean is in [Criticality](criticality.md).

"""


_NEAREST = r"""## Without a critical point

The nearest useful point is the fixed point with the largest $\chi_\perp$ of those with no susceptibility above 1; where
several have $\chi_\perp = 1$ (the edge of chaos: gradients keep their size) the one with $\chi_\parallel$ nearest to 1. Depth
scale: $1/|\ln\chi_\perp|$.

"""


def _digits(value: float | None, digits: int = 8) -> str:
    return "-" if value is None else f"{value + 0.0:.{digits}g}"


def _rows(found: Sequence[CriticalPoint]) -> Iterator[str]:
    yield "| activation | class | C_W | C_b | K* | p_0 | p_perp | nu | coefficients | error | published |"
    yield "| --- | --- | --: | --: | --: | --: | --: | --: | --- | --: | --- |"
    for p in found:
        if p.exponents is None:
            continue
        terms = {"a1": p.a1, "b1": p.b1, "a2": p.a2, "c": p.c, "chi'": p.chi_prime, "h": p.h}
        given = ", ".join(f"{k} = {_digits(v, 7)}" for k, v in terms.items() if v is not None)
        cells = [
            p.activation, str(p.universality_class), _digits(p.C_W), _digits(p.C_b),
            "any" if p.K is None else _digits(p.K), _digits(p.exponents.p_0), _digits(p.exponents.p_perp),
            _digits(p.nu), given or "-", f"{p.error:.0e}", "; ".join(_published(p)) or "-",
        ]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"


def _published(p: CriticalPoint) -> Iterator[str]:
    for known in PUBLISHED.get(p.activation, ()):
        given = ", ".join(_digits(v) for v in (known.C_W, known.C_b, known.K) if v is not None)
        yield f"{given} ({known.source}){'' if agrees(p, known) else ' **differs**'}"


def agrees(p: CriticalPoint, known: Published) -> bool:
    """Whether a critical point is the published one, to the digits that its source gives.

    Args:
        p: the point.
        known: what the source says.

    Returns:
        True where C_W, C_b and K* (where it is given) agree.
    """
    if p.C_W is None or p.C_b is None:
        return False
    near = partial(math.isclose, rel_tol=known.rtol, abs_tol=1e-8)
    bias = known.C_b is None or math.isclose(p.C_b, known.C_b, rel_tol=10 * known.rtol, abs_tol=1e-8)
    return near(p.C_W, known.C_W) and bias and (known.K is None or (p.K is not None and near(p.K, known.K)))


def _without(found: Sequence[CriticalPoint]) -> Iterator[str]:
    yield "| activation | nearest C_W | C_b | K | chi_parallel | chi_perp | depth scale (layers) | remark |"
    yield "| --- | --: | --: | --: | --: | --: | --: | --- |"
    for p in found:
        if p.exists:
            continue
        near = p.nearest
        numbers = ["-"] * 6
        if near is not None:
            depth = "any" if math.isinf(near.depth_scale) else f"{near.depth_scale:.3g}"
            depth += "" if near.bounded else " (more at larger K)"
            values = (near.C_W, near.C_b, near.K, near.chi_parallel, near.chi_perp)
            numbers = [*(_digits(v, 6) for v in values), depth]
        yield f"| {p.activation} | " + " | ".join(numbers) + f" | {'; '.join(p.notes) or '-'} |"


def page() -> tuple[str, bool]:
    """The page, and whether every published value agrees.

    Returns:
        Markdown, and the verdict.
    """
    found = points()
    by_name = {p.activation: p for p in found}
    good = all(name in by_name and agrees(by_name[name], k) for name, known in PUBLISHED.items() for k in known)
    notes = [f"- **{p.activation}**: {n}." for p in found if p.exists for n in p.notes]
    parts = [
        _HEAD + "\n".join(_rows(found)),
        _NEAREST + "\n".join(_without(found)),
        "## Remarks\n\n" + "\n".join(notes),
    ]
    return "\n\n".join(parts) + "\n", good


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write the page.

    Args:
        arguments: of the command line.

    Returns:
        0 where every published value agrees, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m leadline.testing.critical_points",
        description="Critical points of every activation, as a table.",
    )
    parser.add_argument("-o", "--output", type=Path, help="write the page here (default: print it)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    text, good = page()
    if chosen.output:
        chosen.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
