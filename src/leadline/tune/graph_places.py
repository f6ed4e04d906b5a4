"""Where a nonlinearity of the graph stands in the module tree, so that a copy of the network can be given another one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from leadline.program import Program, Step

__all__ = ["Place", "find_place", "module_path"]

_OPERATORS = tuple(f"method_descriptor.{n}" for n in ("mul", "add", "sub", "div", "neg", "to", "pow"))


@dataclass(frozen=True)
class Place:
    """A module that is one nonlinearity, or a call of a function in the forward pass of a module.

    Attributes:
        module: qualified name.
        call: kind and name of the function, such as "function.relu"; "" for the module itself.
        index: which of such calls in the module's forward pass, those of its submodules counted.
    """

    module: str
    call: str = ""
    index: int = 0

    def __str__(self) -> str:
        """The place in words."""
        return self.module if not self.call else f"{self.module or '.'} ({self.call.split('.')[-1]} #{self.index + 1})"


def module_path(node: fx.Node) -> str:
    """Qualified name of the innermost module whose forward pass makes a node."""
    stack = node.meta.get("nn_module_stack")
    # a second call of the same module is written "name@1"
    return str(list(stack.values())[-1][0]).split("@")[0] if stack else ""


def find_place(program: Program, step: Step) -> Place | str:
    """The place of a pointwise step.

    Args:
        program: of the network.
        step: one of its pointwise steps.

    Returns:
        The place; or why there is none, in words.
    """
    members = [program.nodes[n] for n in step.members]
    nodes = [n for n in program.nodes.values() if n.op == "call_function"]
    modules = dict(program.model.named_modules())
    inner = _inside(nodes, step.layer)
    steps = {n for s in program.steps if s.op == "pointwise" and s.layer == step.layer for n in s.members}
    if (
        step.layer in modules
        and step.layer
        and all(n.name in steps for n in inner)
        and _one_module(modules, step.layer)
    ):
        return Place(step.layer)
    calls = {_called(n) for n in members}
    owner = module_path(members[-1])
    if len(calls) != 1 or len({module_path(n) for n in members}) != 1 or owner not in modules:
        return "its operations are spread over a forward pass: put them into a module of their own"
    call = calls.pop()
    if call[1] == "" or call[1] in _OPERATORS:
        return "it is written out in operators: put it into a module of its own"
    order = list(dict.fromkeys(_called(n) for n in _inside(nodes, owner) if _called(n)[1] == call[1]))
    return Place(owner, call[1], order.index(call))


def _called(node: fx.Node) -> tuple[str, str]:
    """Number and name of the call of torch that made a node."""
    found = node.meta.get("torch_fn")
    return (str(found[0]), str(found[1])) if found else ("", "")


def _inside(nodes: list[fx.Node], path: str) -> list[fx.Node]:
    """Nodes that the forward pass of a module makes, those of its submodules among them."""
    prefix = f"{path}." if path else ""
    return [n for n in nodes if module_path(n) == path or module_path(n).startswith(prefix)]


def _one_module(modules: dict[str, nn.Module], path: str) -> bool:
    """Whether a module has this one name: another name would be a second place with the same hooks."""
    return sum(m is modules[path] for m in modules.values()) == 1
