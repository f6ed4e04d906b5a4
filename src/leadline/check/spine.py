"""The steps that every path from the input to the output passes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["spine_of"]


def spine_of(order: Sequence[str], inputs: Mapping[str, Sequence[str]], output: str) -> frozenset[str]:
    """Steps without which the output would not depend on what comes first.

    In an order of execution, a step is one of them exactly if no value made before it is used after it. Later
    sources, as a table of positions that is added, count as side inputs.

    Args:
        order: steps in order of execution.
        inputs: step -> steps that feed it; other names in it are ignored.
        output: the last step.

    Returns:
        Names of the steps.

    >>> sorted(spine_of("abcd", {"b": "a", "c": "b", "d": "bc"}, "d"))
    ['a', 'b', 'd']
    """
    place = {name: i for i, name in enumerate(order)}
    live = {output}
    for name in reversed(order):
        if name in live:
            live.update(i for i in inputs.get(name, ()) if i in place)
    last_use: dict[str, int] = {}
    for user in order:
        if user in live:
            last_use.update({name: place[user] for name in inputs.get(user, ()) if name in live})
    found, reach = set(), -1
    for name in order:
        if name in live:
            if reach <= place[name]:
                found.add(name)
            reach = max(reach, last_use.get(name, place[name]))
    return frozenset(found)
