"""Networks of any form drawn exactly in law: a module runs on many networks at once, its layers drawn, not multiplied."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leadline.measure.ensemble import factor
from leadline.theory import Estimate


class Sum(nn.Module):
    """A sum, as a module, so that its value can be read."""

    def forward(self, x, y):
        return x + y


class Product(nn.Module):
    """A product, as a module, so that its value can be read."""

    def forward(self, x, y):
        return x * y


class Scale(nn.Module):
    """A multiple, as a module, so that its value can be read."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Pointwise(nn.Module):
    """A nonlinearity, as a module, so that its value can be read."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, z):
        return self.fn(z)


@dataclass
class Law:
    """Stated law of all layers; the first has no bias and C_W 1."""

    C_W: float
    C_b: float = 0.0
    first: float = 1.0

    def stated(self, model: nn.Module) -> dict[str, dict[str, float]]:
        names = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        rest = {n: {"C_W": self.C_W, "C_b": self.C_b} for n in names[1:]}
        return {names[0]: {"C_W": self.first, "C_b": 0.0}} | rest


def linear(n_in: int, n: int) -> nn.Linear:
    """A dense layer in double precision, whose kind of law is read as Gaussian."""
    return _gaussian(nn.Linear(n_in, n, dtype=torch.float64))


def convolution(n_in: int, n: int, **more) -> nn.Conv2d:
    """A 3 x 3 convolution in double precision, whose kind of law is read as Gaussian."""
    return _gaussian(nn.Conv2d(n_in, n, 3, dtype=torch.float64, **more))


def _gaussian(layer):
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


class _Drawn(nn.Module):
    """A layer whose units are drawn from their law given the input, which it remembers."""

    def __init__(self, layer: nn.Module, law: dict[str, float], generator: torch.Generator) -> None:
        super().__init__()
        self.layer, self.law, self.generator = layer, law, generator
        self.scale: Tensor | None = None

    def _draw(self, G: Tensor, count: int) -> Tensor:
        self.scale = G.diagonal(dim1=-2, dim2=-1)
        noise = torch.randn(G.shape[0], count, G.shape[-1], generator=self.generator, dtype=G.dtype)
        return noise @ factor(G).mT


class DrawnLinear(_Drawn):
    def forward(self, h):
        flat = h if h.dim() == 3 else h[:, None]
        G = self.law["C_W"] * flat @ flat.mT / flat.shape[-1] + self.law["C_b"]
        z = self._draw(G, self.layer.out_features).mT
        return z if h.dim() == 3 else z[:, 0]


class DrawnConv(_Drawn):
    def forward(self, h):
        size, c = self.layer, self.layer
        taps = nn.functional.unfold(h, size.kernel_size, padding=c.padding, stride=c.stride)
        G = self.law["C_W"] * taps.mT @ taps / taps.shape[1] + self.law["C_b"]
        side = math.isqrt(G.shape[-1])
        return self._draw(G, self.layer.out_channels).unflatten(2, (side, side))


@dataclass
class Drawn:
    """One row over the ensemble: its second moment and its spread, averaged over points."""

    op: str
    kernel: Estimate
    spread: Estimate


def draw(model: nn.Module, x: Tensor, law: Law, networks: int, seed: int = 0) -> list[Drawn]:
    """Rows of every module of a network in the order in which they run, over exactly drawn networks.

    ``x``: (points, features) for a network of dense layers, (1, channels, height, width) for one of convolutions.
    """
    generator = torch.Generator().manual_seed(seed)
    net = copy.deepcopy(model)
    stated = law.stated(net)
    for name, layer in list(net.named_modules()):
        if name in stated:
            parent, _, child = name.rpartition(".")
            drawn = DrawnLinear if isinstance(layer, nn.Linear) else DrawnConv
            setattr(net.get_submodule(parent), child, drawn(layer, stated[name], generator))
    rows: list[Drawn] = []

    def read(module, given, value):
        if isinstance(module, nn.Flatten):
            return
        if isinstance(module, _Drawn):
            scale = module.scale
        else:
            scale = value.square().mean(1 if value.dim() == 4 else -1).reshape(networks, -1)
        rows.append(Drawn(type(module).__name__, *_moments(scale)))

    for module in net.modules():
        if not list(module.children()) or isinstance(module, _Drawn):
            module.register_forward_hook(read)
    with torch.no_grad():
        net(x.expand(networks, *x.shape) if x.dim() == 2 else x.expand(networks, *x.shape[1:]))
    return rows


def _moments(scale: Tensor) -> tuple[Estimate, Estimate]:
    K, count = scale.mean(0), scale.shape[0]
    d = scale - K
    v = d.square().mean(0)
    influence = ((d.square() - v) / K**2 - 2 * v * d / K**3).mean(1)
    spread = float((v / K**2).mean()) * count / (count - 1)
    return (
        Estimate(float(K.mean()), float(scale.mean(1).std()) / count**0.5),
        Estimate(spread, float(influence.std()) / count**0.5),
    )
