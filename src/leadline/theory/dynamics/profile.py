"""Generalization error of trained wide networks against depth, on and off criticality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from leadline.activations import activation
from leadline.gaussian.arguments import checked
from leadline.plot import number
from leadline.theory.dynamics.generalization import expected_error
from leadline.theory.dynamics.linearized import linearized_training
from leadline.theory.dynamics.rules import Rule
from leadline.theory.flow import Layers, kernel_matrices
from leadline.theory.tangent import tangent_matrices

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GeneralizationProfile", "generalization_profile"]


@dataclass(frozen=True)
class GeneralizationProfile:
    """Expected squared test error over initializations of networks of many depths, averaged over test inputs.

    ``settings``: label -> (C_W, C_b); ``depths`` (D,); ``bias`` (squared) and ``variance``, shape (settings, D),
    units of z squared; ``guess``: the error of answering 0 everywhere; ``time`` of training.
    """

    name: str
    settings: Mapping[str, tuple[float, float]]
    depths: tuple[int, ...]
    bias: Tensor
    variance: Tensor
    guess: float
    time: float

    @property
    def total(self) -> Tensor:
        """Expected squared error, shape (settings, D)."""
        return self.bias + self.variance

    @property
    def best(self) -> tuple[str, int]:
        """Label and depth of the least expected error."""
        place = int(self.total.nan_to_num(torch.inf).argmin())
        return list(self.settings)[place // len(self.depths)], self.depths[place % len(self.depths)]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "activation": self.name,
            "time": self.time if math.isfinite(self.time) else "inf",
            "depths": list(self.depths),
            "guess": self.guess,
            "settings": [
                {"label": k, "C_W": w, "C_b": b, "bias": self.bias[i].tolist(), "variance": self.variance[i].tolist()}
                for i, (k, (w, b)) in enumerate(self.settings.items())
            ],
        }

    def __rich__(self) -> Table:
        title = f"expected squared error of trained {self.name} networks (answering 0: {number(self.guess)})"
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, title=title)
        for head in ("setting", "C_W", "C_b", "depth", "bias²", "variance", "error"):
            table.add_column(head, justify="left" if head == "setting" else "right")
        for i, (label, (w, b)) in enumerate(self.settings.items()):
            for j, depth in enumerate(self.depths):
                values = [float(t[i, j]) for t in (self.bias, self.variance, self.total)]
                table.add_row(label, number(w), number(b), str(depth), *map(number, values))
        return table

    def plot(self) -> Figure:
        """Draw squared bias, variance and their sum against depth.

        Returns:
            A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.
        """
        from leadline.theory.dynamics.picture import generalization_picture

        return generalization_picture(self)


@checked()
def generalization_profile(
    nonlinearity: Any,
    inputs: Tensor,
    values: Tensor,
    data: int,
    *,
    depths: Sequence[int],
    settings: Mapping[str, tuple[float, float]],
    lambda_b: float | Sequence[float] = 1.0,
    lambda_W: float | Sequence[float] = 1.0,
    time: float = math.inf,
    rule: Rule | None = None,
) -> GeneralizationProfile:
    r"""Expected squared test error of trained infinitely wide networks against depth, for several (C_W, C_b).

    .. math:: \overline{E (z_t - y)^2} = \overline{(\mu_t - y)^2} + \overline{\Sigma_t}

    Args:
        nonlinearity: anything that :func:`leadline.activations.activation` takes.
        inputs: m inputs, data first, shape (m, n_0), floats.
        values: true values at all inputs, shape (m,) or (m, outputs), units of z.
        data: number M of inputs that are trained on; the others are the test.
        depths: numbers of dense layers.
        settings: label -> (C_W, C_b), for instance an ordered, a critical and a chaotic pair.
        lambda_b: bias learning rate of every layer, or one for each of the deepest network's layers.
        lambda_W: fan-in times the weight learning rate, likewise. Their overall size is nothing at the end of training.
        time: of training; inf is its end.
        rule: gradient flow if None.

    Returns:
        Squared bias and variance, which print and plot themselves. Where the kernel overflows they are NaN.

    Raises:
        ValueError: there is nothing to test on, no depth or a depth below 1, or shapes do not fit.

    Source: Roberts, Yaida and Hanin (2022), section 10.3.
    """
    if not 1 <= data < len(inputs):
        raise ValueError(
            f"got data={data} of {len(inputs)} inputs: give 1 or more to train on and leave some for the test."
        )
    if not depths or min(depths) < 1 or not settings:
        raise ValueError(f"got depths {list(depths)} and settings {dict(settings)}: give one or more, depths from 1.")
    act, wanted = activation(nonlinearity), sorted(set(depths))
    x = inputs.detach().to(torch.float64)
    y = (values[:, None] if values.ndim == 1 else values).detach().to(x)
    bias, variance = (torch.full((len(settings), len(wanted)), torch.nan, dtype=torch.float64) for _ in range(2))
    for i, (C_W, C_b) in enumerate(settings.values()):
        layers = Layers.of(act, depth=wanted[-1], C_W=C_W, C_b=C_b, lambda_b=lambda_b, lambda_W=lambda_W)
        K = kernel_matrices(layers, x)
        Theta = tangent_matrices(layers, x, K)
        for j, depth in enumerate(wanted):
            if not bool(torch.isfinite(Theta[depth - 1]).all() & torch.isfinite(K[depth - 1]).all()):
                continue
            error = expected_error(linearized_training(K[depth - 1], Theta[depth - 1], y[:data], [time], rule), y)
            bias[i, j], variance[i, j] = error.bias[0, data:].mean(), error.variance[0, data:].mean()
    guess = float(y[data:].square().mean())
    return GeneralizationProfile(act.name, dict(settings), tuple(wanted), bias, variance, guess, time)
