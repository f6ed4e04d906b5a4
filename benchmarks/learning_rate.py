"""How well the edge of training is predicted, on twelve networks, and the power law of the maximal initial rate.

python benchmarks/learning_rate.py --optimizer sgd --loss cross_entropy          one table
python benchmarks/learning_rate.py --optimizer adam --networks tanh-3 residual-4 some networks
python benchmarks/learning_rate.py --law                                         the power law

The edge is the largest rate whose loss is finite and below its start after 100 full-batch steps; the smooth edge the
largest whose loss never rises above its start on the way. Each is measured by training and predicted in two ways: in
closed form from curvature, and from short runs (20 steps; 40 with momentum). Data: 128 of scikit-learn's digits.
A prediction is right within a factor of 1.5, for Adam of 2. Nothing here is tuned to the table.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from leadline.measure.curvature import Objective, top_curvature
from leadline.tune import UpdateRule, fit_power_law, maximal_initial_rate, measure_edge, predict_edge, stability
from leadline.tune.rate_choose import choose_rate
from leadline.tune.rate_edge import rate_curve

SAMPLES, STEPS = 128, 100


def digits(samples: int) -> tuple[Tensor, Tensor]:
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)
    return ((x - x.mean(0)) / x.std())[:samples], torch.tensor(data.target)[:samples]


def drawn(model: nn.Module, C_W: float) -> nn.Module:
    """Weights of variance C_W over the fan-in, biases 0."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=math.sqrt(C_W / module.weight[0].numel()))
            nn.init.zeros_(module.bias)
    return model


def mlp(act: type[nn.Module], width: int, depth: int, C_W: float | None) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else 64, width), act()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    return model if C_W is None else drawn(model, C_W)


def cnn(act: type[nn.Module], C_W: float) -> nn.Module:
    return drawn(
        nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3, padding=1), act(), nn.Conv2d(4, 4, 3, padding=1), act(),
            nn.Flatten(), nn.Linear(256, 10),
        ), C_W,
    )  # fmt: skip


