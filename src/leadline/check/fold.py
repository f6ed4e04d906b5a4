"""Which rows of a long network to show: repeated blocks by their first and last, the others counted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["Hidden", "fold"]

_LEAST_REPEATS = 4
_MOST_PERIOD = 6
_SMALL = 3  # rows of a block up to which two are shown at each end


@dataclass(frozen=True)
class Hidden:
    """A run of rows that is not shown: numbers ``start`` to ``stop`` - 1, in ``blocks`` repeats of what is above."""

    start: int
    stop: int
    blocks: int
    first: str
    last: str


def fold(rows: Sequence[tuple[str, str]], keep: Collection[int] = ()) -> list[int | Hidden]:
    """Fold runs of blocks of one form.

    A block is the part of the network under one number in a layer's name (``h.3`` of ``h.3.mlp.fc``), or a few
    such parts together (a linear layer and its nonlinearity in a Sequential). Of a run the first and the last
    are shown, more of them where they are small.

    Args:
        rows: (layer, operator) of each row, in order.
        keep: numbers of rows whose blocks are shown in any case.

    Returns:
        Numbers of the rows to show, and what is hidden, in order.

    >>> rows = [(f"h.{i}.{name}", "linear") for i in range(9) for name in ("q", "k", "v", "o")]
    >>> [r if isinstance(r, int) else (r.start, r.stop, r.blocks) for r in fold(rows)]
    [0, 1, 2, 3, (4, 32, 7), 32, 33, 34, 35]
    """
    return _fold(rows, 0, len(rows), 0, frozenset(keep))


def _fold(
    rows: Sequence[tuple[str, str]], start: int, stop: int, level: int, keep: frozenset[int]
) -> list[int | Hidden]:
    groups = _groups(rows, start, stop, level)
    if not groups:
        return list(range(start, stop))
    out: list[int | Hidden] = []
    at = 0
    while at < len(groups):
        period, repeats = _repeats(rows, groups, at, level)
        if repeats >= _LEAST_REPEATS:
            out += _run([(groups[at + r * period][0], groups[at + (r + 1) * period - 1][1], groups[at + (r + 1) *
            period - 1][2])
                         for r in range(repeats)], keep)  # fmt: skip
            at += period * repeats
        else:
            group = groups[at]
            # Stages of a convolutional network differ, but the blocks within each may repeat.
            out += _fold(rows, group[0], group[1], level + 1, keep) if group[2] else list(range(group[0], group[1]))
            at += 1
    return out


def _run(blocks: list[tuple[int, int, str]], keep: frozenset[int]) -> list[int | Hidden]:
    """A run of blocks of one form: ends and kept ones as numbers, what lies between as hidden."""
    ends = 2 if blocks[0][1] - blocks[0][0] <= _SMALL else 1
    shown = {
        i
        for i, (first, stop, _) in enumerate(blocks)
        if i < ends or i >= len(blocks) - ends or keep.intersection(range(first, stop))
    }
    out: list[int | Hidden] = []
    i = 0
    while i < len(blocks):
        if i in shown:
            out += range(blocks[i][0], blocks[i][1])
            i += 1
            continue
        begin = i
        while i not in shown:
            i += 1
        out.append(Hidden(blocks[begin][0], blocks[i - 1][1], i - begin, blocks[begin][2], blocks[i - 1][2]))
    return out


def _block(layer: str, level: int) -> str:
    """The name up to and with its number of this level, "" where it has none."""
    parts = layer.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[level] + 1]) if level < len(numbers) else ""


def _groups(rows: Sequence[tuple[str, str]], start: int, stop: int, level: int) -> list[tuple[int, int, str]]:
    """Consecutive rows of one block: (first, one past the last, name)."""
    groups: list[tuple[int, int, str]] = []
    for i in range(start, stop):
        name = _block(rows[i][0], level)
        if groups and name and groups[-1][2] == name:
            groups[-1] = (groups[-1][0], i + 1, name)
        else:
            groups.append((i, i + 1, name))
    return groups if any(g[2] for g in groups) else []


def _form(rows: Sequence[tuple[str, str]], group: tuple[int, int, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    prefix = group[2].rpartition(".")[0]
    return prefix, tuple((rows[i][0][len(group[2]) :], rows[i][1]) for i in range(group[0], group[1]))


def _repeats(
    rows: Sequence[tuple[str, str]], groups: Sequence[tuple[int, int, str]], at: int, level: int
) -> tuple[int, int]:
    """Shortest period with the most repeats of a form from this group on."""
    if not groups[at][2]:
        return 1, 1
    best = (1, 1)
    for period in range(1, _MOST_PERIOD + 1):
        pattern = [_form(rows, g) for g in groups[at : at + period] if g[2]]
        if len(pattern) < period:
            break
        count = 1
        while True:
            following = groups[at + count * period : at + (count + 1) * period]
            if len(following) < period or any(not g[2] for g in following):
                break
            if [_form(rows, g) for g in following] != pattern:
                break
            count += 1
        if count >= _LEAST_REPEATS and count * period > best[0] * best[1]:
            best = (period, count)
    return best
