"""The init law of one tensor of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Law", "stated_law"]


@dataclass(frozen=True)
class Law:
    """Init law of one tensor of weights.

    Args:
        name: qualified parameter name ("" for a derived tensor).
        kind: "gaussian", "uniform", "truncated", "orthogonal", "delta_orthogonal", "constant", "low_rank" or
            "structured" (none of them).
        mean: mean of the entries; exactly 0 where a random law is consistent with it.
        std: standard deviation of the entries, 0 for a constant.
        second_moment: mean of the squared entries, constants included; rows of zeros (padding) left out.
        fan_in: number of input values that one output value sums.
        C_W: fan_in * second_moment (a bias has fan_in 1, so this is its C_b).
        random: the entries look drawn at random.
        trained: no init law explains the tensor.
        reason: one short sentence where kind is structured or low_rank or the tensor is trained, else "".
        stated: the user gave C_W or C_b.
        cutoff: largest distance from the mean that a uniform or truncated law allows.
        p_value: of the sharpest test against every init law, corrected for the number of tests.
    """

    name: str
    kind: str
    mean: float
    std: float
    second_moment: float
    fan_in: int
    C_W: float
    random: bool
    trained: bool
    reason: str = ""
    stated: bool = False
    cutoff: float = math.inf
    p_value: float = 1.0


def stated_law(law: Law, C_W: float | None = None) -> Law:
    """Replace the strength of a law by the user's own; a constant or unknown law becomes a centred Gaussian.

    Args:
        law: the law read from the tensor.
        C_W: fan-in times the variance (C_b for a bias); None keeps the law as it is.

    Returns:
        A law with `stated` set; its mean is 0.

    Raises:
        ValueError: C_W is negative or not finite.
    """
    if C_W is None:
        return law
    if not (math.isfinite(C_W) and C_W >= 0):
        where = f" for {law.name!r}" if law.name else ""
        raise ValueError(f"got C_W (or C_b) = {C_W}{where}: give a finite number that is not negative.")
    second = C_W / law.fan_in
    std = math.sqrt(second)
    keeps = law.kind in {"gaussian", "uniform", "truncated", "orthogonal", "delta_orthogonal"}
    kind = "constant" if C_W == 0 else law.kind if keeps else "gaussian"
    cutoff = law.cutoff * std / law.std if keeps and law.std > 0 else math.inf
    return Law(law.name, kind, 0.0, std, second, law.fan_in, C_W, C_W > 0, False, stated=True, cutoff=cutoff)
