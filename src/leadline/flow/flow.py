"""The flow of every tensor of a chain of dense layers: theory, an ensemble of the same law, fitted powers of depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from torch import Tensor

from leadline.flow.exponents import Power
from leadline.flow.sampled import sampled
from leadline.flow.tensors import FIELDS, tensors
from leadline.gaussian.arguments import checked
from leadline.plot import as_text
from leadline.theory import Estimate
from leadline.theory.flow import Layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIELDS", "Flow", "flow"]

_WIDTH = 110
_VISIBLE, _EXPANSION = (
    0.1,
    0.5,
)  # spreads from which the next order in 1/n shows, and from which the series is of no use


@dataclass(frozen=True)
class Flow:
    r"""Every tensor of every layer of a perceptron at initialization, under its field name.

    For one input each has shape (L,); for m inputs K, G1, Theta, H1 have shape (L, m, m) and the others
    (L, m, m, m, m). All but K and Theta are coefficients of 1/n, n = n_{l-1}. A tensor that does not exist for this
    activation is None, and ``reasons`` says why.

    Args:
        layers: what the flow was computed for.
        gram: x_a · x_b / n_0, shape (m, m).
        K, G1: kernel and its first correction, units of z squared.
        V: four-point vertex, n Cov(G, G).
        Theta, H1: mean tangent kernel and its first correction.
        A, B, D, F: covariances of the tangent kernel, and with the pre-activations.
        P, Q: correlations of the differential of the tangent kernel with the pre-activations.
        R, S, T, U: means of the second differentials.
        chi_parallel, chi_perp: susceptibilities of the step from layer l to l+1, of the first input, shape (L-1,).
        measured: the same names (K, V, G1, Theta, A, B, D, F) -> estimates a layer of the first input's entry; K and
            Theta contain their corrections in 1/n.
        networks: drawn for the kernels, and for the tangent kernels.
        powers: fitted and expected powers of depth.
        reasons: why a tensor or a measurement is not there, one sentence each.
    """

    layers: Layers
    gram: Tensor
    K: Tensor
    V: Tensor
    G1: Tensor
    Theta: Tensor | None
    A: Tensor | None
    B: Tensor | None
    D: Tensor | None
    F: Tensor | None
    H1: Tensor | None
    P: Tensor | None
    Q: Tensor | None
    R: Tensor | None
    S: Tensor | None
    T: Tensor | None
    U: Tensor | None
    chi_parallel: Tensor
    chi_perp: Tensor
    measured: Mapping[str, tuple[Estimate, ...]] = field(repr=False)
    networks: tuple[int, int] = (0, 0)
    powers: tuple[Power, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """Number of dense layers L."""
        return self.layers.depth

    def of_first(self, name: str) -> Tensor | None:
        """A tensor's entry at the first input alone.

        Args:
            name: one of :data:`FIELDS`.

        Returns:
            Shape (L,), or None where there is no such tensor.
        """
        value: Tensor | None = getattr(self, name)
        return None if value is None else value.reshape(self.depth, -1)[:, 0]

    def corrected(self, name: str) -> Tensor | None:
        """K + G1/n or Theta + H1/n of the first input: the mean over networks to first order in 1/n, shape (L,).

        Args:
            name: "K" or "Theta".

        Returns:
            Shape (L,), or None where there is no such tensor.
        """
        leading, first = self.of_first(name), self.of_first({"K": "G1", "Theta": "H1"}[name])
        return None if leading is None or first is None else leading + first / self.fan_in

    @property
    def fan_in(self) -> Tensor:
        """n_{l-1} of each layer, shape (L,)."""
        return torch.tensor(self.layers.fan_in, dtype=self.K.dtype)

    @property
    def spread(self) -> Tensor:
        """V/(n K^2) of the first input: variance of its kernel over networks, relative to its square; shape (L,)."""
        K, V = (t.reshape(self.depth, -1)[:, 0] for t in (self.K, self.V))
        return V / (self.fan_in * K**2)

    @property
    def tangent_spread(self) -> Tensor | None:
        """(A + 2B)/(n Theta^2) of the first input: the same of its tangent kernel, shape (L,)."""
        A, B, Theta = (self.of_first(name) for name in ("A", "B", "Theta"))
        return None if A is None or B is None or Theta is None else (A + 2 * B) / (self.fan_in * Theta**2)

    @property
    def correlation(self) -> Tensor | None:
        """K_ab/sqrt(K_aa K_bb) of the first two inputs, shape (L,); None for one input."""
        if self.gram.shape[0] < 2:
            return None
        return self.K[:, 0, 1] / (self.K[:, 0, 0] * self.K[:, 1, 1]).sqrt()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before believing the numbers, one sentence each."""
        found = []
        spread = self.spread
        visible, large = ((spread > least).nonzero().flatten() for least in (_VISIBLE, _EXPANSION))
        if large.numel():
            layer = int(large[0]) + 1
            exact = "; log_law and kernel_moment are exact for this activation" if self._two_slopes else ""
            found.append(
                f"From layer {layer} on V/(nK^2) exceeds {_EXPANSION}: the expansion in 1/n no longer holds there{exact}."
            )
        elif visible.numel():
            found.append(
                f"From layer {int(visible[0]) + 1} on V/(nK^2) exceeds {_VISIBLE}: the next order in 1/n changes V, A, B, D and "
                f"F by about as large a part of themselves (up to {float(spread.max()):.0%} here)."
            )
        if not bool(torch.isfinite(self.K).all()):
            layer = int((~torch.isfinite(self.K.reshape(self.depth, -1)).all(1)).nonzero()[0]) + 1
            found.append(f"The kernel leaves the range of floats at layer {layer}.")
        return tuple(found)

    @property
    def _two_slopes(self) -> bool:
        return self.layers.activation.slopes is not None and not any(self.layers.C_b)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; what does not exist, or is not finite, is None."""
        return {
            "activation": self.layers.activation.name,
            "widths": list(self.layers.widths),
            **{n: list(getattr(self.layers, n)) for n in ("C_b", "C_W", "lambda_b", "lambda_W")},
            "gram": _plain(self.gram),
            "tensors": {n: None if getattr(self, n) is None else _plain(getattr(self, n)) for n in FIELDS},
            "chi_parallel": _plain(self.chi_parallel),
            "chi_perp": _plain(self.chi_perp),
            "networks": {"kernels": self.networks[0], "tangent_kernels": self.networks[1]},
            "measured": {
                n: [{"value": _finite(e.value), "stderr": _finite(e.error)} for e in found]
                for n, found in self.measured.items()
            },
            "powers": [
                {"quantity": p.quantity, "fitted": p.fitted, "theory": p.theory, "settled": p.settled}
                for p in self.powers
            ],
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
        }

    def plot(self) -> Figure:
        """Kernel, spread, tangent kernel and its spread against depth, the ensemble as points.

        Returns:
            A matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from leadline.flow.picture import picture

        return picture(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from leadline.flow.screen import screen

        yield from screen(self, options.max_width)

    def __str__(self) -> str:
        return as_text(self, _WIDTH)


@checked()
def flow(
    activation: Any,
    *,
    depth: int | None = None,
    width: int = 256,
    widths: Sequence[int] | None = None,
    C_W: float | Sequence[float] = 1.0,
    C_b: float | Sequence[float] = 0.0,
    lambda_W: float | Sequence[float] = 1.0,
    lambda_b: float | Sequence[float] = 1.0,
    inputs: Tensor | float = 1.0,
    networks: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Flow:
    r"""Representation group flow of a perceptron: every tensor of every layer, with networks of the same law beside it.

    .. math:: z^{(l+1)}_i = b_i + \sum_j W_{ij}\sigma(z^{(l)}_j), \quad E\,b^2 = C_b, \quad E\,W^2 = C_W/n_l

    Args:
        activation: anything that :func:`leadline.activation` takes.
        depth: number of dense layers L, each of ``width``; or give ``widths``.
        width: neurons a layer.
        widths: n_0, n_1, …, n_L.
        C_W: fan-in times the weight variance, one number or one a layer.
        C_b: bias variance, one number or one a layer.
        lambda_W: fan-in times the weight learning rate, one number or one a layer.
        lambda_b: bias learning rate, one number or one a layer.
        inputs: |x|^2/n_0 of one input; or one input (n_0,); or up to 5 inputs (m, n_0).
        networks: to draw; 0 for none; by default as many as take some seconds.
        seed: of the draws.
        progress: called with (what is done, steps done, steps in all).

    Returns:
        The flow.

    Raises:
        ValueError: a number is out of range, or inputs are not finite or too many.

    Source: Roberts, Yaida and Hanin (2022).

    >>> found = flow("relu", depth=4, width=64, C_W=2.0, networks=0)
    >>> found.V.tolist()
    [0.0, 20.0, 40.0, 60.0]
    """
    layers = Layers.of(
        activation, depth=depth, width=width, widths=widths, C_b=C_b, C_W=C_W, lambda_b=lambda_b, lambda_W=lambda_W
    )
    if networks is not None and (networks < 0 or networks == 1):
        raise ValueError(f"got networks={networks}: draw none (0) or at least 2, since one has no standard error.")
    found = tensors(layers, _gram(inputs))
    measured, drawn, reasons = sampled(layers, float(found.gram[0, 0]), found.K, networks, seed, progress)
    return Flow(
        layers, found.gram, **found.fields, chi_parallel=found.chi_parallel, chi_perp=found.chi_perp,
        measured=measured, networks=drawn, powers=found.powers, reasons=(*found.reasons, *reasons),
    )  # fmt: skip


def _gram(inputs: Tensor | float) -> Tensor:
    x = torch.as_tensor(inputs, dtype=torch.float64)
    if x.ndim > 2 or x.numel() == 0 or not bool(torch.isfinite(x).all()):
        raise ValueError(
            f"got inputs of shape {tuple(x.shape)}: give |x|^2/n_0, one input (n_0,) or several (m, n_0), all finite."
        )
    if x.ndim == 0:
        if float(x) < 0:
            raise ValueError(f"got inputs={float(x)}: |x|^2/n_0 is not negative.")
        return x.reshape(1, 1)
    rows = torch.atleast_2d(x)
    return rows @ rows.T / rows.shape[1]


def _plain(values: Tensor) -> Any:
    return [_plain(v) for v in values] if values.ndim else _finite(float(values))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
