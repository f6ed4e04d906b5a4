"""How each operator moves the axes of a tensor: the static half of a Program, run once over the graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx

from leadline.program.axes import (
    CHANNEL,
    SITE,
    Atom,
    Dims,
    Layout,
    broadcast_dims,
    flat,
    reshape_dims,
    resolve,
    set_kind,
    unify,
)

__all__ = ["bind", "find_layouts", "layout_rule", "part_of", "shape_of", "short_name"]

_View = Callable[[fx.Node, Mapping[str, Any], Callable[[Any], Dims]], "Dims | list[Dims] | None"]
_RULES: dict[str, _View] = {}

VIEWS = ("reshape", "view", "_unsafe_view", "flatten", "unflatten")


def short_name(node: fx.Node) -> str:
    """`aten.conv2d.default` -> `conv2d`; `getitem` for tuple access."""
    if node.target is operator.getitem:
        return "getitem"
    text = str(node.target)
    return text.split(".")[1] if text.startswith("aten.") else text


def bind(node: fx.Node) -> dict[str, Any]:
    """Arguments of an operator by schema name, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(i): a for i, a in enumerate(node.args)} | dict(node.kwargs)
    bound = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    bound |= {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)}
    return bound | dict(node.kwargs)


def layout_rule(*names: str) -> Callable[[_View], _View]:
    """Register how an operator moves axes.

    Args:
        names: operator names without their namespace and overload, as ``conv2d``.

    Returns:
        A decorator for a function of (node, arguments by schema name, lookup of an operand's dimensions) that gives the
        dimensions of the output, a list of them for a tuple, or None where the axes are lost.
    """

    def register(function: _View) -> _View:
        for name in names:
            _RULES[name] = function
        return function

    return register


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Sizes of a node's value."""
    return tuple(int(s) for s in node.meta["val"].shape)


