"""A recipe: what to change in a network and why, as plain data that a file can hold."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from torch import Tensor, nn

from leadline.plot import as_text
from leadline.program.law import Law
from leadline.tune.graph_places import Place
from leadline.tune.reshape_wrap import Wrap

__all__ = ["SCHEMA", "Decision", "Group", "ParameterLaw", "Recipe", "Reshape"]

SCHEMA = 1
_WIDTH = 120


@dataclass(frozen=True)
class ParameterLaw:
    r"""The law that a parameter is drawn from.

    .. math:: C_W = \text{fan-in}\,(\text{std}^2 + \text{mean}^2)

    Attributes:
        kind: "gaussian", "orthogonal", "delta_orthogonal" or "constant" (every entry is the mean).
        std: standard deviation of the entries; of an orthogonal matrix their root mean square.
        mean: mean of the entries.
        fan_in: number of input values that one output value sums; 1 for a bias, whose C_W is its C_b.
    """

    kind: str
    std: float
    mean: float = 0.0
    fan_in: int = 1

    @property
    def C_W(self) -> float:
        """Fan-in times the mean square of the entries."""
        return self.fan_in * (self.std**2 + self.mean**2)

    def law(self, name: str) -> Law:
        """The same as a law of the Program, stated."""
        second = self.std**2 + self.mean**2
        random = self.kind != "constant"
        return Law(name, self.kind, self.mean, self.std, second, self.fan_in, self.C_W, random, False, stated=True)


@dataclass(frozen=True)
class Decision:
    """One thing that the recipe changes, or advises where it cannot change it.

    Attributes:
        what: "weights", "bias", "residual branch", "measured correction", "activation" or "advice"; with "graph: " before it
            where it goes with ``graph=True`` alone.
        layer: qualified name of the parameter, or of the submodule that advice is about.
        before, after: the law in words; ``after`` is "" where nothing is changed.
        why: one sentence with its number.
        source: the work that it rests on.
    """

    what: str
    layer: str
    before: str
    after: str
    why: str
    source: str = ""


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay.

    Attributes:
        name: "input", "hidden", "output", "embedding" or "vector", and what sets it apart from others of its role.
        parameters: qualified names.
        lr: learning rate; None leaves the one that is passed for all, or the optimizer's own.
        weight_decay: None leaves the one that is passed for all, or the optimizer's own.
        lr_factor: on a rate that is passed for all; ``lr`` has it already.
        weight_decay_factor: on a weight decay that is passed for all.
    """

    name: str
    parameters: tuple[str, ...]
    lr: float | None = None
    weight_decay: float | None = None
    lr_factor: float = 1.0
    weight_decay_factor: float = 1.0


@dataclass(frozen=True)
class Reshape:
    """A nonlinearity that a change of the graph puts in an affine wrap.

    Attributes:
        place: of it in the module tree.
        activation: its name.
        wrap: the constants.
    """

    place: Place
    activation: str
    wrap: Wrap


class _Snapshots:
    """Tensors from before a recipe was applied, by model; a copy or a pickle of it is empty."""

    def __init__(self) -> None:
        self.kept: weakref.WeakKeyDictionary[nn.Module, dict[str, Tensor]] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[_Snapshots], tuple[()]]:
        return _Snapshots, ()


