"""The critical point of an activation: what it is, what it means, how it prints."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from leadline.theory.criticality.classes import Exponents, UniversalityClass
from leadline.theory.criticality.fixed_point import FixedPoint
from leadline.theory.criticality.meaning import meaning
from leadline.theory.criticality.nearest import NearestPoint

__all__ = ["CriticalPoint"]


@dataclass(frozen=True)
class CriticalPoint:
    r"""Where both susceptibilities of a deep network are 1, and how it behaves there.

    .. math:: \chi_\parallel(K^*) = \chi_\perp(K^*) = 1, \qquad K^* = C_b + C_W\, g(K^*) + \gamma^2 K^*

    Attributes:
        activation: name of the activation.
        universality_class: which; ``none`` where there is no such point.
        C_W: fan-in times the weight variance; None where there is no point (see ``nearest``).
        C_b: bias variance, units of the preactivation squared.
        K: the fixed point K*, units of the preactivation squared; None where every K is one, or there is no point.
        residual: strength gamma of the skip around each layer.
        exponents: powers of depth at criticality.
        nu: finite-width fluctuations, V/(n K^2) -> nu l/n, with what the skip adds.
        slopes: those at 0 from the right and from the left, where K* = 0 or is free.
        a1, b1, a2: K' = K + a1 K^2 + a2 K^3 and chi_perp = 1 + b1 K (class smooth, with the skip).
        c: K' = K - c K^{3/2} (class cusp, with the skip).
        chi_prime, h: chi_parallel = 1 + chi' (K - K*), chi_perp = 1 + 2 h (K - K*) (half-stable, with the skip).
        error: estimate of the largest relative error of C_W, C_b and K*.
        kink: size of the preactivation below which the activation is linear (class marginal).
        neighbour: the stable fixed point next to a half-stable one; None where there is none.
        others: further half-stable points of the same activation, (C_W, C_b, K).
        nearest: the most useful point where there is no critical one.
        notes: what else should be known, a sentence each.
    """

    activation: str
    universality_class: UniversalityClass
    C_W: float | None = None
    C_b: float | None = None
    K: float | None = None
    residual: float = 0.0
    exponents: Exponents | None = None
    nu: float | None = None
    slopes: tuple[float, float] | None = None
    a1: float | None = None
    b1: float | None = None
    a2: float | None = None
    c: float | None = None
    chi_prime: float | None = None
    h: float | None = None
    error: float = 0.0
    kink: float | None = None
    neighbour: FixedPoint | None = None
    others: tuple[tuple[float, float, float], ...] = ()
    nearest: NearestPoint | None = None
    notes: tuple[str, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether there is a critical point."""
        return self.universality_class is not UniversalityClass.none

    @property
    def p_perp(self) -> float | None:
        """Differences between inputs and gradients fall as l^-p_perp."""
        return None if self.exponents is None else self.exponents.p_perp

    @property
    def zeta(self) -> float | None:
        """The averaged partial Jacobian falls as l^-zeta; the same number as ``p_perp``."""
        return self.p_perp

    @property
    def meaning(self) -> str:
        """What the class means for a deep network, in one or two sentences."""
        return meaning(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and None; infinite numbers are None."""
        out: dict[str, Any] = {"exists": self.exists, **dataclasses.asdict(self)}
        out["universality_class"] = str(self.universality_class)
        out["others"] = [dict(zip(("C_W", "C_b", "K"), o)) for o in self.others]
        out["notes"] = list(self.notes)
        for name, point in (("nearest", self.nearest), ("neighbour", self.neighbour)):
            if point is not None:
                out[name]["depth_scale"] = point.depth_scale
        if self.nearest is not None:
            out["nearest"]["memory"] = self.nearest.memory
        out["meaning"] = self.meaning
        return _plain(out)

    def __str__(self) -> str:
        head = f"{self.activation}: {self._headline()}"
        width = max((len(name) for name, _ in self._rows()), default=0)
        lines = [f"  {name:<{width}}  {value}" for name, value in self._rows()]
        return "\n".join([head, *lines, f"  {self.meaning}", *(f"  Note: {n}" for n in self.notes)])

    def __rich__(self) -> Group:
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(justify="left")
        for name, value in self._rows():
            table.add_row(Text(name), Text(value))
        head = Text.assemble((self.activation, "bold"), ": ", (self._headline(), "green" if self.exists else "yellow"))
        parts: list[Any] = [head, table, Text(self.meaning)]
        return Group(*parts, *(Text(f"Note: {n}", "dim") for n in self.notes))

    def _headline(self) -> str:
        skip = f" with a skip of strength {self.residual:g}" if self.residual else ""
        return (
            f"no critical point{skip}" if not self.exists else f"critical point{skip}, class {self.universality_class}"
        )

    def _rows(self) -> list[tuple[str, str]]:
        if not self.exists:
            return [] if self.nearest is None else _nearest_rows(self.nearest)
        rows = [("C_W", _digits(self.C_W)), ("C_b", _digits(self.C_b))]
        rows.append(("K*", "any" if self.K is None else _digits(self.K)))
        rows.append(("nu", f"{_digits(self.nu)}   (V/(n K²) grows as nu·depth/width)"))
        if self.exponents is not None:
            e = self.exponents
            rows.append(("exponents", f"p_0 = {e.p_0:g}, p_perp = {e.p_perp:.6g}, p_parallel = {e.p_parallel:g}"))
        names = {"a1": "a1", "b1": "b1", "a2": "a2", "c": "c", "chi_prime": "chi'", "h": "h"}
        found = {label: getattr(self, field) for field, label in names.items()}
        given = ", ".join(f"{label} = {_digits(v)}" for label, v in found.items() if v is not None)
        if given:
            rows.append(("coefficients", given))
        rows.append(("error", f"{self.error:.0e} relative, estimated"))
        return rows


def _nearest_rows(p: NearestPoint) -> list[tuple[str, str]]:
    return [
        ("nearest useful point", f"C_W = {_digits(p.C_W)}, C_b = {_digits(p.C_b)}, K = {_digits(p.K)}"),
        ("susceptibilities", f"chi_parallel = {_digits(p.chi_parallel)}, chi_perp = {_digits(p.chi_perp)}"),
        ("depth scale", "any depth" if math.isinf(p.depth_scale) else f"{p.depth_scale:.3g} layers"),
    ]


def _digits(value: float | None) -> str:
    return "—" if value is None else f"{value + 0.0:.9g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
