"""The contract of a case: a network as data, with the changed networks that an agreement test must reject."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Case", "Control", "Laws", "images", "two_inputs"]

Laws = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Control:
    """A wrong account of a case's network: the prediction made of it must disagree with the true network's measurement.

    ``what``: in words. ``build``: a network that differs in one thing; or ``C_W``: a factor on every stated C_W.
    """

    what: str
    build: Callable[[], nn.Module] | None = None
    C_W: float = 1.0


@dataclass(frozen=True)
class Case:
    """A network and a batch.

    ``id``: its name. ``build``: makes the network (the same one every time). ``batch``: makes what it is called with.
    ``seed``: of the measurement. ``law``: the law to state for the network, with a factor on every C_W; None: it is
    read from the weights.
    ``controls``: what the agreement test must reject. ``quick``: whether the quick tests take it.
    """

    id: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Any]
    seed: int
    law: Callable[[nn.Module, float], Laws] | None = None
    controls: tuple[Control, ...] = ()
    quick: bool = True


def two_inputs(
    features: int, *, correlation: float = 0.4, scale: float = 1.0, ratio: float = 1.3, copies: int = 2, seed: int = 5
) -> Tensor:
    """Different inputs of known geometry.

    Args:
        features: entries of each.
        correlation: cosine between any two.
        scale: mean square of an entry of the first.
        ratio: factor on the norm of every second input.
        copies: number of inputs.
        seed: of the direction.

    Returns:
        Shape (copies, features).
    """
    generator = torch.Generator().manual_seed(seed)
    frame, _ = torch.linalg.qr(torch.randn(features, copies + 1, generator=generator, dtype=torch.float64))
    x = correlation**0.5 * frame[:, :1] + (1 - correlation) ** 0.5 * frame[:, 1:]
    x = x.T * (scale * features) ** 0.5
    x[1::2] *= ratio
    return x.to(torch.get_default_dtype())


def images(pixels: int, *, channels: int = 3, samples: int = 2, seed: int = 5) -> Tensor:
    """Images with a gradient over noise, so that neither sites nor samples are alike; NCHW."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(samples, channels, pixels, pixels, generator=generator)
    ramp = torch.linspace(-1, 1, pixels)
    return 0.7 * noise + ramp[:, None] * torch.linspace(1, 0.5, samples)[:, None, None, None]
