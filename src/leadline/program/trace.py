"""From a module and a batch to a Program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import leadline.program.layouts_images  # noqa: F401  # its rules register themselves
from leadline.program.errors import UserError
from leadline.program.export import Exported, ExportFailure, export
from leadline.program.fuse import GraphView, Group, fuse
from leadline.program.fuse.pointwise import compile_chain
from leadline.program.inputs import batch_from
from leadline.program.laws import Law, fan_in, read_law, stated_law
from leadline.program.layouts import bind, find_layouts, short_name
from leadline.program.step import Program, Ref, Step

__all__ = ["trace"]

_CONV = ("conv1d", "conv2d", "conv3d")
_CONV_T = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_CANONICAL = {
    **dict.fromkeys(_CONV, "conv"),
    **dict.fromkeys(_CONV_T, "conv_transpose"),
    "addmm": "linear",
    "mm": "linear",
    "_native_batch_norm_legit_functional": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "native_dropout": "dropout",
    "view": "reshape",
    "_unsafe_view": "reshape",
}
# argument slots that hold a weight: what feeds only these is computed, not predicted
_WEIGHT_SLOTS = {
    "linear": ("weight", "bias"),
    "conv": ("weight", "bias"),
    "conv_transpose": ("weight", "bias"),
    "embedding": ("weight",),
    "layer_norm": ("weight", "bias"),
    "rms_norm": ("weight",),
    "group_norm": ("weight", "bias"),
    "batch_norm": ("weight", "bias", "running_mean", "running_var"),
}


class _Evaluate(fx.Interpreter):
    """Runs only the nodes that depend on no parameter."""

    def __init__(self, module: fx.GraphModule, fixed: frozenset[fx.Node]) -> None:
        super().__init__(module)
        self.fixed = fixed
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n not in self.fixed:
            # a placeholder takes the next argument whether its value is wanted or not
            return super().run_node(n) if n.op == "placeholder" else None
        self.values[n.name] = value = _made(n) if short_name(n) in _MADE else super().run_node(n)
        return value


# tensors of which only the size comes from another
_MADE = {
    **dict.fromkeys(("new_empty", "empty_like", "new_zeros", "zeros_like", "new_empty_strided"), 0.0),
    **dict.fromkeys(("new_ones", "ones_like"), 1.0),
    **dict.fromkeys(("new_full", "full_like"), None),
}


def _made(node: fx.Node) -> Tensor:
    """What such an operator makes; what it leaves open is zero."""
    like, number = node.meta["val"], _MADE[short_name(node)]
    if number is None:
        number = bind(node)["fill_value"]
    return torch.full([int(n) for n in like.shape], number, dtype=like.dtype, device=like.device)


def trace(
    model: nn.Module,
    x: Any = None,
    *,
    law: Mapping[str, Mapping[str, float]] | None = None,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Program:
    """Read a module as a Program: typed steps, each with its submodule's name, and the law of every parameter.

    Args:
        model: the module; its mode (train or eval) is the mode that is traced.
        x: a batch: a tensor, a tuple of arguments, a dict of keyword arguments, or a DataLoader (its first batch).
        law: ``{module name: {"C_W": …, "C_b": …}}``, stated laws that override what is read from the weights
            (C_W = fan-in times the weight variance, C_b = bias variance).
        args: positional call arguments, instead of ``x``.
        kwargs: keyword call arguments, instead of or beside ``x``.

    Returns:
        The Program.

    Raises:
        UserError: the batch or a name in ``law`` does not fit the model.
        ExportFailure: the module cannot be exported; the message says why in one line.

    Example:
        >>> import torch, leadline as ll
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4))
        >>> [step.op for step in ll.trace(net, torch.ones(2, 8)).steps]
        ['linear', 'pointwise', 'linear']
    """
    if args is None:
        more: Mapping[str, Any] = {}
        args, more = batch_from(x)[:2] if x is not None else ((), {})
        kwargs = {**more, **(kwargs or {})}
    kwargs = dict(kwargs or {})
    exported = export(model, args, kwargs)
    # slow to import, and loaded by the export anyway
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    try:
        return assemble(model, exported, args, kwargs, law or {})
    except GuardOnDataDependentSymNode as error:
        raise ExportFailure("the size of a tensor depends on the values of another (data-dependent shapes)") from error


def assemble(
    model: nn.Module,
    exported: Exported,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    law: Mapping[str, Mapping[str, float]],
) -> Program:
    """Turn an exported graph into typed steps."""
    graph = exported.module.graph
    nodes = tuple(graph.nodes)
    random = _random_nodes(nodes, exported)
    fixed = frozenset(n for n in nodes if n.op in ("placeholder", "call_function", "get_attr") and n not in random)
    evaluate = _Evaluate(exported.module, fixed)
    with torch.no_grad():
        evaluate.run(*exported.lifted(pytree.tree_leaves((args, dict(kwargs)))))
    slopes = _slopes(nodes, exported)
    needs_input = _depends(nodes, exported.inputs)
    weights = frozenset(n for n in random if n not in needs_input)
    view = GraphView(nodes, _ancestors([exported.output]), fixed, exported.output, frozenset(slopes), weights)
    groups = fuse(view)
    scalars = {**evaluate.values, **{n.name: value for n, value in slopes.items()}}
    layouts = find_layouts(graph)
    vectors = frozenset(
        n
        for n in weights
        if short_name(n) != "embedding" and all(a.kind == "channel" for d in layouts[n.name] for dim in d for a in dim)
    )
    wanted = _data_side(exported.output, groups, fixed | vectors | _biases(nodes, groups, weights))
    steps = tuple(_step(n, groups.get(n), layouts, scalars) for n in nodes if n in wanted)
    return Program(
        model=model,
        args=args,
        kwargs=kwargs,
        exported=exported,
        steps=steps,
        laws=_laws(model, exported, steps, law),
        constants=evaluate.values,
        layouts=layouts,
        weight_side=frozenset(n.name for n in weights),
        output=exported.output.name,
        training=model.training,
    )


def _random_nodes(nodes: tuple[fx.Node, ...], exported: Exported) -> set[fx.Node]:
    """Nodes whose value depends on a parameter, or is drawn (train-mode dropout)."""
    random: set[fx.Node] = set()
    for node in nodes:
        if node.op == "call_function" and short_name(node) in _MADE:
            continue
        drawn = node.op == "call_function" and short_name(node) == "native_dropout"
        if node.name in exported.parameters or drawn or any(a in random for a in node.all_input_nodes):
            random.add(node)
    return random


def _slopes(nodes: tuple[fx.Node, ...], exported: Exported) -> dict[fx.Node, Tensor]:
    """Slopes of PReLUs that are one number for all channels, as they are until training moves them apart."""
    found: dict[fx.Node, Tensor] = {}
    for node in nodes:
        if node.op == "call_function" and short_name(node) in ("prelu", "_prelu_kernel"):
            weight: Any = node.args[1]
            value = exported.state.get(exported.parameters.get(weight.name, ""))
            if value is not None and value.numel() and bool((value == value.reshape(-1)[0]).all()):
                found[weight] = value
    return found


def _depends(nodes: tuple[fx.Node, ...], names: tuple[str, ...]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in nodes:
        if node.name in names or any(a in found for a in node.all_input_nodes):
            found.add(node)
    return found


def _ancestors(roots: list[fx.Node]) -> frozenset[fx.Node]:
    seen: set[fx.Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(node.all_input_nodes)
    return frozenset(seen)


def canonical(node: fx.Node) -> str:
    """The operator name that rules are registered under."""
    name = short_name(node)
    return _CANONICAL.get(name, name)


def _given(node: fx.Node, group: Group | None) -> dict[str, Any]:
    """Arguments of a step by the names that its rule uses, whichever operator the graph has for it."""
    if group is not None:
        return dict(group.arguments)
    given = bind(node)
    name = short_name(node)
    if name == "addmm":
        return {"input": given["mat1"], "weight": given["mat2"], "bias": given["self"], "transposed": True}
    if name == "mm":
        return {"input": given["self"], "weight": given["mat2"], "bias": None, "transposed": True}
    return given


def _weights_only(slot: str, op: str) -> bool:
    return slot in _WEIGHT_SLOTS.get(op, ())


def _biases(
    nodes: tuple[fx.Node, ...], groups: Mapping[fx.Node, Group], weights: frozenset[fx.Node]
) -> frozenset[fx.Node]:
    """What is added to attention logits and depends on parameters alone: the rule evaluates it."""
    found: set[fx.Node] = set()
    for node in nodes:
        group = groups.get(node)
        if (group.op if group is not None else canonical(node)) == "scaled_dot_product_attention":
            mask = _given(node, group)["attn_mask"]
            found.update(a for a in pytree.tree_leaves(mask) if isinstance(a, fx.Node) and a in weights)
    return frozenset(found)


def _data_side(output: fx.Node, groups: Mapping[fx.Node, Group], fixed: frozenset[fx.Node]) -> set[fx.Node]:
    """Nodes whose value is a random activation that some step needs: those become steps."""
    wanted: set[fx.Node] = set()
    stack = [output]
    while stack:
        node = stack.pop()
        if node in wanted or node in fixed or node.op == "placeholder":
            continue
        wanted.add(node)
        group = groups.get(node)
        op = group.op if group is not None else canonical(node)
        for slot, value in _given(node, group).items():
            if not _weights_only(slot, op):
                stack.extend(a for a in pytree.tree_leaves(value) if isinstance(a, fx.Node))
    return wanted


def _step(node: fx.Node, group: Group | None, layouts: Mapping[str, Any], scalars: Mapping[str, Any]) -> Step:
    op = group.op if group is not None else canonical(node)
    members = group.members if group is not None else (node,)
    given = _given(node, group)
    fn = None
    if op == "pointwise":
        fn = compile_chain(given["input"], members, node, scalars)
    data = [
        a.name
        for slot, v in given.items()
        if not _weights_only(slot, op)
        for a in pytree.tree_leaves(v)
        if isinstance(a, fx.Node)
    ]
    values = node.meta["val"]
    tensors = list(values) if isinstance(values, (tuple, list)) else [values]
    shapes = tuple(tuple(int(s) for s in v.shape) if isinstance(v, Tensor) else () for v in tensors)
    wrapped = pytree.tree_map(lambda a: Ref(a.name) if isinstance(a, fx.Node) else a, given)
    return Step(
        name=node.name,
        op=op,
        layer=_layer(members),
        node=node,
        arguments=wrapped,
        inputs=tuple(dict.fromkeys(data)),
        layouts=layouts[node.name],
        shapes=shapes,
        fn=fn,
        members=tuple(m.name for m in members),
    )


def _layer(members: tuple[fx.Node, ...]) -> str:
    """Innermost submodule that holds all of a step's nodes."""
    paths = []
    for node in members:
        stack = node.meta.get("nn_module_stack")
        if stack:
            paths.append(str(list(stack.values())[-1][0]))
    if not paths:
        return ""
    parts = [p.split(".") for p in paths]
    common = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common)


