"""Whether a network is a trained one, from the laws of its tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leadline.program.law import Law

__all__ = ["TRAINED_LEVEL", "TrainedVerdict", "explains"]

TRAINED_LEVEL = 1e-7
"""A tensor is trained when its corrected p-value is below this: the false-positive rate a tensor."""


@dataclass(frozen=True)
class TrainedVerdict:
    """Whether a whole network is a trained one.

    Args:
        trained: weights that no init law explains were found.
        tensors: names of these tensors, the surest first.
        tested: number of tensors with entries that look continuous and more than one axis.
        p_value: chance of so extreme a finding in a freshly drawn network (an upper bound).
        reason: one sentence, or "".
    """

    trained: bool
    tensors: tuple[str, ...]
    tested: int
    p_value: float
    reason: str


def explains(laws: Sequence[Law]) -> TrainedVerdict:
    """Say whether the weights of a network are more than init laws can explain.

    Trained when any tensor is (level 1e-7 each), or when far more tensors than one in a thousand have
    p < 1e-3 (binomial tail below 1e-7; copies, as the layers of `nn.TransformerEncoder`, count once).

    Args:
        laws: laws of all parameters of the network.

    Returns:
        The verdict. False positives: at most 1e-7 times (tensors + 1), nominally. A lightly trained network
        can be indistinguishable from a fresh one, and then is not called trained.
    """
    distinct = {(law.mean, law.second_moment, law.p_value): law for law in laws if law.random or law.trained}
    tested = list(distinct.values())
    if not tested:
        return TrainedVerdict(False, (), 0, 1.0, "")
    odd = sorted((law for law in laws if law.trained), key=lambda law: law.p_value)
    p_value = min(1.0, len(tested) * min(law.p_value for law in tested))
    if odd:
        first = f"first {odd[0].name!r}: {odd[0].reason}"
        reason = f"{len(odd)} of {len(laws)} tensors are explained by no init law, {first}"
        return TrainedVerdict(True, tuple(law.name for law in odd), len(tested), p_value, reason)
    low = sorted((law for law in tested if law.p_value < 1e-3), key=lambda law: law.p_value)
    together = _binomial_tail(len(low), len(tested), 1e-3)
    p_value = min(1.0, 2 * min(p_value, together))
    if together < TRAINED_LEVEL:
        reason = f"{len(low)} of {len(tested)} tensors are each unlikely under any init law (p < 0.001)"
        return TrainedVerdict(True, tuple(law.name for law in low), len(tested), p_value, reason)
    return TrainedVerdict(False, (), len(tested), p_value, "")


def _binomial_tail(hits: int, trials: int, chance: float) -> float:
    """Probability of at least so many hits, by the union bound over subsets."""
    return min(1.0, math.comb(trials, hits) * chance**hits)
