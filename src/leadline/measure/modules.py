"""Where a module cannot be written as a graph: what its submodules give out, read by hooks on a copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from leadline.measure.measurement import Measurement, fill
from leadline.measure.points import Pairs, choose_pairs
from leadline.measure.redraw import Redrawer
from leadline.measure.reinitialize import isolated_randomness, private_copy
from leadline.theory.rows import Row

__all__ = ["measure_modules"]

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


def measure_modules(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    draws: int,
    seed: int,
    reason: str,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure kernel, correlation and peak of every leaf module's output.

    Axis 0 is taken as the sample, axis 1 as the channel after convolutions and in images, else the last axis.

    Args:
        model: any module; a private copy is run.
        args: positional call arguments.
        kwargs: keyword call arguments.
        draws: as for :func:`leadline.measure`.
        seed: of the draws.
        reason: why there is no graph.
        progress: called with (draws done, draws in all).

    Returns:
        A measurement without a Program.
    """
    found = Measurement([], draws, seed, None, reason=reason)
    twin = private_copy(model)
    redrawer = Redrawer(model) if draws else None
    found.routes = redrawer.report if redrawer else None
    own = {n: t.detach().clone() for n, t in (*twin.named_parameters(), *twin.named_buffers())}
    devices = {t.device for t in own.values()} or {torch.device("cpu")}
    reader = _Reader(twin)
    with isolated_randomness(seed, devices), torch.no_grad():
        for number in range(max(draws, 1)):
            reader.start()
            state = redrawer.draw(seed + number) if redrawer else own
            for name, tensor in (*twin.named_parameters(), *twin.named_buffers()):
                tensor.copy_(state[name])
            given, more = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (args, dict(kwargs)))
            twin(*given, **more)
            if progress is not None:
                progress(number + 1, max(draws, 1))
    stats, pairs = reader.finish(max(draws, 1))
    found.rows = [Row(name, name.partition("@")[0], reader.ops[name]) for name in stats]
    fill(found, stats, pairs)
    return found


class _Reader:
    """Collects second moments from forward hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.ops: dict[str, str] = {}
        self.stats: dict[str, list[dict[str, Tensor]]] = {}
        self.pairs: dict[str, Pairs] = {}
        self._calls: dict[str, int] = {}
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                module.register_forward_hook(self._hook(name))

    def start(self) -> None:
        self._calls = {}

    def finish(self, draws: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Pairs]]:
        """Statistics of the calls that every draw made with one shape."""
        out = {}
        for name, listed in self.stats.items():
            shapes = {tuple(s["diagonal"].shape) for s in listed}
            if len(listed) == draws and len(shapes) == 1:
                out[name] = {k: torch.stack([s[k] for s in listed]) for k in listed[0]}
        return out, self.pairs

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def read(module: nn.Module, _: Any, output: Any) -> None:
            call = self._calls[name] = self._calls.get(name, 0) + 1
            key = name if call == 1 else f"{name}@{call - 1}"
            leaves = pytree.tree_leaves(output)
            value = next((v for v in leaves if isinstance(v, Tensor) and v.is_floating_point()), None)
            if value is None or value.dim() == 0 or value.numel() == 0:
                return
            h, axes = _channels(module, value)
            pairs = choose_pairs(axes).to(h.device)
            self.ops[key], self.pairs[key] = type(module).__name__.lower(), pairs
            diagonal = h.square().mean(0)
            second = (h[:, pairs.first] * h[:, pairs.second]).mean(0)
            self.stats.setdefault(key, []).append({"diagonal": diagonal.cpu(), "pairs": second.cpu()})

        return read


def _channels(module: nn.Module, value: Tensor) -> tuple[Tensor, list[tuple[str, int]]]:
    """A module's output as (channels, points), and the axes of the points."""
    axis = 1 if value.dim() > 1 and (isinstance(module, _CHANNELS_FIRST) or value.dim() >= 4) else value.dim() - 1
    wide = value.to(torch.float32 if value.device.type == "mps" else torch.float64).movedim(axis, 0)
    rest = wide.shape[1:]
    axes = [("sample" if i == 0 else "site", size) for i, size in enumerate(rest)]
    return wide.reshape(wide.shape[0], math.prod(rest)), axes
