"""What :func:`leadline.tune.learning_rate` returns: the rate, what it rests on, how to print and to use it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import nn

from leadline.plot import number
from leadline.program.errors import UserError, near, plain
from leadline.tune.rate_batch import GradientNoise, rate_at_batch
from leadline.tune.rate_choose import Choice
from leadline.tune.rate_edge import Edge, Run
from leadline.tune.rate_layers import LayerRate
from leadline.tune.rate_picture import rate_picture
from leadline.tune.rate_predict import Stability
from leadline.tune.rate_rules import UpdateRule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LearningRate"]

_LAYERS = 12


@dataclass(frozen=True)
class LearningRate:
    """A recommended learning rate and all that it rests on.

    ``rule``: the optimizer, None where it was given as a function. ``rate``: recommended (with ``layers``: of a layer
    whose relative rate is 1). ``choice``: the runs that chose it. ``stability``: from curvature. ``smooth``: edge of
    short runs whose loss never rises above its start; ``warm``: the same with warm-up; None where not run. ``noise``:
    of the gradient. ``layers``: relative rates, empty where one rate serves all. ``batch``: samples. ``warmup_gain``:
    how much more warm-up must allow to be worth it. ``share``: of the edge that is the most to recommend. ``edge``:
    measured by long runs, and ``curve``: losses after such runs, where asked for.
    """

    rule: UpdateRule | None
    rate: float
    choice: Choice | None
    stability: Stability | None
    smooth: Edge | None
    warm: Edge | None
    noise: GradientNoise | None
    layers: list[LayerRate] = field(repr=False)
    batch: int
    warmup_gain: float
    share: float
    edge: Edge | None = None
    curve: list[Run] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        """Name of the optimizer."""
        return "your optimizer" if self.rule is None else self.rule.name

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up that let the rate be larger by enough to be worth it; 0: none needed."""
        if self.smooth is None or self.warm is None or self.warm.value < self.warmup_gain * self.smooth.value:
            return 0
        return self.warm.steps // 2

    @property
    def rate_with_warmup(self) -> float | None:
        """The recommended rate after warm-up, larger as the edge is; None where warm-up was not tried."""
        if self.warm is None or self.smooth is None:
            return None
        return self.rate * self.warm.value / self.smooth.value

    @property
    def passes(self) -> int:
        """Forward and backward passes of the batch that were spent on training runs."""
        chosen = 0 if self.choice is None else self.choice.passes
        return (
            chosen
            + sum(run.steps for run in self.curve)
            + sum(e.passes for e in (self.smooth, self.warm, self.edge) if e is not None)
        )

    def at_batch(self, batch: int) -> float:
        """The rate at another batch size, see :func:`rate_at_batch`.

        Args:
            batch: samples a step.

        Returns:
            The rate.

        Raises:
            UserError: the gradient's noise was not measured.
        """
        if self.noise is None:
            raise UserError("the rate at another batch needs the gradient's noise, which was not measured: noise=True.")
        adaptive = self.rule is not None and self.rule.adaptive
        return rate_at_batch(self.rate, self.batch, batch, self.noise.critical_batch, adaptive=adaptive)

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups for a torch optimizer.

        Args:
            model: the module, or one with the same parameters.

        Returns:
            Dictionaries with "params" and "lr": one, or one a layer.

        Raises:
            UserError: the module lacks a parameter.
        """
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.layers:
            return [{"params": list(named.values()), "lr": self.rate}]
        for layer in self.layers:
            for name in layer.parameters:
                if name not in named:
                    raise UserError(f"the model has no trainable parameter '{plain(name)}': {near(name, named)}.")
        return [
            {"params": [named[n] for n in layer.parameters], "lr": self.rate * layer.relative} for layer in self.layers
        ]

    def plot(self) -> Figure:
        """The loss after training against the rate, beside the edges: see :func:`rate_picture`."""
        return rate_picture(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and strings; None where a number is infinite or was not measured."""
        found: dict[str, Any] = {
            "optimizer": self.name, "rate": self.rate, "share_of_edge": self.share, "batch": self.batch,
            "warmup_steps": self.warmup_steps, "rate_with_warmup": self.rate_with_warmup, "passes": self.passes,
        }  # fmt: skip
        if self.stability is not None:
            s = self.stability
            found["stability"] = {
                "rate": _finite(s.rate), "curvature": s.curvature.value, "residual": s.curvature.residual,
                "converged": s.curvature.converged, "products": s.curvature.products, "kind": s.curvature.kind,
                "preconditioned_after_steps": s.preconditioned,
            }  # fmt: skip
        if self.choice is not None and self.smooth is not None:
            tried = self.choice.confirmed
            found["loss_after"] = {"steps": tried.steps, "loss": tried.loss, "start": self.smooth.start}
        for key, edge in (
            ("smooth_edge", self.smooth),
            ("smooth_edge_with_warmup", self.warm),
            ("edge", self.edge),
        ):
            if edge is not None:
                found[key] = {"value": edge.value, "open": edge.open, "steps": edge.steps, "passes": edge.passes}
        if self.noise is not None:
            found["gradient_noise"] = {
                "trace": self.noise.trace, "signal": self.noise.signal,
                "critical_batch": _finite(self.noise.critical_batch),
            }  # fmt: skip
        found["curve"] = [{"rate": r.rate, "loss": _finite(r.loss), "held": r.held} for r in self.curve]
        found["layers"] = [
            {
                "layer": x.layer,
                "parameters": list(x.parameters),
                "curvature": x.curvature,
                "rate": self.rate * x.relative,
            }
            for x in self.layers
        ]
        return found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What :mod:`rich` prints."""
        yield Text.assemble((f"learning rate {number(self.rate)}", "bold"), (f"  for {self.name}", "dim"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", style="cyan", no_wrap=True)
        table.add_column(style="dim")
        for what, value, why in self._rows():
            table.add_row(Text(f"  {what}"), Text(value), Text(why))
        yield table
        if self.stability is not None and not self.stability.settled:
            yield Text("! the curvature has not converged, so the stable rate is only a guess", "yellow")
        if self.choice is None:
            yield Text("! no run has tried this rate: curvature can grow tenfold within the first steps", "yellow")

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        stable, smooth, edge = self.stability, self.smooth, self.edge
        if stable is not None:
            c = stable.curvature
            after = f" as preconditioned after {stable.preconditioned} steps" if stable.preconditioned else ""
            matrix = "Hessian" if c.kind == "hessian" else "Gauss-Newton matrix"
            yield (
                "stable rate", number(stable.rate),
                f"top curvature {number(c.value)} ± {number(c.residual)} of the {matrix}{after}, {c.products} products",
            )  # fmt: skip
        if smooth is not None:
            yield (
                "smooth edge",
                _edge(smooth),
                f"below it the loss never rises above its start, in {smooth.steps} steps",
            )
        if edge is not None:
            yield "edge", _edge(edge), f"below it the loss ends below its start, after {edge.steps} steps"
        if self.choice is None:
            yield "recommended", number(self.rate), f"{number(self.share)} of the stable rate"
        else:
            tried = self.choice.confirmed
            why = f"best of {len(self.choice.runs)} short runs; {tried.steps} steps bring the loss to {number(tried.loss)}"
            yield "recommended", number(self.rate), why
        yield from self._warmup_rows()
        yield from self._batch_rows()
        if self.passes:
            yield "cost", str(self.passes), "forward and backward passes of training runs"
        for layer in self.layers[:_LAYERS]:
            name = plain(layer.layer, 40) or "(top)"
            yield name, number(self.rate * layer.relative), f"curvature of its own {number(layer.curvature)}"
        if len(self.layers) > _LAYERS:
            yield "…", "", f"{len(self.layers) - _LAYERS} more layers in param_groups(model)"

    def _warmup_rows(self) -> Iterator[tuple[str, str, str]]:
        if self.smooth is None or self.warm is None:
            return
        gain = self.warm.value / self.smooth.value
        if self.warmup_steps:
            why = f"allow {number(self.rate_with_warmup)}, {gain:.1f} times as much"
            yield "warm-up", f"{self.warmup_steps} steps", why
        else:
            yield (
                "warm-up",
                "none",
                f"{self.warm.steps // 2} steps of it would move the smooth edge by a factor {gain:.2f}",
            )

    def _batch_rows(self) -> Iterator[tuple[str, str, str]]:
        if self.noise is None:
            return
        rule = "square root" if self.rule is not None and self.rule.adaptive else "linear"
        critical = self.noise.critical_batch
        told = ", ".join(f"{number(self.at_batch(b))} at {b}" for b in (max(self.batch // 4, 1), self.batch * 4))
        if math.isinf(critical):
            yield "batch", str(self.batch), f"no signal beyond its noise, so no critical batch; {told}: {rule}"
        else:
            said = (
                f"critical batch {number(critical)} (tr Σ/|g|²); {told}: {rule} below the critical batch, level above"
            )
            yield "batch", str(self.batch), said


def _edge(edge: Edge) -> str:
    return ("≥ " if edge.open else "") + number(edge.value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
