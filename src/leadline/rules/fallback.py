"""A step without a rule: draw its input channels, run the operator itself, take moments of what comes out."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from leadline.program import Layout, Ref, Step
from leadline.program.law_draw import draw_law
from leadline.rules.banded import dense
from leadline.rules.base import Value
from leadline.rules.context import Context
from leadline.rules.expr import source
from leadline.rules.sampling import square_root
from leadline.rules.state import Cotangent, Fixed, State, Weight, fresh

__all__ = ["Drawn"]

_REPLICATES = 8
_POINTS = 8192  # points whose full second moment still fits


class Drawn:
    """Monte Carlo through one operator at the network's own width, forward and (by reverse mode) backward."""

    def forward(self, step: Step, ctx: Context) -> list[Value]:
        """Moments of the operator's outputs over replicates of its drawn inputs and weights."""
        size = max(math.prod(a.size for dim in layout for a in dim if a.kind != "channel") for layout in step.layouts)
        if size > _POINTS:
            where = f"{step.op} ({step.layer or 'no layer'})"
            raise ValueError(
                f"{where} has no rule for {size} points and they are too many to draw; pass smaller inputs."
            )
        samples: list[list[Tensor]] = [[] for _ in step.layouts]
        discrete: dict[int, Tensor] = {}
        for replicate in range(_REPLICATES):
            with torch.no_grad():
                outs = _listed(self.run(step, ctx, replicate)[0])
            for number, out in enumerate(outs[: len(samples)]):
                if isinstance(out, Tensor) and out.is_floating_point():
                    samples[number].append(ctx.channels(out, step.layouts[number]))
                elif isinstance(out, Tensor):
                    discrete.setdefault(number, out)  # a choice (of experts, of entries) is taken as it fell once
        values: list[Value] = []
        for number, drawn in enumerate(samples):
            if not drawn:
                values.append(Fixed(discrete.get(number, torch.zeros(step.shapes[number])), step.layouts[number]))
                continue
            blocks = torch.stack([h.T @ h / h.shape[0] for h in drawn])
            mean = torch.stack([h.mean(0) for h in drawn]).mean(0)
            second = blocks.mean(0)
            noise = math.sqrt(second.diagonal().max().clamp_min(0) / (drawn[0].shape[0] * len(drawn)))
            expr = source(second, mean=mean if float(mean.abs().max()) > 4 * noise else None, gaussian=False)
            spread = blocks.diagonal(dim1=1, dim2=2).std(0) / math.sqrt(len(drawn))
            expr.memo["error"] = float((spread / second.diagonal().clamp_min(1e-300)).max())
            points = tuple(a for dim in step.layouts[number] for a in dim if a.kind != "channel")
            values.append(State(expr, points, drawn[0].shape[0], None, False))
        return values

    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context, *, first: int = 0) -> dict[str, Cotangent]:
        """Reverse mode on the drawn inputs, with cotangents drawn from their covariance; ``first`` numbers the draws."""
        total = dense(cotangent.total(ctx.moments))
        root = square_root(total)
        sums: dict[str, Tensor] = {}
        for replicate in range(first, first + _REPLICATES):
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                outs, inputs = self.run(step, ctx, replicate, grad=True)
                out = _listed(outs)[ctx.part]
            if not inputs:
                return {}
            width = out.numel() // total.shape[0]
            z = torch.randn(
                width,
                total.shape[0],
                generator=torch.Generator().manual_seed(zlib.crc32(step.name.encode()) + replicate),
                dtype=torch.float64,
            )
            beta = ctx.arrange((z.to(total) @ root.T) / math.sqrt(width), step.layouts[ctx.part]).to(out)
            grads = torch.autograd.grad(out, list(inputs.values()), beta, allow_unused=True)
            listed: list[Tensor | None] = list(grads)
            for name, g in zip(inputs, listed, strict=True):
                if g is None:
                    continue
                h = ctx.channels(g, ctx.program.layouts[name][0])
                part = h.T @ h / _REPLICATES
                sums[name] = sums[name] + part if name in sums else part
        return {name: fresh(value) for name, value in sums.items()}

    def run(self, step: Step, ctx: Context, replicate: int, *, grad: bool = False) -> tuple[Any, dict[str, Tensor]]:
        """The operator on one set of drawn inputs; the random inputs come back by name."""
        inputs: dict[str, Tensor] = {}

        def supply(a: Ref) -> Any:
            if a.name in inputs:
                return inputs[a.name]
            if a.name in ctx.program.constants:
                return ctx.program.constants[a.name]
            value = ctx.value(a)
            if isinstance(value, Weight):
                generator = torch.Generator(value.value.device).manual_seed(
                    97 * replicate + zlib.crc32(a.name.encode())
                )
                return draw_law(value.law, value.value, generator=generator) if value.law.random else value.value
            if isinstance(value, Fixed):
                return value.value
            layout: Layout = ctx.program.layouts[a.name][0]
            count = math.prod(x.size for dim in layout for x in dim if x.kind == "channel")
            own = zlib.crc32(step.name.encode())  # the same draws in every step would add their errors up
            h = ctx.drawn_channels(value.expr, count, seed=own + 1_009 * (replicate + 1) + len(inputs))
            tensor = ctx.arrange(h, layout).to(torch.float32)
            inputs[a.name] = tensor.requires_grad_() if grad else tensor
            return inputs[a.name]

        values: dict[str, Any] = {}
        nodes = [ctx.program.nodes[name] for name in step.members]
        place = {name: i for i, name in enumerate(ctx.program.nodes)}
        for node in sorted(nodes, key=lambda n: place[n.name]):
            args, kwargs = fx.map_arg(
                (node.args, node.kwargs), lambda n: values[n.name] if n.name in values else supply(Ref(n.name))
            )
            values[node.name] = node.target(*args, **kwargs)  # type: ignore[operator]
        return values[step.name], inputs


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]
