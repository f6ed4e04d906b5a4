"""The hard cases as data: networks that torch's own weights do not train, and controls that must not be harmed.

Width, batch, depth and steps are fixed here, before anything is measured. Networks have torch's own initial weights;
:mod:`_hardcases_init` draws the contenders' on top of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from leadline.testing.networks import PreNormMLP, Sin, SwiGLU
from leadline.testing.networks_attention import Transformer

__all__ = ["CASES", "CLASSES", "HELD_OUT", "STEPS", "HardCase", "batches", "digits"]

CLASSES, PIXELS, STEPS, HELD_OUT = 10, 8, 200, 597


@dataclass(frozen=True)
class HardCase:
    """A network with its batch; ``rectifies``: its nonlinearities pass about half of the signal, as ReLU does.

    ``samples``: of the batch that the recipe is made on; fewer where the kernels of all pairs of pixels fill the memory.
    ``control``: trains as it is, and must not be harmed. ``quick``: belongs to the everyday subset.
    """

    id: str
    build: Callable[[], nn.Module]
    rectifies: bool
    batch: int = 64
    shape: tuple[int, ...] = (PIXELS * PIXELS,)
    samples: int = 64
    control: bool = False
    quick: bool = False


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every entry."""
        return x * torch.sigmoid(1.702 * x)


class _Mean(nn.Module):
    """Mean over the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class _ConvBlock(nn.Module):
    """x + conv(relu(conv(x))), with batch norm after each convolution or without."""

    def __init__(self, channels: int, norm: bool) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = (nn.BatchNorm2d(channels) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.two(self.norm1(self.one(x)).relu()))


class SkipSwiGLU(SwiGLU):
    """Blocks x + W (silu(V x) * U x) without a norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Enter, add the branches, read out."""
        h = self.enter(x)
        for gate, up, down in zip(self.gates, self.ups, self.downs, strict=True):
            h = h + down(nn.functional.silu(gate(h)) * up(h))
        return self.head(h)


def _identity(width: int) -> nn.Module:
    return nn.Identity()


def _mlp(act: Callable[[], nn.Module], width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else PIXELS**2, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def _cnn(act: Callable[[], nn.Module], channels: int, depth: int) -> nn.Module:
    """Two convolutions on 8 x 8 pixels, one with stride 2, the rest on 4 x 4."""
    layers: list[nn.Module] = []
    for i in range(depth):
        stride = 2 if i == 2 else 1
        layers += [nn.Conv2d(channels if i else 1, channels, 3, padding=1, stride=stride), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def _residual_cnn(channels: int, blocks: int, norm: bool) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1, stride=2)]
    layers += [nn.BatchNorm2d(channels)] if norm else []
    layers += [_ConvBlock(channels, norm) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def _transformer(width: int, blocks: int, place: str) -> nn.Module:
    """Rows of the image are the tokens."""
    inner = Transformer(1, width, blocks, 4, PIXELS, place=place, causal=False, n_out=CLASSES)
    inner.embed = nn.Linear(PIXELS, width)  # type: ignore[assignment]
    return nn.Sequential(inner, _Mean())


_IMAGE = (1, PIXELS, PIXELS)
CASES: tuple[HardCase, ...] = (
    HardCase("mlp-tanh", partial(_mlp, nn.Tanh, 64, 100), False, quick=True),
    HardCase("mlp-gelu", partial(_mlp, nn.GELU, 64, 100), True),
    HardCase("mlp-silu", partial(_mlp, nn.SiLU, 64, 100), True),
    HardCase("mlp-sin", partial(_mlp, Sin, 64, 100), False),
    HardCase("mlp-quick-gelu", partial(_mlp, QuickGELU, 64, 100), True),
    HardCase("mlp-relu-narrow", partial(_mlp, nn.ReLU, 16, 60), True, quick=True),
    HardCase("cnn-tanh", partial(_cnn, nn.Tanh, 16, 50), False, 32, _IMAGE),
    HardCase("cnn-relu", partial(_cnn, nn.ReLU, 16, 50), True, 32, _IMAGE),
    HardCase("residual-mlp", partial(PreNormMLP, 64, 64, 48, CLASSES, norm=_identity), True, quick=True),
    HardCase("residual-cnn", partial(_residual_cnn, 16, 48, False), True, 32, _IMAGE, samples=4),
    HardCase("post-ln", partial(_transformer, 32, 24, "post"), True, 32, (PIXELS, PIXELS)),
    HardCase("swiglu-skip", partial(SkipSwiGLU, 64, 64, 24, CLASSES), True, quick=True),
    HardCase("swiglu-chain", partial(SwiGLU, 64, 64, 8, CLASSES), True),
    HardCase("pre-ln", partial(_transformer, 32, 24, "pre"), True, 32, (PIXELS, PIXELS), control=True),
    HardCase("resnet-bn", partial(_residual_cnn, 16, 8, True), True, 32, _IMAGE, control=True),
)


def digits(case: HardCase) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The images in the shape of a case, centred, at variance one: training x and y, held-out x and y."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(data.data, dtype=torch.float32)[order], torch.tensor(data.target)[order]
    train = len(y) - HELD_OUT
    x = (x - x[:train].mean(0)) / x[:train].std()
    x = x.reshape(-1, *case.shape)
    return x[:train], y[:train], x[train:], y[train:]


def batches(case: HardCase, seed: int, samples: int) -> Tensor:
    """Indices of each step's batch, shape (steps, batch), the same for every contender; epochs without repetition."""
    generator = torch.Generator().manual_seed(1000 + seed)
    needed = STEPS * case.batch
    epochs = [torch.randperm(samples, generator=generator) for _ in range(-(-needed // samples))]
    return torch.cat(epochs)[:needed].reshape(STEPS, case.batch)
