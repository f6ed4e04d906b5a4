"""Words and numbers of messages."""

from __future__ import annotations

from leadline.check.evidence import Point
from leadline.plot.numbers import number
from leadline.program.errors import plain

__all__ = ["layers", "quoted", "times"]


def quoted(point: Point | None) -> str:
    """A layer's name between backticks; the operator where there is none.

    Args:
        point: a row.

    Returns:
        Printable text.
    """
    if point is None:
        return "the network"
    return f"`{plain(point.name, 60)}`"


def layers(count: int) -> str:
    """A number of layers.

    Args:
        count: the number.

    Returns:
        For example "1 layer" or "7 layers".
    """
    return f"{count} layer{'' if count == 1 else 's'}"


def times(factor: float) -> str:
    """A factor.

    Args:
        factor: any number.

    Returns:
        Two digits, for example "1.7" or "3.1e-09".
    """
    return number(factor, 2)
