"""``leadline flow``: every tensor of a perceptron, layer by layer, with networks of the same law beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from leadline.activations import Activation
from leadline.cli.activations import named_activation, refusing
from leadline.cli.app import app, ending
from leadline.cli.errors import UserError
from leadline.cli.figures import check_figure, write_figure
from leadline.cli.options import Debug, Json
from leadline.cli.progress import working
from leadline.flow import flow as run_flow
from leadline.program.errors import plain
from leadline.theory.criticality import critical_point

__all__ = ["flow"]

_SCHEMA = 1


@app.command()
def flow(
    activation: Annotated[
        str, typer.Option(help="A name, a class of torch.nn, or FILE.py:NAME, which RUNS that file.")
    ] = "tanh",
    depth: Annotated[int, typer.Option(min=1, help="Dense layers.")] = 20,
    width: Annotated[int, typer.Option(min=1, help="Neurons a layer.")] = 256,
    C_W: Annotated[
        float | None, typer.Option("--C_W", help="Fan-in times the weight variance; default: critical.")
    ] = None,
    C_b: Annotated[float | None, typer.Option("--C_b", help="Bias variance; default: critical.")] = None,
    lambda_W: Annotated[float, typer.Option("--lambda_W", help="Fan-in times the weight learning rate.")] = 1.0,
    lambda_b: Annotated[float, typer.Option("--lambda_b", help="Bias learning rate.")] = 1.0,
    size: Annotated[
        float | None, typer.Option("--input", help="|x|^2/n_0 of the input; default: what puts K^(1) on K*, or 1.")
    ] = None,
    networks: Annotated[
        int | None, typer.Option(min=0, help="Networks to draw; 0: none; default: what takes some seconds.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a figure: .png, .svg or .pdf.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Follow the kernel, the tangent kernel and their fluctuations from layer to layer of a perceptron."""
    with ending(debug):
        if output is not None:
            check_figure(output)
        act = named_activation(activation)
        with working(not as_json) as progress, refusing():
            if C_W is None:
                C_W, offset, K = _critical(act)
                C_b = offset if C_b is None else C_b
                if size is None and offset < K:
                    size = max(K - C_b, 0.0) / C_W
            found = run_flow(
                act, depth=depth, width=width, C_W=C_W, C_b=C_b or 0.0, lambda_W=lambda_W, lambda_b=lambda_b,
                inputs=1.0 if size is None else size, networks=networks, seed=seed, progress=progress,
            )  # fmt: skip
        if output is not None:
            write_figure(found.plot, output)
        if as_json:
            sys.stdout.write(json.dumps({"schema": _SCHEMA, **found.to_dict()}, indent=1, allow_nan=False) + "\n")
        else:
            Console().print(found)


def _critical(act: Activation) -> tuple[float, float, float]:
    """C_W, C_b and K* of the critical point of an activation, or of the nearest useful one where there is none."""
    point = critical_point(act)
    if point.C_W is not None:
        return point.C_W, point.C_b or 0.0, point.K or 0.0
    if point.nearest is None:
        raise UserError(f"'{plain(act.name)}' has no critical point and none that is near: give --C_W and --C_b.")
    return point.nearest.C_W, point.nearest.C_b, point.nearest.K
