"""What the theory costs, in calls of the activation on the nodes that one expectation takes.

python benchmarks/theory.py                        every activation, and a callable of one's own
python benchmarks/theory.py --activation gelu      those whose name contains this
python benchmarks/theory.py --profile tanh         where the time of 10,000 layers goes

The unit is one call on the nodes at which the kernel flow evaluates the activation, as a bare torch function. Columns,
each per result: a layer of a kernel flow of 10,000 layers (limit 3), the same for 32 inputs at once per layer and input;
a layer of the correlation flow of two inputs, 300 layers (limit 60; those that exceed it are named: knots away from 0,
where the pair comes so close that it takes quadrature); a second moment and its slope, of 4096 variances at once; a mean
product of 300 x 300 pairs; <s_a s_b s_c s_d> of 16 quadruples of different inputs. Numerator and denominator are
processor seconds of one thread in one process, taken in turn, the median of three: ratios hold beside other work and on
other machines.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from leadline.activations import REGISTRY, Activation, activation, joint_moment
from leadline.theory.flow import Layers, correlation_flow, kernel_flow

LIMIT, PAIR_LIMIT, LAYERS, PAIR_LAYERS, INPUTS, VARIANCES, GRAM, QUADRUPLES, REPEATS = (
    3.0,
    60.0,
    10_000,
    300,
    32,
    4096,
    300,
    16,
    3,
)


def own(z: Tensor) -> Tensor:
    """A function that no table knows."""
    return torch.tanh(z) + 0.1 * torch.sin(3 * z) * torch.exp(-z * z)


class Recorder(Activation):
    """The same activation, keeping the largest tensor that it was called with."""

    def __init__(self, act: Activation) -> None:
        super().__init__(self._record, name=act.name, kinks=act.kinks, jumps=act.jumps, derivative=act.derivative)
        self.act, self.largest = act, torch.zeros(0, dtype=torch.float64)

    def _record(self, z: Tensor) -> Tensor:
        if z.numel() > self.largest.numel():
            self.largest = z.detach().clone()
        return self.act.fn(z)


def critical(act: Activation) -> tuple[float, float]:
    """(C_W, K) that keep a kernel of order 1 for thousands of layers: C_W = K/g(K), capped for explosive growth."""
    return 1.0 / float(act.second_moment(1.0)), 1.0


def flow_nodes(act: Activation) -> Tensor:
    """The nodes at which a kernel flow evaluates the activation; for two slopes, which need none, tanh's."""
    plain = act if act.slopes is None else activation("tanh")
    recorder = Recorder(plain)
    C_W, K = critical(plain)
    kernel_flow(recorder, [0.0] * 9, [C_W] * 9, torch.tensor([K]))
    return recorder.largest


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def covariances(count: int) -> Tensor:
    """Covariances of four different inputs, about unit variance."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, 8, generator=g, dtype=torch.float64)
    return x @ x.mT / 8


def costs(act: Activation) -> dict[str, float]:
    """Calls of the activation that each result costs."""
    nodes = flow_nodes(act)
    C_W, K = critical(act)
    biases, weights = [0.0] * (LAYERS - 1), [C_W] * (LAYERS - 1)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(GRAM, 60, generator=g, dtype=torch.float64)
    gram = x @ x.T / 60
    variances = torch.linspace(0.3, 3.0, VARIANCES, dtype=torch.float64)
    inputs = torch.linspace(0.5, 1.5, INPUTS, dtype=torch.float64)
    quadruples = covariances(QUADRUPLES)
    pair = Layers.of(act, depth=PAIR_LAYERS, C_W=C_W)
    two = torch.tensor([[1.0, 0.3], [0.3, 1.0]], dtype=torch.float64) * (K / C_W)
    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "layer": (lambda: kernel_flow(act, biases, weights, torch.tensor([K])), LAYERS),
        "layer and input": (lambda: kernel_flow(act, biases[:999], weights[:999], inputs), 999 * INPUTS),
        "layer of a pair": (lambda: correlation_flow(pair, two), PAIR_LAYERS - 1),
        "moment": (lambda: act.second_moment(variances), VARIANCES),
        "slope": (lambda: act.second_moment_slope(variances), VARIANCES),
        "pair": (lambda: act.gram(gram), GRAM * GRAM),
        "quadruple": (lambda: joint_moment([act] * 4, quadruples), QUADRUPLES),
    }

    def bare() -> None:
        for _ in range(2000):
            act.fn(nodes)

    bare()
    out: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(REPEATS):
        for name, (job, results) in jobs.items():
            before, spent, after = seconds(bare), seconds(job), seconds(bare)
            out[name].append(spent / results / ((before + after) / 4000))
    return {name: statistics.median(values) for name, values in out.items()}


def table(acts: list[Activation]) -> int:
    """Print the table; 1 where a flow exceeds the limit."""
    shown = Table(title=f"calls of the activation per result (limit of a layer: {LIMIT:g})")
    shown.add_column("activation")
    worst, dear = 0.0, []
    for act in acts:
        found = costs(act)
        if not shown.columns[1:]:
            for name in found:
                shown.add_column(name, justify="right")
        worst = max(worst, found["layer"])
        if found["layer of a pair"] > PAIR_LIMIT:
            dear.append(f"{act.name} {found['layer of a pair']:.0f}")
        sys.stderr.write(f"{act.name}: {found['layer']:.2f}\n")
        shown.add_row(act.name, *(f"{v:.3g}" for v in found.values()))
    Console(width=110).print(shown)
    print(f"The dearest layer of a flow takes {worst:.2f} calls (limit {LIMIT:g}).")
    print(f"Layers of a pair beyond {PAIR_LIMIT:g} calls: {', '.join(dear) or 'none'}.")
    return int(worst > LIMIT)


def profile(act: Activation) -> None:
    """Print where 10,000 layers spend their time."""
    C_W, K = critical(act)
    profiler = cProfile.Profile()
    profiler.runcall(kernel_flow, act, [0.0] * (LAYERS - 1), [C_W] * (LAYERS - 1), torch.tensor([K]))
    pstats.Stats(profiler).sort_stats("cumtime").print_stats(12)


def main() -> int:
    """Print what was asked for; exit code 1 where the limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activation", default="", help="only activations whose name contains this")
    parser.add_argument("--profile", metavar="NAME", help="profile one activation's flow instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.profile:
        profile(activation(options.profile))
        return 0
    # exp grows beyond any kernel within a few layers.
    named = sorted({build().name: build() for name, build in REGISTRY.names.items() if name != "exp"}.items())
    acts = [act for _, act in named] + [activation(own)]
    return table([act for act in acts if options.activation in act.name])


if __name__ == "__main__":
    sys.exit(main())