def _laws(
    model: nn.Module, exported: Exported, steps: tuple[Step, ...], stated: Mapping[str, Mapping[str, float]]
) -> dict[str, Law]:
    """Law of every parameter, with the fan-in that its use gives it."""
    fans: dict[str, int] = {}
    for step in steps:
        weight = step.arguments.get("weight")
        name = exported.parameters.get(weight.name) if isinstance(weight, Ref) else None
        if name is not None and step.op in ("linear", "conv", "conv_transpose", "embedding"):
            fans.setdefault(name, weight_fan_in(step, exported.state[name].shape))
    laws = {}
    for name, value in exported.state.items():
        if name in exported.parameters.values():
            laws[name] = read_law(value.detach(), fan_in=fans.get(name, 1), name=name)
    return _state_laws(model, laws, stated)


def weight_fan_in(step: Step, shape: torch.Size | tuple[int, ...]) -> int:
    """Number of input values that one output value of a weighted step sums."""
    if step.op == "embedding":
        return 1
    return fan_in(
        shape,
        op=step.op,
        transposed=bool(step.arguments.get("transposed", False)),
        groups=int(step.arguments.get("groups", 1)),
    )


def _state_laws(model: nn.Module, laws: dict[str, Law], stated: Mapping[str, Mapping[str, float]]) -> dict[str, Law]:
    modules = dict(model.named_modules())
    for module, values in stated.items():
        if module not in modules:
            near = ", ".join(list(modules)[1:6])
            raise UserError(f"law: the model has no module {module!r}; its modules are {near}, ….")
        unknown = set(values) - {"C_W", "C_b"}
        if unknown:
            raise UserError(f"law[{module!r}]: unknown key {sorted(unknown)[0]!r}; give C_W and C_b.")
        prefix = f"{module}." if module else ""
        for suffix, key in (("weight", "C_W"), ("bias", "C_b")):
            if key in values:
                name = prefix + suffix
                if name not in laws:
                    raise UserError(
                        f"law[{module!r}]: the module has no {suffix}, so {key} cannot be stated; leave it out."
                    )
                laws[name] = stated_law(laws[name], values[key])
    return laws
