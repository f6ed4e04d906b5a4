"""Where a nonlinearity of the graph stands in the module tree, so that a copy of the network can be given another one."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx, nn

from leadline.program import Program, Step

__all__ = ["Place", "find_places_of"]

_OPERATORS = tuple(f"method_descriptor.{n}" for n in ("mul", "add", "sub", "div", "neg", "to", "pow"))


@dataclass(frozen=True)
class Place:
    """A module that is one nonlinearity, or a call of a function in the forward pass of a module.

    Attributes:
        module: qualified name, of several the first.
        call: kind and name of the function, such as "function.relu"; "" for the module itself.
        index: which of such calls in the module's forward pass, those of its submodules counted.
    """

    module: str
    call: str = ""
    index: int = 0

    def __str__(self) -> str:
        """The place in words."""
        return self.module if not self.call else f"{self.module or '.'} ({self.call.split('.')[-1]} #{self.index + 1})"


def find_places_of(program: Program, steps: Iterable[Step]) -> dict[str, Place | str]:
    """The places of pointwise steps in the module tree.

    Args:
        program: of the network.
        steps: some of its pointwise steps.

    Returns:
        By step: the place; or why there is none, in words.
    """
    modules = dict(program.model.named_modules(remove_duplicate=False))
    first: dict[int, str] = {}
    for name, module in modules.items():
        first.setdefault(id(module), name)
    nodes = [n for n in program.nodes.values() if n.op == "call_function"]
    found: dict[str, Place | str] = {}
    runs: Counter[str] | None = None
    for step in steps:
        place = _place(program, step, nodes, modules)
        if isinstance(place, Place):
            place = Place(first[id(modules[place.module])], place.call, place.index)
            if place.call:
                runs = _runs(program) if runs is None else runs
                if runs[place.module] > 1:
                    place = "the forward pass that calls it runs several times: put it into a module of its own"
        found[step.name] = place
    return found


def _place(program: Program, step: Step, nodes: list[fx.Node], modules: dict[str, nn.Module]) -> Place | str:
    pointwise = {n for s in program.steps if s.op == "pointwise" and s.layer == step.layer for n in s.members}
    if step.layer in modules and step.layer and all(n.name in pointwise for n in _inside(nodes, step.layer)):
        return Place(step.layer)
    members = [program.nodes[n] for n in step.members]
    calls, owner = {_called(n) for n in members}, _path(members[-1])
    if len(calls) != 1 or len({_path(n) for n in members}) != 1 or owner not in modules:
        return "its operations are spread over a forward pass: put them into a module of their own"
    call = calls.pop()
    if call[1] == "" or call[1] in _OPERATORS:
        return "it is written out in operators: put it into a module of its own"
    order = list(dict.fromkeys(_called(n) for n in _inside(nodes, owner) if _called(n)[1] == call[1]))
    return Place(owner, call[1], order.index(call))


def _path(node: fx.Node) -> str:
    """Qualified name of the innermost module whose forward pass makes a node."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _called(node: fx.Node) -> tuple[str, str]:
    """Number and name of the call of torch that made a node."""
    found = node.meta.get("torch_fn")
    return (str(found[0]), str(found[1])) if found else ("", "")


def _inside(nodes: list[fx.Node], path: str) -> list[fx.Node]:
    """Nodes that the forward pass of a module makes, those of its submodules among them."""
    prefix = f"{path}." if path else ""
    return [n for n in nodes if _path(n) == path or _path(n).startswith(prefix)]


@torch.no_grad()
def _runs(program: Program) -> Counter[str]:
    """How often the forward pass of each module runs in one of the network, by its first name."""
    twin = copy.deepcopy(program.model)
    counted: Counter[str] = Counter()
    for name, module in twin.named_modules():
        module.register_forward_pre_hook(lambda _module, _args, name=name: counted.update([name]))
    with torch.random.fork_rng(devices=[]):
        twin(*program.args, **program.kwargs)
    return counted