@layout_rule("linear", "addmm", "mm")
def _linear(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x = dims(a.get("input", a.get("mat1", a.get("self"))) if "mat1" not in a else a["mat1"])
    set_kind(x[-1], CHANNEL)
    return [*x[:-1], [Atom(shape_of(node)[-1], CHANNEL)]]


@layout_rule("embedding")
def _embedding(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    return [*dims(a["indices"]), [Atom(shape_of(node)[-1], CHANNEL)]]


@layout_rule(*VIEWS)
def _view(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims | None:
    return reshape_dims(dims(a["self"]), shape_of(node))


@layout_rule("transpose")
def _transpose(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x = list(dims(a["self"]))
    i, j = a["dim0"], a["dim1"]
    x[i], x[j] = x[j], x[i]
    return x


@layout_rule("t", "numpy_T")
def _t(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    return list(reversed(dims(a["self"])))


@layout_rule("permute")
def _permute(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x = dims(a["self"])
    return [x[i] for i in a["dims"]]


@layout_rule("unsqueeze")
def _unsqueeze(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x = list(dims(a["self"]))
    x.insert(a["dim"] if a["dim"] >= 0 else a["dim"] + len(x) + 1, [])
    return x


@layout_rule("squeeze")
def _squeeze(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x = dims(a["self"])
    sizes = shape_of(a["self"])
    drop = a.get("dim", list(range(len(x))))
    drop = {d % len(x) for d in ([drop] if isinstance(drop, int) else drop)}
    return [dim for i, dim in enumerate(x) if not (i in drop and sizes[i] == 1)]


@layout_rule("expand")
def _expand(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x, old, new = dims(a["self"]), shape_of(a["self"]), shape_of(node)
    lead = len(new) - len(old)
    out: Dims = [[Atom(s)] if s > 1 else [] for s in new[:lead]]
    for dim, o, n in zip(x, old, new[lead:], strict=True):
        out.append(dim if o == n else [Atom(n)])
    return out


@layout_rule("select")
def _select(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x = list(dims(a["self"]))
    del x[a["dim"] % len(x)]
    return x


@layout_rule("slice", "index_select", "narrow")
def _slice(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x, shape = list(dims(a["self"])), shape_of(node)
    d = a["dim"] % len(x)
    if shape_of(a["self"])[d] != shape[d]:
        x[d] = part_of(x[d], shape[d])
    return x


def part_of(dim: list[Atom], size: int) -> list[Atom]:
    """A part of an axis: a new axis of the same kind (linked by kind only, since another slice is another axis)."""
    kinds = {leaf.kind for atom in dim for leaf in atom.leaves()}
    return [] if size == 1 else [Atom(size, kinds.pop() if len(kinds) == 1 else None)]


@layout_rule("split", "split_with_sizes", "chunk", "unbind")
def _split(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> list[Dims]:
    x, d = dims(a["self"]), a["dim"]
    outs = []
    for value in node.meta["val"]:
        part = list(x)
        if short_name(node) == "unbind":
            del part[d % len(x)]
        else:
            part[d % len(x)] = part_of(x[d % len(x)], value.shape[d])
        outs.append(part)
    return outs


@layout_rule("cat")
def _cat(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    parts = [dims(n) for n in a["tensors"]]
    d = a["dim"] % len(parts[0])
    rest = broadcast_dims(
        [
            ([*p[:d], [], *p[d + 1 :]], [*shape_of(n)[:d], 1, *shape_of(n)[d + 1 :]])
            for p, n in zip(parts, a["tensors"], strict=True)
        ],
        [*shape_of(node)[:d], 1, *shape_of(node)[d + 1 :]],
    )
    kinds = {leaf.kind for p in parts for atom in p[d] for leaf in atom.leaves()} - {None}
    rest[d] = [Atom(shape_of(node)[d], kinds.pop() if len(kinds) == 1 else None)]
    return rest


@layout_rule("stack")
def _stack(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    shape, d = shape_of(node), a["dim"] % len(shape_of(node))
    parts = [(dims(n), shape_of(n)) for n in a["tensors"]]
    rest = broadcast_dims(parts, parts[0][1])
    rest.insert(d, [] if shape[d] == 1 else [Atom(shape[d])])
    return rest


@layout_rule("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "argmax", "any", "all", "logsumexp")
def _reduce(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x = dims(a["self"])
    drop = a.get("dim")
    every = drop is None or drop == []
    listed: list[int] = [] if drop is None else [drop] if isinstance(drop, int) else list(drop)
    gone = set(range(len(x))) if every else {d % len(x) for d in listed}
    keep = bool(a.get("keepdim", False)) and not every
    return [[] if i in gone else dim for i, dim in enumerate(x) if keep or i not in gone]


@layout_rule("scaled_dot_product_attention")
def _attention(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    q, k, v = dims(a["query"]), dims(a["key"]), dims(a["value"])
    for operand in (q, k, v):
        set_kind(operand[-1], CHANNEL)
    # heads and samples of the three are the same axes: repeated key heads (grouped queries) get their kind from here
    broadcast_dims(
        [(d[:-2], shape_of(a[name])[:-2]) for d, name in ((q, "query"), (k, "key"), (v, "value"))], shape_of(node)[:-2]
    )
    unify(k[-2], v[-2])
    return [*q[:-1], v[-1]]


@layout_rule("matmul", "bmm")
def _matmul(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims | None:
    one, two = a["self"], a.get("other", a.get("mat2"))
    x, y = dims(one), dims(two)
    shape = shape_of(node)
    if len(x) < 2 or len(y) < 2:
        return None
    if len(y) == 2 and len(x) > 2:  # the same matrix for all sites: a dense layer
        set_kind([*x[-1], *y[-1]], CHANNEL)
    lead = broadcast_dims([(x[:-2], shape_of(one)[:-2]), (y[:-2], shape_of(two)[:-2])], shape[:-2])
    if {id(leaf) for leaf in flat([x[-2]])} & {id(leaf) for leaf in flat([y[-1]])}:
        # query and key positions are the same axis; their product has it twice, so the second gets its own name
        return [*lead, x[-2], [] if shape[-1] == 1 else [Atom(shape[-1], SITE)]]
    return [*lead, x[-2], y[-1]]


@layout_rule("layer_norm", "rms_norm")
def _norm(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x = dims(a["input"])
    for dim in x[-len(a["normalized_shape"]) :]:
        set_kind(dim, CHANNEL)
    return x


@layout_rule(
    "_native_batch_norm_legit_functional",
    "_native_batch_norm_legit_no_training",
    "batch_norm",
    "_native_batch_norm_legit",
    "native_batch_norm",
)
def _batch_norm(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> list[Dims] | Dims:
    x = dims(a["input"])
    set_kind(x[1], CHANNEL)
    for dim in x[2:]:
        set_kind(dim, SITE)
    if not isinstance(node.meta["val"], (tuple, list)):
        return x
    return [x] + [_unknown(v) for v in node.meta["val"][1:]]


@layout_rule("group_norm", "instance_norm")
def _group_norm(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> Dims:
    x = dims(a["input"])
    set_kind(x[1], CHANNEL)
    for dim in x[2:]:
        set_kind(dim, SITE)
    return x


@layout_rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(node: fx.Node, a: Mapping[str, Any], dims: Callable[[Any], Dims]) -> list[Dims]:
    x = dims(a["input"])
    set_kind(x[-1], CHANNEL)
    first = [*x[:-1], [Atom(node.meta["val"][0].shape[-1], CHANNEL)]]
    return [first] + [_unknown(v) for v in node.meta["val"][1:]]


def _unknown(value: Any) -> Dims:
    if not isinstance(value, Tensor):
        return []
    return [[Atom(int(s))] if int(s) > 1 else [] for s in value.shape]


def _generic(node: fx.Node, dims: Callable[[Any], Dims]) -> list[Dims]:
    """Pointwise by shape: operands of broadcastable shape are lined up; anything else gets axes by position."""
    values = node.meta["val"]
    listed = list(values) if isinstance(values, (tuple, list)) else [values]
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    outs: list[Dims] = []
    for value in listed:
        if not isinstance(value, Tensor):
            outs.append([])
            continue
        shape = [int(s) for s in value.shape]
        operands = [(dims(n), shape_of(n)) for n in tensors if _broadcastable(shape_of(n), shape)]
        outs.append(broadcast_dims(operands, shape))
    return outs


def _broadcastable(one: tuple[int, ...], shape: list[int]) -> bool:
    if len(one) > len(shape):
        return False
    return all(a in (1, b) for a, b in zip(reversed(one), reversed(shape), strict=False))


def find_layouts(graph: fx.Graph) -> dict[str, tuple[Layout, ...]]:
    """Axes of every tensor in a graph.

    Args:
        graph: a functional ATen graph with ``meta["val"]`` on its nodes.

    Returns:
        Node name -> one layout for each output of the node.
    """
    found: dict[str, list[Dims]] = {}

    def dims(node: Any) -> Dims:
        return found[node.name][0]

    for node in graph.nodes:
        if node.op == "placeholder":
            found[node.name] = [_unknown(node.meta.get("val"))]
        elif node.op == "call_function":
            found[node.name] = _outputs(node, found, dims)

    def by_position(index: int) -> str:
        return "sample" if index == 0 else SITE

    return {name: tuple(resolve(d, by_position) for d in outs) for name, outs in found.items()}


def _outputs(node: fx.Node, found: dict[str, list[Dims]], dims: Callable[[Any], Dims]) -> list[Dims]:
    name = short_name(node)
    if name == "getitem":
        pair: Any = node.args
        outs = found[pair[0].name]
        return [outs[pair[1]] if pair[1] < len(outs) else []]
    rule = _RULES.get(name)
    if rule is None:
        return _generic(node, dims)
    result = rule(node, bind(node), dims)
    values = node.meta["val"]
    many = isinstance(values, (tuple, list))
    if result is None:
        return [_unknown(v) for v in (values if many else [values])]
    return result if many else [result]  # type: ignore[return-value,list-item]
