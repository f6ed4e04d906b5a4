"""What the networks of the verdict cases are trained on: small tasks, fresh batches, a blind guess's loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Task", "digits", "own_token", "radius", "topic"]

Batch = tuple[Any, Tensor]


@dataclass(frozen=True)
class Task:
    """A stream of batches.

    ``draw``: from a generator to (what the model is called with, targets). ``blind``: loss of a guess that knows only
    how often each class comes. ``name``: in words.
    """

    name: str
    draw: Callable[[torch.Generator], Batch]
    blind: float

    def loss(self, output: Any, targets: Tensor) -> Tensor:
        """Cross entropy of the classes on the last axis, averaged over everything else."""
        logits = output if isinstance(output, Tensor) else output.logits
        return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(data.target)


def digits(
    shape: str = "flat", *, samples: int = 64, scale: float = 1.0, offset: float = 0.0, keyword: str = ""
) -> Task:
    """The handwritten digits of scikit-learn (8 x 8 pixels), standardized, times ``scale`` plus ``offset``.

    Args:
        shape: "flat" (64 features), "image" (one channel), "rgb" (three equal ones) or "rows" (8 steps of 8).
        samples: of a batch.
        scale: factor on the inputs.
        offset: added to every entry.
        keyword: the argument of ``forward`` that takes them, "" for the first.

    Returns:
        The task.
    """

    def draw(generator: torch.Generator) -> Batch:
        x, y = _digits()
        picked = torch.randint(len(x), (samples,), generator=generator)
        x = x[picked] * scale + offset
        forms = {
            "flat": x.flatten(1),
            "image": x[:, None],
            "rgb": x[:, None].expand(-1, 3, -1, -1).contiguous(),
            "rows": x,
        }
        return ({keyword: forms[shape]} if keyword else forms[shape]), y[picked]

    return Task("digits", draw, math.log(10))


def radius(features: int = 4, *, samples: int = 128, scale: float = 1.0) -> Task:
    """Whether a Gaussian point lies outside the median sphere: the direction of the point says nothing.

    Args:
        features: dimensions.
        samples: of a batch.
        scale: factor on the inputs.

    Returns:
        The task.
    """
    median = (
        features * (1 - 2 / (9 * features)) ** 3
    )  # Wilson and Hilferty, within half a percent from two dimensions on

    def draw(generator: torch.Generator) -> Batch:
        x = torch.randn(samples, features, generator=generator)
        return x * scale, (x.square().sum(1) > median).long()

    return Task("inside or outside a sphere", draw, math.log(2))


def own_token(vocabulary: int, tokens: int, *, samples: int = 16, keyword: str = "") -> Task:
    """A fixed permutation of the vocabulary, to be applied to every token.

    Args:
        vocabulary: number of token ids.
        tokens: length of a sequence.
        samples: of a batch.
        keyword: the argument of ``forward`` that takes the ids, "" for the first.

    Returns:
        The task.
    """
    table = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(9))

    def draw(generator: torch.Generator) -> Batch:
        ids = torch.randint(vocabulary, (samples, tokens), generator=generator)
        return ({keyword: ids} if keyword else ids), table[ids]

    return Task("a permutation of the tokens", draw, math.log(vocabulary))


def topic(vocabulary: int, tokens: int, classes: int, *, samples: int = 32) -> Task:
    """Which of several lists of tokens most of a sequence comes from; asked at the last token.

    Args:
        vocabulary: number of token ids, a multiple of ``classes``.
        tokens: length of a sequence.
        classes: number of lists.
        samples: of a batch.

    Returns:
        The task, for models that return one vector a sequence.
    """

    def draw(generator: torch.Generator) -> Batch:
        y = torch.randint(classes, (samples,), generator=generator)
        ids = torch.randint(vocabulary, (samples, tokens), generator=generator)
        ours = torch.rand(samples, tokens, generator=generator) < 0.4
        return torch.where(ours, ids - ids % classes + y[:, None], ids), y

    return Task("the topic of a sequence", draw, math.log(classes))
