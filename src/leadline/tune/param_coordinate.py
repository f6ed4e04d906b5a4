"""The coordinate check: how far training moves each layer's values, at several widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from leadline.measure.losses import TrainingLoss, first_output, training_loss
from leadline.measure.reinitialize import isolated_randomness
from leadline.plot import as_text, number
from leadline.program import UserError, batch_from
from leadline.program.errors import plain
from leadline.tune.param_scaled import scaled_recipe
from leadline.tune.param_tune import traced_base

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CoordinateCheck", "Slope", "coordinate_check"]

_LEVEL = 0.1  # a slope below it is none, beside two standard errors
_SIGMAS = 2.0
_WIDTH = 120
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


@dataclass(frozen=True)
class Slope:
    """Power of the width.

    Attributes:
        value: mean over seeds of the slope of a fit to each.
        error: standard error over seeds and, added in squares, how far the slope of the upper widths is from it, since a
            power that still changes is not known better than that.
    """

    value: float
    error: float

    @property
    def margin(self) -> float:
        """Within which a slope is none."""
        return _LEVEL + _SIGMAS * self.error

    @property
    def sign(self) -> int:
        """1 where it rises with the width beyond doubt, -1 where it falls, 0 where neither."""
        return 0 if abs(self.value) <= self.margin else int(math.copysign(1, self.value))

    def __str__(self) -> str:
        return f"{self.value:+.2f} ± {self.error:.2f}"


@dataclass(frozen=True)
class CoordinateCheck:
    r"""What training did to each layer's values at several widths.

    .. math:: \log \mathrm{rms}(z_t - z_0) = s \log n + \text{const}

    Attributes:
        widths: of the networks.
        layers: qualified names, in the order in which they run; the last gives the output.
        sizes: root mean square of each layer's values at the start, (widths, seeds, layers).
        updates: root mean square of their change, of the same shape; not a number where training diverged.
        steps: of training.
        name: of the parametrization and optimizer, in words.
    """

    widths: tuple[int, ...]
    layers: tuple[str, ...]
    sizes: Tensor
    updates: Tensor
    steps: int
    name: str

    @property
    def slopes(self) -> dict[str, Slope]:
        """Power of the width that the change of each layer's values follows."""
        return self._fit(self.updates)

    @property
    def size_slopes(self) -> dict[str, Slope]:
        """Power of the width that each layer's values follow at the start."""
        return self._fit(self.sizes)

    @property
    def ok(self) -> bool:
        """Whether every layer moves by as much at any width."""
        return all(s.sign == 0 for s in self.slopes.values())

    @property
    def verdict(self) -> str:
        """What the slopes say, in a sentence."""
        slopes = self.slopes
        *hidden, output = slopes
        broken = next((n for n, s in slopes.items() if math.isnan(s.value)), None)
        if broken is not None:
            return f"training diverges: the values of '{plain(broken)}' are not finite; take a smaller rate."
        up = [n for n, s in slopes.items() if s.sign > 0]
        if up:
            worst = max(up, key=lambda n: slopes[n].value)
            return f"unstable: updates grow with the width, fastest in '{plain(worst)}', as n to the {slopes[worst]}."
        down = [n for n in hidden if slopes[n].sign < 0]
        if slopes[output].sign < 0:
            return f"trivial: the output moves less and less, as n to the {slopes[output]}."
        if hidden and len(down) == len(hidden):
            worst = min(down, key=lambda n: slopes[n].value)
            return f"kernel regime: the output moves and no hidden layer does, '{plain(worst)}' as n to the {slopes[worst]}."
        if down:
            listed = ", ".join(f"'{plain(n)}'" for n in down[:3])
            return f"uneven: the updates of {len(down)} of {len(hidden)} hidden layers fade with the width ({listed})."
        return "feature learning: every layer moves by as much at any width, so that a rate found at one serves the others."

    def plot(self) -> Figure:
        """Draw the change of each layer's values against the width.

        Returns:
            A matplotlib figure that belongs to no window; save it with ``figure.savefig(path)``.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from leadline.tune.param_picture import coordinate_picture

        return coordinate_picture(self)

    def _fit(self, values: Tensor) -> dict[str, Slope]:
        y = values.clamp_min(torch.finfo(torch.float64).tiny).log()
        each = _slopes(self.widths, y)
        upper = max(2, (len(self.widths) + 1) // 2)
        drift = (_slopes(self.widths[-upper:], y[-upper:]) - each).mean(0)
        error = (each.var(0) / each.shape[0] + drift.square()).sqrt()
        return {n: Slope(float(each[:, i].mean()), float(error[i])) for i, n in enumerate(self.layers)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._screen()

    def _screen(self) -> Iterator[RenderableType]:
        widths = f"widths {self.widths[0]} to {self.widths[-1]}"
        yield Text(
            f"Coordinate check, {self.name}, {self.steps} steps, {widths}, {self.updates.shape[1]} seeds", "bold"
        )
        table = Table(box=box.SIMPLE, pad_edge=False)
        table.add_column("layer")
        for width in self.widths:
            table.add_column(f"n={width}", justify="right")
        table.add_column("slope of the change", justify="right")
        table.add_column("at the start", justify="right")
        slopes, starts = self.slopes, self.size_slopes
        middle = self.updates.log().mean(1).exp()
        for i, name in enumerate(self.layers):
            cells = [number(float(v)) for v in middle[:, i]]
            table.add_row(Text(plain(name)), *cells, str(slopes[name]), str(starts[name]))
        yield table
        yield Text(self.verdict, "green" if self.ok else "yellow")

    def __str__(self) -> str:
        return as_text(self, _WIDTH)


def _slopes(widths: Sequence[int], logs: Tensor) -> Tensor:
    """Least-squares slope of each seed and layer against the log-width."""
    x = torch.tensor(widths, dtype=torch.float64).log()
    x = x - x.mean()
    return (x[:, None, None] * logs).sum(0) / x.square().sum()


def coordinate_check(
    build: Callable[[int], nn.Module],
    widths: Sequence[int],
    x: Any,
    *,
    targets: Tensor,
    loss: TrainingLoss = "cross_entropy",
    optimizer: str = "adam",
    lr: float = 1e-2,
    parametrization: str | None = None,
    base_width: int | None = None,
    steps: int = 3,
    seeds: int = 4,
    seed: int = 0,
) -> CoordinateCheck:
    """Train networks of several widths for a few steps, and measure how far each layer's values move.

    Where a parametrization has folded a multiplier into a layer's weights (queries), its values are those without it.

    Args:
        build: makes a network of a width, drawing its weights from torch's own random numbers.
        widths: at least two, rising.
        x: a batch, as for :func:`leadline.check`; all of it is used at each step.
        targets: of the batch.
        loss: "cross_entropy", "mse" or a function of (output, targets).
        optimizer: "sgd", "momentum", "adam" or "adamw".
        lr: learning rate; with a parametrization, that of the base width.
        parametrization: one of :data:`leadline.tune.PARAMETRIZATIONS`, put on each network; None: networks as they are
            built, with one rate.
        base_width: width of the network that the others are counted against; by default the smallest.
        steps: of training.
        seeds: draws of each network.
        seed: of the first draw.

    Returns:
        Sizes, changes, slopes and a verdict.

    Raises:
        UserError: fewer than two widths or seeds, an optimizer that is not known, or networks of different layers.

    Source: Yang et al. (2022), Tensor programs V, appendix D.1; theirs is a picture, the slopes and errors are ours.
    """
    widths = tuple(int(w) for w in widths)
    if len(widths) < 2 or list(widths) != sorted(set(widths)) or widths[0] < 1:
        raise UserError(f"the widths are {list(widths)}, expected two or more that rise: a slope needs them.")
    if seeds < 2 or steps < 1:
        raise UserError(
            f"got seeds={seeds} and steps={steps}, expected 2 or more and 1 or more: errors come from seeds."
        )
    if optimizer not in _OPTIMIZERS:
        raise UserError(
            f"there is no optimizer '{plain(optimizer)}' here, expected one of {', '.join(_OPTIMIZERS)}: name one."
        )
    args, kwargs = batch_from(x)[:2]
    layers: tuple[str, ...] | None = None
    rows: list[list[tuple[Tensor, Tensor]]] = []
    base = None
    if parametrization is not None:
        base = traced_base(_built(build, base_width or widths[0], seed), args, kwargs)
    for width in widths:
        row = []
        recipe, folded = None, {}
        if parametrization is not None and base is not None:
            model = _built(build, width, seed)
            recipe = scaled_recipe(model, base, parametrization, optimizer, args=args, kwargs=kwargs)
            folded = recipe.summary["parametrization"]["folded"]
        for draw in range(seeds):
            model = _built(build, width, seed + draw)
            groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if p.requires_grad]}]
            if recipe is not None:
                recipe.replace(seed=seed + draw).apply(model, redraw=list(recipe.laws))
                groups = recipe.param_groups(model, lr=lr)
            names, sizes, changes = _moved(
                model, args, kwargs, targets, loss, _OPTIMIZERS[optimizer](groups, lr=lr), steps
            )
            if layers is not None and names != layers:
                raise UserError(
                    f"the network of width {width} has the layers {list(names)[:4]} and one before it {list(layers)[:4]}, "
                    "expected the same: let the width alone change."
                )
            layers = names
            factor = torch.tensor([folded.get(f"{n}.weight", 1.0) for n in names], dtype=torch.float64)
            row.append((sizes / factor, changes / factor))
        rows.append(row)
    stacked = [torch.stack([torch.stack([pair[i] for pair in row]) for row in rows]) for i in (0, 1)]
    name = f"{parametrization or 'as built'}, {optimizer} at {lr:g}"
    return CoordinateCheck(widths, layers or (), stacked[0], stacked[1], steps, name)


def _built(build: Callable[[int], nn.Module], width: int, seed: int) -> nn.Module:
    with isolated_randomness(seed, set()):
        model = build(width)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"build({width}) returned a {plain(type(model).__name__)}, expected a torch.nn.Module: return the network."
        )
    return model


def _moved(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    targets: Tensor,
    loss: TrainingLoss,
    optimizer: torch.optim.Optimizer,
    steps: int,
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Layers in the order in which they run, the size of what they give out, and of its change."""
    before = _values(model, args, kwargs)
    for _ in range(steps):
        optimizer.zero_grad()
        training_loss(loss, first_output(model(*args, **kwargs)), targets).backward()
        optimizer.step()
    after = _values(model, args, kwargs)
    sizes = torch.stack([v.square().mean().sqrt() for v in before.values()])
    changes = torch.stack([(after[n] - v).square().mean().sqrt() for n, v in before.items()])
    return tuple(before), sizes, torch.where(changes.isfinite(), changes, torch.nan)


@torch.no_grad()
def _values(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """What each module with a matrix of its own gives out, at its last call; without one, the output alone."""
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            found[name] = first_output(output).double()

        return keep

    layers = [(n, m) for n, m in model.named_modules() if any(p.dim() > 1 for p in m.parameters(recurse=False)) and n]
    handles = [module.register_forward_hook(keeper(name)) for name, module in layers]
    try:
        output = first_output(model(*args, **kwargs)).double()
    finally:
        for handle in handles:
            handle.remove()
    if not any(v.shape == output.shape and torch.equal(v, output) for v in found.values()):
        found["output"] = output
    return found