class Residual(nn.Module):
    """Pre-norm residual blocks scaled by the root of their number."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h) / len(self.blocks) ** 0.5
        return self.last(h)


class Transformer(nn.Module):
    """Rows of a digit as tokens, two pre-norm layers, the mean of the tokens."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(8, width), nn.Linear(width, 10)
        self.place = nn.Parameter(0.02 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.layers, self.norm = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(self.embed(x.reshape(-1, 8, 8)) + self.place)
        return self.last(self.norm(h).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "relu-2": lambda: mlp(nn.ReLU, 128, 2, 2.0),
    "relu-4": lambda: mlp(nn.ReLU, 64, 4, 2.0),
    "relu-8": lambda: mlp(nn.ReLU, 64, 8, 2.0),
    "relu-3 default": lambda: mlp(nn.ReLU, 64, 3, None),
    "tanh-3": lambda: mlp(nn.Tanh, 64, 3, 1.0),
    "tanh-8": lambda: mlp(nn.Tanh, 64, 8, 1.0),
    "gelu-4": lambda: mlp(nn.GELU, 64, 4, 2.0),
    "silu-3": lambda: mlp(nn.SiLU, 64, 3, 2.0),
    "cnn relu": lambda: cnn(nn.ReLU, 2.0),
    "cnn tanh": lambda: cnn(nn.Tanh, 1.0),
    "residual-4": lambda: Residual(32, 4),
    "transformer-2": Transformer,
}


def table(names: list[str], optimizer: str, loss: str, seed: int) -> None:
    """One line a network: measured edges, and each prediction over the measured one."""
    rule, within = UpdateRule(optimizer), 2.0 if optimizer.startswith("adam") else 1.5
    x, y = digits(SAMPLES)
    targets = nn.functional.one_hot(y, 10).float() if loss == "mse" else y
    print(f"\n{optimizer}, {loss}, seed {seed}. Predictions over what was measured; right within a factor of {within}.")
    print(
        f"{'':16}{'edge':>9}{'closed':>8}{'short':>7}   {'smooth':>9}{'closed':>8}{'short':>7}   {'loss at the advised rate / at the best of 12':>}"
    )
    right = dict.fromkeys(("edge closed", "edge short", "smooth closed", "smooth short"), 0)
    counted = dict(right)
    for name in names:
        torch.manual_seed(seed)
        objective = Objective(NETWORKS[name](), x, loss, targets)
        closed = stability(objective, rule).rate
        line, factors = f"{name:16}", {}
        short = closed
        for hold in ("survive", "smooth"):
            short_edge = predict_edge(objective, rule, closed, hold=hold)
            edge = measure_edge(objective, rule, closed, hold=hold, steps=STEPS)
            short = short_edge.value
            what = "edge" if hold == "survive" else "smooth"
            factors[f"{what} closed"], factors[f"{what} short"] = closed / edge.value, short / edge.value
            shown = ("≥" if edge.open else "") + f"{edge.value:.3g}"
            line += f"{shown:>9}{closed / edge.value:8.2f}{short / edge.value:7.2f}   "
            if edge.open:  # nothing to predict within the range of the search
                factors.pop(f"{what} closed"), factors.pop(f"{what} short")
        advised = choose_rate(objective, rule, short_edge, steps=STEPS).confirmed
        others = rate_curve(objective, rule, short / 60, 4 * short, points=12, steps=STEPS)
        best = min((r for r in others if r.held), key=lambda r: r.loss)
        rates = f"(rates {advised.rate:.2g}, {best.rate:.2g})"
        print(f"{line}{advised.loss:10.2g} / {best.loss:.2g} {rates}", flush=True)
        for key, factor in factors.items():
            counted[key] += 1
            right[key] += 1 / within <= factor <= within
    print("right: " + ", ".join(f"{key} {right[key]} of {counted[key]}" for key in right) + " that have an edge")


def law(seeds: int) -> None:
    """Maximal initial rate of ReLU networks against depth times width, and against curvature."""
    x, y = digits(1024)
    for slow in (True, False):
        depths, widths, rates, tops = [], [], [], []
        for depth in (3, 4, 6):
            for width in (96, 192, 384):
                logs, curvatures = [], []
                for seed in range(seeds):
                    torch.manual_seed(seed)
                    objective = Objective(mlp(nn.ReLU, width, depth, 2.0), x, "cross_entropy", y)
                    first = objective.names[:2] if slow else ()
                    logs.append(math.log(maximal_initial_rate(objective, high=8.0, first_layer=first, seed=seed)))
                    curvatures.append(
                        math.log(
                            top_curvature(objective.model, x[:256], "cross_entropy", y[:256], tolerance=0.03).value
                        )
                    )
                depths.append(depth), widths.append(width)
                rates.append(math.exp(sum(logs) / seeds)), tops.append(math.exp(sum(curvatures) / seeds))
                spread = torch.tensor(logs).std().item() if seeds > 1 else math.nan
                print(
                    f"  {depth} x {width}: {rates[-1]:.3f} (log s.d. {spread:.2f}), curvature {tops[-1]:.1f}",
                    flush=True,
                )
        found, sharp = fit_power_law(depths, widths, rates), fit_power_law(depths, widths, tops)
        a, b = torch.tensor(tops).log(), torch.tensor(rates).log()
        slope = float(((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum())
        print(
            f"first layer {'slow' if slow else 'as the others'}: rate ~ (depth width)^-{found.power:.2f}, R² {found.r_squared:.3f}; "
            f"apart: depth {found.depth_power:.2f}, width {found.width_power:.2f}; curvature ~ (depth width)^{-sharp.power:.2f}; "
            f"rate ~ curvature^{slope:.2f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", default="sgd", choices=["sgd", "momentum", "adam"])
    parser.add_argument("--loss", default="cross_entropy", choices=["cross_entropy", "mse"])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--law", action="store_true", help="the maximal initial rate instead")
    parser.add_argument("--seeds", type=int, default=3, help="initializations of the law")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.law:
        law(options.seeds)
    else:
        table(options.networks, options.optimizer, options.loss, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
