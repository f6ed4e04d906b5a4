"""Which depth do my data prefer? Log evidence of wide networks over depth, C_W, C_b and width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from scipy.optimize import minimize
from torch import Tensor

from leadline.activations import activation
from leadline.gaussian.arguments import checked
from leadline.plot import number
from leadline.theory.bayes.finite_width import finite_width_posterior
from leadline.theory.bayes.posterior import gp_posterior
from leadline.theory.flow import Layers, gram_of, kernel_matrices, many_input_flow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EvidenceRow", "EvidenceTable", "model_evidence"]

_SEARCHED = {"C_W": (0.3, 1.0, 3.0, 10.0), "C_b": (1e-3, 0.03, 0.3, 3.0)}
_BOUNDS = {"C_W": (1e-3, 1e3), "C_b": (1e-8, 1e3)}
_STEP = 0.4  # of the search, in the logarithm
_MOST_DATA = 8

Evidences = Callable[[float, float, int], Tensor]  # of C_W, C_b and a depth: at every depth up to it


@dataclass(frozen=True)
class EvidenceRow:
    """Log evidence of one network: ``log_evidence`` at infinite width, ``correction``: coefficient of 1/n or None."""

    depth: int
    C_W: float
    C_b: float
    log_evidence: float
    correction: float | None = None

    def at(self, width: float) -> float:
        """Log evidence at a width, to order 1/n.

        Args:
            width: n of every hidden layer; inf is allowed.

        Returns:
            The log evidence, in nats.

        Raises:
            ValueError: a finite width is asked of a row without a correction.
        """
        if width == math.inf:
            return self.log_evidence
        if self.correction is None:
            raise ValueError(f"got width={width} for a row without a correction: ask model_evidence for widths.")
        return self.log_evidence + self.correction / width

    def trusted(self, width: float) -> bool:
        """Whether the correction is below one nat, so that what the first order leaves out should be small too."""
        return width == math.inf or (self.correction is not None and abs(self.correction) < width)


@dataclass(frozen=True)
class EvidenceTable:
    """Log evidence of networks, most probable first in ``ranked``; prints and plots itself.

    ``rows``: as they were asked for; ``widths``: with inf first; ``data``: number of data.
    """

    rows: tuple[EvidenceRow, ...]
    widths: tuple[float, ...]
    data: int
    name: str

    @property
    def ranked(self) -> list[tuple[EvidenceRow, float]]:
        """(row, width) by log evidence, best first; widths at which a row's correction is not trusted are left out."""
        found = [(row, n) for row in self.rows for n in self.widths if row.trusted(n)]
        return sorted(found, key=lambda pair: -pair[0].at(pair[1]))

    @property
    def best(self) -> tuple[EvidenceRow, float]:
        """The row and width with the highest evidence."""
        return self.ranked[0]

    @property
    def probabilities(self) -> Tensor:
        """Posterior probability of each pair in ``ranked`` if all were equally probable before."""
        return torch.tensor([row.at(n) for row, n in self.ranked], dtype=torch.float64).softmax(0)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; widths are strings, inf among them."""
        return {
            "activation": self.name,
            "data": self.data,
            "rows": [
                {
                    "depth": row.depth,
                    "C_W": row.C_W,
                    "C_b": row.C_b,
                    "log_evidence": {f"{n:g}": row.at(n) for n in self.widths},
                    "trusted": {f"{n:g}": row.trusted(n) for n in self.widths},
                }
                for row in self.rows
            ],
        }

    def __rich__(self) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, title=f"log evidence of {self.name} networks, {self.data} data"
        )
        for head in ("depth", "C_W", "C_b", *(("n = ∞" if n == math.inf else f"n = {n:g}") for n in self.widths)):
            table.add_column(head, justify="right")
        best = self.best
        for row in self.rows:
            cells = [
                f"{row.at(n):.2f}" + ("" if row.trusted(n) else " (?)") + (" *" if best == (row, n) else "")
                for n in self.widths
            ]
            table.add_row(str(row.depth), number(row.C_W), number(row.C_b), *cells)
        notes = "* the most probable"
        if not all(row.trusted(n) for row in self.rows for n in self.widths):
            notes += "; (?) a correction of a nat or more: beyond the first order in 1/n"
        table.caption = notes
        return table

    def plot(self) -> Figure:
        """Draw log evidence against depth, a line a (C_W, C_b) and width.

        Returns:
            A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.
        """
        from leadline.theory.bayes.picture import evidence_picture

        return evidence_picture(self)


@checked()
def model_evidence(
    nonlinearity: Any,
    inputs: Tensor,
    Y: Tensor,
    *,
    depths: Sequence[int],
    noise: float,
    C_W: float | Sequence[float] | None = None,
    C_b: float | Sequence[float] | None = None,
    widths: Sequence[int] = (),
) -> EvidenceTable:
    r"""Log evidence of networks of several depths: which one do the data prefer?

    .. math:: \ln p(Y) = -\tfrac12 \operatorname{tr} Y^T C^{-1} Y - \tfrac{n_L}{2} \ln\det 2\pi C ,
        \qquad C = K^{(L)}_{XX} + s^2 , \qquad + \tfrac1n\,(\dots)

    Args:
        nonlinearity: anything that :func:`leadline.activations.activation` takes.
        inputs: M data, shape (M, n_0), floats.
        Y: targets, shape (M,) or (M, outputs), units of z.
        depths: numbers of dense layers to compare.
        noise: variance of the noise on every target, units of z squared.
        C_W: fan-in times the weight variance of every layer: one number, several to compare, or None for the
            value that maximises the evidence at each depth (at infinite width).
        C_b: the same for the bias variance.
        widths: finite widths of all hidden layers to compare too (at most 8 data: four-point vertices of all pairs).

    Returns:
        A table that prints and plots itself.

    Raises:
        ValueError: no depth or a depth below 1, shapes that do not fit, or too many data for finite widths.

    Source: MacKay (1992); Roberts, Yaida and Hanin (2022), sections 6.3.1 and 6.4.1.
    """
    act = activation(nonlinearity)
    if not depths or min(depths) < 1:
        raise ValueError(f"got depths {list(depths)}: give one or more, each at least 1.")
    if widths and (len(inputs) > _MOST_DATA or min(widths) < 1):
        raise ValueError(
            f"got {len(inputs)} data and widths {list(widths)}: corrections in 1/n are worked out for at most {_MOST_DATA} "
            "data and widths of 1 or more."
        )
    x = inputs.detach().to(torch.float64)
    y = Y.detach().to(torch.float64)

    def evidences(w: float, b: float, most: int) -> Tensor:
        K = kernel_matrices(Layers.of(act, depth=most, C_W=w, C_b=b), x)
        return gp_posterior(K, y, noise).log_evidence

    rows = []
    for depth, w, b in _settings(evidences, sorted(set(depths)), C_W, C_b):
        value = float(evidences(w, b, depth)[-1])
        correction = None
        if widths:
            n = int(min(widths))
            shape = [x.shape[1], *[n] * (depth - 1), 1]
            flow = many_input_flow(Layers.of(act, widths=shape, C_W=w, C_b=b), gram_of(x))
            first = finite_width_posterior(flow.K[-1], flow.vertex[-1], flow.G1[-1], y, noise)
            correction = float(first.log_evidence)
        rows.append(EvidenceRow(depth, w, b, value, correction))
    return EvidenceTable(tuple(rows), (math.inf, *(float(n) for n in sorted(widths))), len(x), act.name)


def _settings(
    evidences: Evidences,
    depths: Sequence[int],
    C_W: float | Sequence[float] | None,
    C_b: float | Sequence[float] | None,
) -> Iterator[tuple[int, float, float]]:
    """(depth, C_W, C_b) of every row: what was given, and the best where nothing was."""
    given = {"C_W": _listed(C_W), "C_b": _listed(C_b)}
    free = [name for name, values in given.items() if values is None]
    if not free:
        yield from ((d, w, b) for d in depths for w in given["C_W"] or () for b in given["C_b"] or ())
        return
    grid = [given[name] or _SEARCHED[name] for name in ("C_W", "C_b")]
    # one pass over layers serves every depth
    coarse = {(w, b): _safe(evidences, w, b, max(depths)) for w in grid[0] for b in grid[1]}
    for depth in depths:
        for held_w in given["C_W"] or (None,):
            for held_b in given["C_b"] or (None,):
                allowed = [p for p in coarse if held_w in (None, p[0]) and held_b in (None, p[1])]
                best = max(allowed, key=lambda p: float(coarse[p][depth - 1]))
                yield (depth, *_climb(evidences, depth, dict(zip(("C_W", "C_b"), best)), free))


def _climb(evidences: Evidences, depth: int, start: dict[str, float], free: list[str]) -> tuple[float, float]:
    """Nelder and Mead in the logarithms of the free variances, to a thousandth of a nat."""

    def loss(logs: NDArray[np.float64]) -> float:
        here = {**start, **{k: float(np.exp(v)) for k, v in zip(free, logs)}}
        return -float(_safe(evidences, here["C_W"], here["C_b"], depth)[-1])

    bounds = [tuple(math.log(v) for v in _BOUNDS[k]) for k in free]
    first = np.array([math.log(start[k]) for k in free])
    simplex = np.vstack([first, first + _STEP * np.eye(len(free))])
    options = {"xatol": 3e-3, "fatol": 1e-3, "maxfev": 200, "initial_simplex": simplex}
    found = minimize(loss, first, method="Nelder-Mead", bounds=bounds, options=options)
    best = {**start, **{k: float(np.exp(v)) for k, v in zip(free, found.x)}}
    return best["C_W"], best["C_b"]


def _safe(evidences: Evidences, w: float, b: float, depth: int) -> Tensor:
    """Evidence of a network whose kernel explodes or is singular counts as none."""
    try:
        return torch.nan_to_num(evidences(w, b, depth), nan=-math.inf)
    except ValueError:
        return torch.full((depth,), -1e300, dtype=torch.float64)


def _listed(values: float | Sequence[float] | None) -> list[float] | None:
    if values is None:
        return None
    return [float(v) for v in values] if isinstance(values, Sequence) else [float(values)]
