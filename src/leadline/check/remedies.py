"""What to do about a gain that is off: the weights, or a norm."""

from __future__ import annotations

import math

from leadline.check.evidence import Point
from leadline.check.wording import quoted, times

__all__ = ["change_gain"]


def change_gain(start: Point, rate: float) -> str:
    r"""Advice to undo a factor a layer on the kernel.

    The weights' strength is C_W = fan-in times their variance, and the kernel is proportional to it where the
    nonlinearity is nearly linear or homogeneous.

    Args:
        start: first layer whose gain is off.
        rate: factor on the kernel a layer.

    Returns:
        One sentence.
    """
    way = "raise" if rate < 1 else "lower"
    law = start.weight
    if law is not None and law.C_W > 0 and rate > 0:
        target = law.C_W / rate
        if rate > 0.1:
            std = math.sqrt(target / law.fan_in)
            return (
                f"{way.capitalize()} the variance of these weights from C_W = {times(law.C_W)} to about "
                f"{times(target)} (standard deviation {times(std)} at {quoted(start)}), or put a normalization "
                "before each nonlinearity."
            )
    return (
        f"{way.capitalize()} the weights of these layers (the kernel wants a factor {times(1 / max(rate, 1e-300))} a "
        "layer), centre the nonlinearity, or put a normalization before it."
    )
