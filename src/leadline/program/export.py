"""`torch.export` of a module, repaired so that every node can be run, re-run and differentiated."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions

from leadline.program.errors import UserError

__all__ = ["Exported", "ExportFailure", "export"]

# a gated linear unit is a product of two channels; everything else stays whole
_DECOMPOSED = [torch.ops.aten.glu.default]
_ERASED = {torch.ops.aten._assert_tensor_metadata.default, torch.ops.aten._assert_scalar.default}


class ExportFailure(Exception):
    """The module cannot be written as a graph; the message says why in one line."""


@dataclass
class Exported:
    """A functional graph of a module and what its placeholders stand for.

    ``parameters``, ``buffers``: placeholder name -> qualified name. ``state``: qualified name -> tensor (the user's own).
    ``inputs``: placeholder name of each call argument, in order. ``output``: node of the first floating output.
    """

    module: fx.GraphModule
    parameters: dict[str, str]
    buffers: dict[str, str]
    inputs: tuple[str, ...]
    state: dict[str, Tensor]
    output: fx.Node
    specs: tuple[Any, ...]

    def lifted(self, leaves: Sequence[Any], over: Mapping[str, Tensor] | None = None) -> list[Any]:
        """Arguments of the graph module: call leaves and state, the latter replaced where ``over`` has the name."""
        over = over or {}
        given = iter(leaves)
        arguments: list[Any] = []
        for spec in self.specs:
            if spec.kind.name == "USER_INPUT":
                arguments.append(next(given))
            else:
                arguments.append(over.get(spec.target, self.state[spec.target]))
        return arguments


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Export prints partial graphs and warnings that are no use to a user of this package."""
    loggers = [logging.getLogger(n) for n in ("torch.fx.experimental.symbolic_shapes", "torch.export", "torch._export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return "the forward pass branches on the values of a tensor (data-dependent control flow)"
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return f"{type(error).__name__}: {first[:160]}"


def _replace_copy(node: fx.Node) -> None:
    """Put what is copied in the place of the copy, which has no derivative."""
    source: Any = node.args[1]
    value, wanted = source.meta["val"], node.meta["val"]
    with node.graph.inserting_before(node):
        if value.dtype != wanted.dtype:
            source = node.graph.call_function(torch.ops.aten._to_copy.default, (source,), {"dtype": wanted.dtype})
            source.meta = {**node.meta, "val": value.to(wanted.dtype)}
        if value.shape != wanted.shape:
            source = node.graph.call_function(torch.ops.aten.expand.default, (source, list(wanted.shape)))
            source.meta = dict(node.meta)
    node.replace_all_uses_with(source)
    node.graph.erase_node(node)


def _first_float(graph: fx.Graph, specs: Sequence[Any]) -> fx.Node:
    outputs = next(n for n in graph.nodes if n.op == "output").args[0]
    listed = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    for node, spec in zip(listed, specs, strict=True):
        if spec.kind.name != "USER_OUTPUT" or not isinstance(node, fx.Node):
            continue
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_floating_point():
            return node
    raise UserError("the model returns no floating-point tensor, so there is no output to predict: return one.")


def export(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exported:
    """Trace a module to a functional ATen graph without touching the module.

    Args:
        model: any module; its mode (train or eval) is the mode that is traced.
        args: positional call arguments.
        kwargs: keyword call arguments.

    Returns:
        The graph with the meaning of each placeholder.

    Raises:
        ExportFailure: the module cannot be exported; the message is the reason in one line.
        UserError: the module returns no floating-point tensor.
    """
    # Train-mode BatchNorm in the raw graph writes the buffers of whatever module was exported: export a copy.
    twin = copy.deepcopy(model)
    try:
        with _quiet():
            program = torch.export.export(twin, args, dict(kwargs), strict=False)
            program = program.run_decompositions(get_decompositions(_DECOMPOSED))
    except Exception as error:  # torch.export raises whatever the traced code raises
        raise ExportFailure(_one_line(error)) from error
    module = program.graph_module
    for node in list(module.graph.nodes):
        if node.target in _ERASED:
            module.graph.erase_node(node)
        elif node.target is torch.ops.aten.view.default:
            # view after attention is legal only for the memory layout of the kernel that was traced
            node.target = torch.ops.aten.reshape.default
        elif node.target is torch.ops.aten.copy.default:
            _replace_copy(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    signature = program.graph_signature
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    state = {**program.constants, **program.state_dict, **own}
    kinds: dict[str, dict[str, str]] = {"PARAMETER": {}, "BUFFER": {}}
    inputs = []
    for spec in signature.input_specs:
        if spec.kind.name == "USER_INPUT":
            inputs.append(spec.arg.name)
        else:
            kinds.setdefault(spec.kind.name, {})[spec.arg.name] = spec.target
    buffers = {k: v for kind, names in kinds.items() if kind != "PARAMETER" for k, v in names.items()}
    return Exported(
        module=module,
        parameters=kinds["PARAMETER"],
        buffers=buffers,
        inputs=tuple(inputs),
        state={k: v for k, v in state.items() if isinstance(v, Tensor)},
        output=_first_float(module.graph, signature.output_specs),
        specs=tuple(signature.input_specs),
    )