@dataclass(frozen=True)
class Recipe:
    """What to change in a network, which parameters train together, and what came of it.

    Attributes:
        target: what the network is called.
        fingerprint: shape of every parameter by qualified name; the network must match it.
        seed: of the draws; each parameter has its own generator, made from the seed and its name.
        laws: of the parameters that are drawn anew; empty where the network was left alone.
        decisions: what is changed, and why.
        groups: parameters that train together.
        optimizer: name of the optimizer that the groups are for, or None.
        summary: predicted, measured and checked numbers of before and after, as plain data.
        leadline: version that made the recipe.
        scales: factor that affine wraps, folded into them, have on parameters; learning rates follow it.
        reshapes: nonlinearities that are wrapped with ``graph=True``, instead of what is folded.
        graph_laws: of the parameters that are drawn anew with ``graph=True``, instead of ``laws``.
        schema: version of the file's layout.
    """

    target: str
    fingerprint: Mapping[str, tuple[int, ...]]
    seed: int
    laws: Mapping[str, ParameterLaw] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    groups: tuple[Group, ...] = ()
    optimizer: str | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    leadline: str = ""
    scales: Mapping[str, float] = field(default_factory=dict)
    reshapes: tuple[Reshape, ...] = ()
    graph_laws: Mapping[str, ParameterLaw] = field(default_factory=dict)
    schema: int = SCHEMA
    _snapshots: _Snapshots = field(default_factory=_Snapshots, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the check found no error in the network with the recipe applied (or as it was, if left alone)."""
        return bool(self.summary.get("after", self.summary.get("before", {})).get("ok", False))

    @property
    def graph_ok(self) -> bool:
        """The same with the recipe applied by ``graph=True``."""
        return bool(self.summary.get("graph", {}).get("after", {}).get("ok", self.ok))

    def apply(self, model: nn.Module, redraw: Iterable[str] = (), *, graph: bool = False) -> nn.Module:
        """Draw the recipe's parameters anew, in place: all of them or, where one is refused, none.

        The keys of the state dict, dtype, device and ties stay. The same seed draws the same values on every device, and
        a second call changes nothing.

        Args:
            model: the network that the recipe was made for, or another of the same parameters and shapes.
            redraw: parameters or submodules whose weights may be lost although they are trained, frozen or tied.
            graph: make a copy in which the recipe's nonlinearities are wrapped, too, and leave the model as it is.

        Returns:
            The model itself; with ``graph``, the copy, a plain module with the same keys.

        Raises:
            UserError: the network does not fit; or weights would be lost that no init law explains, or that are frozen
                or tied, and ``redraw`` does not name them.
        """
        if graph:
            from leadline.tune.graph_apply import apply_graph

            return apply_graph(self, model, redraw)
        from leadline.tune.recipe_apply import apply

        apply(self, model, redraw)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Put back the values from before :meth:`apply`, to the byte.

        Args:
            model: the very module that this recipe was applied to; a copy has no memory of before.

        Returns:
            The model itself.

        Raises:
            UserError: this recipe was not applied to this module.
        """
        from leadline.tune.recipe_apply import revert

        revert(self, model)
        return model

    def param_groups(
        self, model: nn.Module, lr: float | None = None, weight_decay: float | None = None
    ) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer of torch.

        Args:
            model: a network that the recipe fits.
            lr: learning rate of the groups for which the recipe has none, times their factor; needed where groups have
                factors, of a parametrization or of wraps that are folded into weights.
            weight_decay: of the groups for which the recipe has none, times their factor.

        Returns:
            One dict a group with "name" and "params", and "lr" and "weight_decay" where they are set; frozen
            parameters are left out.

        Raises:
            UserError: the network does not fit, or rates that follow a factor have no rate to begin with.
        """
        from leadline.tune.recipe_apply import param_groups

        return param_groups(self, model, lr, weight_decay)

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML.

        Args:
            path: of the file.

        Raises:
            UserError: the file cannot be written, or PyYAML is not installed.
        """
        from leadline.tune.recipe_file import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe; the file is read as data only.

        Args:
            path: of the file.

        Returns:
            The recipe.

        Raises:
            UserError: the file is missing, corrupt, no recipe, or of a newer layout; or PyYAML is not installed.
        """
        from leadline.tune.recipe_file import load

        return load(path)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts, in the order of the file."""
        from leadline.tune.recipe_file import to_dict

        return to_dict(self)

    def _consistent(self) -> Recipe:
        """The recipe itself, where every name in it is that of a parameter and stands in one group at most."""
        named = [n for g in self.groups for n in g.parameters]
        for name in (*self.laws, *self.graph_laws, *self.scales, *named):
            if name not in self.fingerprint:
                raise ValueError(f"{name!r} is not among the parameters of its fingerprint")
        if len(set(named)) < len(named):
            raise ValueError("a parameter stands in two groups")
        return self

    def replace(self, **changes: Any) -> Recipe:
        """A copy with other values; it has no memory of networks that this one was applied to.

        Args:
            changes: attributes and their new values.

        Returns:
            The copy.
        """
        return dataclasses.replace(self, _snapshots=_Snapshots(), **changes)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from leadline.tune.recipe_screen import screen

        yield from screen(self)

    def __str__(self) -> str:
        return as_text(self, _WIDTH)
